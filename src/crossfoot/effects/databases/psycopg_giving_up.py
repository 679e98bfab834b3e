"""Giving up a connection of psycopg's that something a handler left running still uses.

The server learns of a line that was cut when it next writes to it, which may be hours later for a statement that waits or computes, and
until then it holds what the transaction has locked: the message's own operation, for one. So it is told.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

import anyio
import psycopg

CANCEL_SECONDS = 5.0
"""How long the server may take to hear of it."""


def cancel(raw: Any) -> None:
    """Have the server cancel what runs. Where it cannot be asked, its own bounds remain."""
    with suppress(psycopg.Error, OSError):
        raw.cancel_safe(timeout=CANCEL_SECONDS)


async def acancel(raw: Any) -> None:
    """The asynchronous twin."""
    with suppress(psycopg.Error, OSError):
        await raw.cancel_safe(timeout=CANCEL_SECONDS)


def cut(raw: Any) -> None:
    """Cut the line, which has the server undo what is open, and whoever uses it is told."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(raw.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def give_up(raw: Any) -> None:
    """Both, for a connection that somebody else closes afterwards, who must not do so beneath a thread that is at it."""
    cancel(raw)
    cut(raw)
    if raw.lock.acquire(timeout=CANCEL_SECONDS):
        raw.lock.release()


async def agive_up(raw: Any) -> None:
    """The asynchronous twin."""
    await acancel(raw)
    cut(raw)
    with anyio.move_on_after(CANCEL_SECONDS, shield=True):
        async with raw.lock:
            pass
