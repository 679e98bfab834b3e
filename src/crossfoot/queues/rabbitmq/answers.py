"""What an answer of the broker's proves: done, refused, or nothing at all."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, TypeVar

from crossfoot.errors import QueueUnavailable, missing_extra

T = TypeVar("T")


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
    """The client's package, or the remedy when it is not there.

    Its own log is turned off, unless somebody has set a level for it: what it warns of is told here, in other words and once, and
    its details hold what messages carry.
    """
    try:
        import aiormq
        import aiormq.connection
        import aiormq.exceptions
    except ImportError as error:
        raise missing_extra("RabbitMQ", "rabbitmq") from error
    log = logging.getLogger("aiormq")
    if log.level == logging.NOTSET:
        log.setLevel(logging.CRITICAL)
    return aiormq


def answer_of(request: asyncio.Future[T], label: str) -> T:
    """What a request came to that is over: what the client raised is told as what it proves.

    Raises:
        Rejected, NoAnswer: as their names say.
        QueueUnavailable: nothing was sent.
    """
    errors = import_aiormq().exceptions
    codes = {
        errors.ChannelAccessRefused: 403, errors.ChannelNotFoundEntity: 404, errors.ChannelLockedResource: 405,
        errors.ChannelPreconditionFailed: 406,
    }  # fmt: skip
    if request.cancelled():  # by the client, which does so when it loses the connection
        raise NoAnswer("the connection was closed before an answer came")
    error = request.exception()
    if error is None:
        return request.result()
    if isinstance(error, errors.ChannelInvalidStateError):
        raise QueueUnavailable(f"queue {label}: the connection was lost, nothing was sent") from error
    if (code := codes.get(type(error))) is not None:
        raise Rejected(code, str(error)) from error
    if is_of_connection(error):
        raise NoAnswer(f"the connection was lost before an answer came: {_text(error)}") from error
    raise error


def is_of_connection(error: BaseException) -> bool:
    """Whether the client raised it over a connection, which it does with many an exception, nameless ones among them."""
    errors = import_aiormq().exceptions
    nameless = type(error) is Exception and isinstance(error.__cause__, asyncio.CancelledError)
    return nameless or isinstance(error, (errors.AMQPError, OSError, RuntimeError, EOFError, StopAsyncIteration))


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
