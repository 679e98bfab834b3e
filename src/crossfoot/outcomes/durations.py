"""Spans of time as people write them in a program: `5m`, `90s`, `1.5h`, seconds as a number, or a `timedelta`."""

from __future__ import annotations

import re
from datetime import timedelta

from crossfoot.clock import SECOND, Micros, micros
from crossfoot.errors import UsageError

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
"""Seconds of each."""

LONGEST = 100 * 366 * 86_400 * SECOND
"""A century."""

_WRITTEN = re.compile(r"(?P<count>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|min|m|h|d)")


def duration(stated: str | float | timedelta, *, what: str) -> Micros:
    """A span in microseconds.

    Args:
        what: what it is for, in the error.

    Raises:
        UsageError: it cannot be read, is negative, or longer than a century.
    """
    seconds = _seconds(stated)
    if seconds is None or not 0 <= seconds * SECOND <= LONGEST:
        raise UsageError(f"{what} = {stated!r}: write a number and its unit ({', '.join(UNITS)}), as in '5m' or '90s'")
    return micros(seconds)


def written(span: Micros) -> str:
    """A span as `duration` reads it, in the largest unit of which it is a whole number."""
    for unit in ("d", "h", "m", "s"):
        size = round(UNITS[unit] * SECOND)
        if span and span % size == 0:
            return f"{span // size}{unit}"
    return f"{span / 1_000:g}ms" if span else "0s"


def _seconds(stated: object) -> float | None:
    if isinstance(stated, timedelta):
        return stated.total_seconds()
    if isinstance(stated, str):
        found = _WRITTEN.fullmatch(stated.strip())
        return float(found["count"]) * UNITS[found["unit"]] if found else None
    return float(stated) if isinstance(stated, (int, float)) and not isinstance(stated, bool) else None
