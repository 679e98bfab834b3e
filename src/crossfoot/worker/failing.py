"""What a failed delivery leads to: pure judgement, carried out by `settling`."""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from crossfoot.books.cause import Cause, cause_of
from crossfoot.books.entry import Entry, Kind
from crossfoot.clock import Micros, micros
from crossfoot.errors import CommitInDoubt, HandlerBusy, LeaseLost, MessageExpired, Rejected
from crossfoot.worker.held import Held
from crossfoot.worker.retry import LONGEST_UNKNOWN, Retry

_json = msgspec.json.Encoder(enc_hook=str)


class Step(Enum):
    """What is to be done with the queue's copy, once the failure is booked."""

    NOTHING = "nothing"
    """Somebody else holds it."""
    RELEASE = "hand back"
    BURY = "dead-letter"
    ACK = "ack"


class Failure(msgspec.Struct, frozen=True):
    """One failed delivery, judged.

    Attributes:
        pause: seconds until it is tried again.
    """

    held: Held
    entry: Entry
    cause: Cause | None
    step: Step
    pause: float = 0.0

    @property
    def operation(self) -> str | None:
        return self.held.work.operation if self.held.work is not None else None

    @property
    def reason(self) -> str:
        """What the dead letter is labelled with."""
        return f"{self.cause.title} [{self.cause.fingerprint}]" if self.cause is not None else ""

    def dead(self, now: Micros) -> Entry:
        """The entry that it lies in the dead letters."""
        return entry_of(self.held, Kind.DEAD_LETTERED, now, cause=self.cause)


def judge(held: Held, error: Exception, retry: Retry, now: Micros) -> Failure:
    """Decide what follows from a failure."""
    if isinstance(error, MessageExpired):
        return Failure(held, entry_of(held, Kind.EXPIRED, now, details={"reason": str(error)}), None, Step.ACK)
    cause = cause_of(error, held.handler.name if held.handler is not None else "")
    if isinstance(error, LeaseLost):
        kind = Kind.FAILED if error.counts else Kind.RELEASED
        return Failure(held, entry_of(held, kind, now, due=now, cause=cause), cause, Step.NOTHING)
    last = retry.is_last(held.attempt)
    if retry.waits(error, held.waited) and not last:
        pause = min(retry.pause(held.attempt), LONGEST_UNKNOWN) + _asked_for(error)
        due = now + micros(pause)
        return Failure(held, entry_of(held, Kind.RELEASED, now, due=due, cause=cause), cause, Step.RELEASE, pause)
    if (retry.gives_up(held.tried, error) or last) and not isinstance(error, CommitInDoubt):
        return Failure(held, entry_of(held, Kind.FAILED, now, due=now, cause=cause), cause, Step.BURY)
    pause = retry.pause(held.tried) + _asked_for(error)
    kind = Kind.COMMIT_IN_DOUBT if isinstance(error, CommitInDoubt) else Kind.FAILED
    return Failure(held, entry_of(held, kind, now, due=now + micros(pause), cause=cause), cause, Step.RELEASE, pause)


def _asked_for(error: Exception) -> float:
    """Seconds that a refusal asks one to wait for."""
    hint = error.retry_after if isinstance(error, (Rejected, HandlerBusy)) else None
    return min(hint or 0.0, LONGEST_UNKNOWN)


def entry_of(
    held: Held, kind: Kind, now: Micros, *, due: Micros | None = None, cause: Cause | None = None,
    details: dict[str, Any] | None = None,
) -> Entry:  # fmt: skip
    """An entry about a delivery in hand."""
    hold = held.hold
    assert hold is not None
    if cause is not None:
        raised = {"raised": cause.raised} if cause.raised else {}
        details = {"error": cause.kind, "text": cause.text, **raised, **(details or {})}
    return Entry(
        message=hold.key, kind=kind, at=now, attempt=hold.attempt, delivery=hold.delivery, due=due, worker=hold.worker,
        cause=cause.fingerprint if cause is not None else None,
        details=_json.encode(details).decode() if details else None,
    )  # fmt: skip
