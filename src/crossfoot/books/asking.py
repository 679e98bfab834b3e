"""A question in the user's own SQL: it reads only, and has a bound. What it found, and why it could not be answered.

How it is asked is the place's (`in_sqlite`, `in_postgres`): over a connection of its own, so that whatever it does ends with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

MOST_ROWS = 100_000
"""Rows that are counted; a question with more answers than that is told to have at least so many."""

MOST_KEPT = 1_000
"""Rows that are named."""


TOO_LONG = "it took longer than it may, and was cut short: raise its timeout, or give its tables an index"


class Found(msgspec.Struct, frozen=True):
    """What a question found.

    Attributes:
        columns: the names of its columns.
        rows: the first of its rows.
        count: how many rows there are; `MOST_ROWS` stands for more.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    count: int


class NotAnswered(Exception):
    """The question could not be answered: it is wrong, would have written, or took too long. The text says which."""


def gathered(columns: Sequence[str], rows: Iterable[Sequence[Any]], until: float) -> Found:
    """The rows as they come, the first of them kept.

    Args:
        until: when they must have come, by `time.monotonic`.

    Raises:
        NotAnswered: they have not.
    """
    kept: list[tuple[Any, ...]] = []
    count = 0
    for row in rows:
        count += 1
        if time.monotonic() > until:
            raise NotAnswered(TOO_LONG)
        if len(kept) < MOST_KEPT:
            kept.append(tuple(row))
        if count >= MOST_ROWS:
            break
    return Found(tuple(columns), kept, count)
