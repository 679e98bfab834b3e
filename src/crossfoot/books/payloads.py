"""What the book keeps of what messages carry: all of it, nothing, or what the service makes of it.

A service that may not keep personal data in the clear gives `Crossfoot(..., payloads=...)` an object that redacts, or that encrypts
fields or the whole. It decides about the book only: what travels (the outbox, a queue, a parked message) is the message itself, for a
handler needs it.
"""

from __future__ import annotations

import logging
from typing import Protocol, runtime_checkable

logger = logging.getLogger("crossfoot.book")


@runtime_checkable
class Payloads(Protocol):
    """Transforms what is stored. Called in the worker's loop and in handlers' threads: it is to be quick, and to keep no state."""

    def store(self, body: bytes, *, type: str, subject: str | None) -> bytes | None:
        """What the book keeps of an encoded message (a CloudEvents event in JSON); `None` for nothing.

        What is still an event can be shown and be sent again as it is, without what was taken out of it. What is none (because it was
        encrypted as a whole) can only be restored by the service.
        """
        ...

    def restore(self, stored: bytes, *, type: str, subject: str | None) -> bytes | None:
        """The message as it was, so that it can be sent again; `None` where that cannot be had from what was stored."""
        ...


Keeping = bool | Payloads
"""Whether payloads are kept, or how."""


def kept(keeping: Keeping, body: bytes, *, type: str, subject: str | None) -> bytes | None:
    """What the book keeps of an encoded message.

    A `store` that raises, or returns what is neither bytes nor nothing, keeps nothing: what it was to take
    out must not be stored, and the message must not be lost for it.
    """
    if isinstance(keeping, bool):
        return body if keeping else None
    try:
        stored: object = keeping.store(body, type=type, subject=subject)
        if stored is None or isinstance(stored, bytes):
            return stored
        raise TypeError
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything, and its text may hold the payload
        logger.error(
            "payloads.store raised %s for a message of type %s: its payload is not kept", error.__class__.__name__, type
        )
        return None


def restored(keeping: Keeping, stored: bytes | None, *, type: str, subject: str | None) -> bytes | None:
    """The message as it was, for sending it again; `None` where the book does not keep it, or not so that it can be had."""
    if stored is None or isinstance(keeping, bool):
        return stored
    return keeping.restore(stored, type=type, subject=subject)
