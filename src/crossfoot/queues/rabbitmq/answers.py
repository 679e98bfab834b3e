"""What an answer of the broker's proves: done, refused, or nothing at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from crossfoot.errors import QueueUnavailable, UsageError


class NoAnswer(Exception):
    """The request was sent, or may have been, and nobody knows what became of it."""


class Rejected(Exception):
    """The broker refused the request, and closed the channel that it came by."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        """AMQP's reply code, like HTTP's: 403, 404, 405 or 406."""
        self.text = text
        super().__init__(text)


NOT_FOUND, REFUSED, UNFIT = 404, 403, 406


def import_aiormq() -> Any:
    """The client's package, or the remedy when it is not there."""
    try:
        import aiormq
        import aiormq.connection
        import aiormq.exceptions
    except ImportError as error:
        raise UsageError("RabbitMQ needs the extra `rabbitmq`: pip install 'crossfoot[rabbitmq]'") from error
    return aiormq


@contextmanager
def read_as_answers(label: str) -> Iterator[None]:
    """Within: what the client raises is told as what it proves.

    Raises:
        Rejected, NoAnswer: as their names say.
        QueueUnavailable: nothing was sent.
    """
    errors = import_aiormq().exceptions
    codes = {
        errors.ChannelAccessRefused: 403, errors.ChannelNotFoundEntity: 404, errors.ChannelLockedResource: 405,
        errors.ChannelPreconditionFailed: 406,
    }  # fmt: skip
    try:
        yield
    except errors.ChannelInvalidStateError as error:
        raise QueueUnavailable(f"queue {label}: the connection was lost, nothing was sent") from error
    except errors.AMQPError as error:
        code = codes.get(type(error))
        if code is not None:
            raise Rejected(code, str(error)) from error
        raise NoAnswer(f"the connection was lost before an answer came: {_text(error)}") from error
    except (OSError, RuntimeError) as error:
        raise NoAnswer(f"the connection was lost before an answer came: {_text(error)}") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise NoAnswer("the connection was closed before an answer came") from error  # the client cancels who waits


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
