"""What a delivery's span is told of its end."""

from __future__ import annotations

from crossfoot.books.entry import Kind
from crossfoot.books.fate import FATE_OF_LATEST, FATE_OF_PROOF, Fate
from crossfoot.tracing import words
from crossfoot.tracing.words import Event
from crossfoot.worker.failing import Failure, Step
from crossfoot.worker.held import Held

EVENTS = {Kind.SUPPRESSED: Event.DUPLICATE, Kind.SUPERSEDED: Event.SUPERSEDED, Kind.PARKED: Event.PARKED}


def fate_by(kind: Kind) -> str:
    """The fate that a fact gives a message, as long as nothing outranks it."""
    return (FATE_OF_PROOF.get(kind) or FATE_OF_LATEST[kind]).label


def tell_end(held: Held, end: Kind | Exception | None) -> None:
    """A delivery was closed, or is handed back unhandled. Failures are judged first."""
    trace = held.trace
    if trace is None:
        return
    if isinstance(end, Kind):
        before = held.work.before if held.work is not None else None  # a delivery too many changes no fate
        trace.close(fate_by(before or end), EVENTS.get(end))
    elif end is None:
        trace.close(Fate.QUEUED.label, Event.HANDED_BACK)


def tell_failure(failure: Failure, *, is_dead: bool) -> None:
    """A delivery failed, and what follows from that was done.

    Args:
        is_dead: whether it lies in the dead letters; asked to move it there, a queue may not have answered.
    """
    trace, cause = failure.held.trace, failure.cause
    if trace is None:
        return
    kind = cause.kind if cause is not None else failure.entry.kind.label
    told = cause.title if cause is not None else ""
    facts = {words.CAUSE: cause.fingerprint} if cause is not None else {}
    if is_dead:
        trace.failed(Fate.DEAD.label, kind, told, event=Event.DEAD_LETTER, facts=facts)
    elif failure.step is Step.RELEASE:
        trace.failed(
            fate_by(failure.entry.kind), kind, told, event=Event.RETRY, facts=facts | {words.PAUSE: failure.pause}
        )
    else:
        trace.failed(fate_by(failure.entry.kind), kind, told)
