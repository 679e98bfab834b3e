"""How a request or a branch of it ended: exactly one fate each, and what an error means to an HTTP client. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from crossfoot.errors import FlowError, InDoubt, Rejected


class Fate(StrEnum):
    """One of these, once."""

    FULL = "full"
    DEGRADED = "degraded"
    """Answered by something else, or without a part."""
    SHED = "shed"
    """Refused before it was begun."""
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    """Nobody wanted it any more."""
    FAILED = "failed"
    IN_DOUBT = "in doubt"
    """It may have had its effect; nobody knows yet."""


ANSWERED = frozenset({Fate.FULL, Fate.DEGRADED})

_WORST_FIRST = (Fate.IN_DOUBT, Fate.FAILED, Fate.EXPIRED, Fate.SHED, Fate.CANCELLED)


def fate_of(error: BaseException | None, *, doubtful: bool = False) -> Fate:
    """The fate of work that ended so.

    Args:
        error: how it ended; the worst of a group counts.
        doubtful: it was begun and is to have an effect: then no answer is neither success nor failure.
    """
    if error is None:
        return Fate.FULL
    fates = {_fate_of_one(one, doubtful) for one in leaves(error)}
    return next(fate for fate in _WORST_FIRST if fate in fates)


def _fate_of_one(error: BaseException, doubtful: bool) -> Fate:
    if isinstance(error, InDoubt):
        return Fate.IN_DOUBT
    if isinstance(error, Rejected):
        return Fate.SHED
    cancelled = not isinstance(error, Exception)
    if doubtful and (cancelled or isinstance(error, (TimeoutError, ConnectionError))):
        return Fate.IN_DOUBT
    if isinstance(error, TimeoutError):
        return Fate.EXPIRED
    return Fate.CANCELLED if cancelled else Fate.FAILED


def http_meaning(error: BaseException) -> tuple[int, float | None]:
    """The status an HTTP client is to be answered with, and after how many seconds it may ask again, if it may.

    Groups are looked into. Any error that is not one of bounded work is 500, whatever else is in the group, for it must not hide;
    otherwise the first of 500, 504, 503, 429 and 400 that occurs counts, and the longest of the pauses.
    """
    found = list(leaves(error))
    if any(not isinstance(one, FlowError) for one in found):
        return 500, None
    statuses = {one.status for one in found if isinstance(one, FlowError)}
    pauses = [one.retry_after for one in found if isinstance(one, FlowError) and one.retry_after is not None]
    status = next((one for one in (500, 504, 503, 429, 400) if one in statuses), 500)
    return status, max(pauses, default=None) if status in (429, 503) else None


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors of a group and of the groups in it, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    else:
        yield error
