"""A delivery as the work on it sees it: what the book calls it, and what its worker allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from anyio import CancelScope

from crossfoot.books.payloads import Keeping
from crossfoot.tracing.delivering import Trace

Statement = tuple[str, tuple[Any, ...]]


class Hold(msgspec.Struct, kw_only=True):
    """A delivery as the book knows it."""

    key: int
    """The message's key in the book."""
    delivery: int
    attempt: int
    worker: int
    queue: str
    body: bytes
    partition: str | None = None
    payloads: Keeping = True
    """Whether the book keeps what messages carry, or how."""
    ack: Statement | None = None
    """The ack as a statement, where the queue lives in the same database."""
    begin: Callable[[], None] | None = None
    """Told when the handler is about to begin: its deadline runs from here."""
    rest: Callable[[], None] | None = None
    """Told when it is to begin anew, among others whose transaction was rolled back: no deadline runs until it does."""
    running: CancelScope | None = None
    """While an asynchronous handler runs for it: what ends that one handler, whatever else is in its transaction."""
    until: float | None = None
    """When the message is of no use any more, by the monotonic clock."""
    trace: Trace | None = None
    """What follows it for OpenTelemetry, where somebody does."""
    fence: Callable[[], None] | None = None
    """Raises when this delivery must not commit any more (`LeaseLost`, `DeadlineExceeded`)."""
