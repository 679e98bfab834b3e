"""What is certain of a publish in several requests, when credentials are gone before the last of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.queue import Accepted, Outgoing, Refused
from crossfoot.queues.sqs.messages import Entry, Rules, entry_of
from crossfoot.queues.sqs.sending import Sender

RULES = Rules(queue="billing", fifo=False, max_bytes=1_048_576)


class Service:
    """Answers so many requests, and then there are no credentials."""

    def __init__(self, answers: int) -> None:
        self._left = answers

    async def change(self, call: Callable[[Any], Any]) -> Any:
        if not self._left:
            raise UsageError("no credentials for queue billing")
        self._left -= 1
        return call(self)

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> Any:
        return {"Successful": [{"Id": one["Id"], "MessageId": "m"} for one in Entries], "Failed": []}


def entries(count: int) -> list[Entry]:
    made = [entry_of(Outgoing(key=f"tests|{number}", body=b"{}"), RULES) for number in range(count)]
    return [one for one in made if isinstance(one, Entry)]


@pytest.mark.anyio
async def test_what_was_sent_before_is_told_and_the_rest_may_be_tried_again() -> None:
    client: Any = Service(answers=1)
    answers = await Sender(client, "url", RULES).send(entries(20))

    kinds = [type(answer) for answer in answers]
    assert (kinds.count(Accepted), kinds.count(Refused)) == (10, 10)
    assert not any(answer.permanent for answer in answers if isinstance(answer, Refused))


@pytest.mark.anyio
async def test_where_nothing_was_sent_the_queue_is_unavailable_and_may_come_back() -> None:
    client: Any = Service(answers=0)
    with pytest.raises(QueueUnavailable, match="no credentials"):
        await Sender(client, "url", RULES).send(entries(20))
