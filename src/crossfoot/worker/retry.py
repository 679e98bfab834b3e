"""When a failed delivery is tried again, and when no more."""

from __future__ import annotations

import random

import msgspec

from crossfoot.errors import (
    EnvelopeInvalid,
    HandlerBusy,
    IdentityTaken,
    PayloadInvalid,
    UnknownType,
    UsageError,
    WornOut,
)

POISON = (EnvelopeInvalid, IdentityTaken, PayloadInvalid, WornOut)
"""Failures that no later delivery can mend: the bytes themselves are wrong, or have taken down enough workers."""

LONGEST_UNKNOWN = 30.0
"""Seconds a message that nobody knows is put off at most: while a new version is rolled out, somebody may know it soon."""


LONGEST = 366 * 86_400.0
"""Seconds of any wait: more is a slip of the pen."""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Exponential backoff with full jitter (Brooker, *Exponential Backoff and Jitter*, AWS Architecture Blog, 2015).

    Attributes:
        attempts: deliveries before a message is dead-lettered; those that were handed back unbegun do not count.
        most: deliveries of any kind after which the queue itself moves it, and says no cause; `None` for never.
        deaths: workers that may die with a message, once it is suspected: `attempts` of its deliveries have no end.
        base: seconds the first pause may last.
        cap: seconds any pause may last.
        unknown_for: seconds for which a message of a type that no handler takes is handed back without counting as tried: while a
            new version is rolled out, it may come to the old one again and again.
    """

    attempts: int = 5
    most: int | None = None
    deaths: int = 5
    base: float = 0.5
    cap: float = 300.0
    unknown_for: float = 600.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise UsageError(f"Retry(attempts={self.attempts}): a message is delivered at least once")
        if not 0 < self.base <= self.cap <= LONGEST:
            raise UsageError(
                f"Retry(base={self.base}, cap={self.cap}): need 0 < base <= cap, in seconds, and a year at most"
            )
        if not 0 <= self.unknown_for <= LONGEST:
            raise UsageError(f"Retry(unknown_for={self.unknown_for}): need seconds, 0 or more, and a year at most")

    def pause(self, attempt: int, chance: float | None = None) -> float:
        """Seconds until the next delivery after `attempt` failed.

        Args:
            attempt: which delivery failed, 1 for the first.
            chance: the jitter, from 0 to 1; random unless given.
        """
        longest = min(self.cap, self.base * 2 ** min(attempt - 1, 40))
        return float(longest * (random.random() if chance is None else chance))

    def waits(self, error: BaseException, waited: float) -> bool:
        """Whether a message that was first received `waited` seconds ago is handed back untried."""
        return isinstance(error, HandlerBusy) or (isinstance(error, UnknownType) and waited < self.unknown_for)

    def suspects(self, unfinished: int) -> bool:
        """Whether a message is suspected that has so many deliveries without an end."""
        return unfinished >= self.attempts

    def worn_out(self, deaths: int, failed: int = 0) -> bool:
        """Whether a message should not be begun any more.

        Args:
            deaths: workers that died with it, and with no other that is suspected.
            failed: deliveries that failed. Most are its last before there are so many; lost leases and doubtful commits are not.
        """
        return deaths >= self.deaths or failed >= self.attempts + self.deaths

    def is_last(self, attempt: int) -> bool:
        """Whether the queue would not deliver again: then the message is buried here, with its cause."""
        return self.most is not None and attempt >= self.most

    def gives_up(self, attempt: int, error: BaseException) -> bool:
        """Whether `attempt` was the last."""
        return isinstance(error, POISON) or attempt >= self.attempts
