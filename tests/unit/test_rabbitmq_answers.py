"""What the client of RabbitMQ raises is told as what it proves."""

from __future__ import annotations

import asyncio

import pytest

from crossfoot.queues.rabbitmq.answers import NoAnswer, answer_of, is_of_connection


def nameless() -> Exception:
    """What the client raises of a request that it gave up with its connection."""
    error = Exception()
    error.__cause__ = asyncio.CancelledError()
    return error


LOST = [nameless(), StopAsyncIteration(), ConnectionResetError(), EOFError(), RuntimeError("closed")]


@pytest.mark.anyio
@pytest.mark.parametrize("error", LOST[2:] + LOST[:1], ids=repr)
async def test_a_lost_connection_is_no_answer(error: Exception) -> None:
    request = asyncio.get_running_loop().create_future()
    request.set_exception(error)
    with pytest.raises(NoAnswer, match="the connection was lost"):
        answer_of(request, "billing")


@pytest.mark.parametrize("error", LOST, ids=repr)
def test_whatever_it_is_called(error: Exception) -> None:
    assert is_of_connection(error)


@pytest.mark.parametrize("error", [Exception("of somebody else"), TypeError("a fault of ours"), KeyError()], ids=repr)
def test_what_is_not_of_a_connection_is_a_fault_and_stays_one(error: Exception) -> None:
    assert not is_of_connection(error)
