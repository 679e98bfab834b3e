"""The fate in words: one or two sentences that give the reason, for each fate."""

from __future__ import annotations

from collections.abc import Callable

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.identity import CAME_TO_NOTHING
from crossfoot.books.queries import Fact
from crossfoot.clock import Micros
from crossfoot.recover.facts import Facts, details
from crossfoot.recover.happening import nth
from crossfoot.recover.phrases import clock_time, ordinal, plural, span, worker_name
from crossfoot.recover.timeline import deliveries, proof

Wording = Callable[[Facts, Fact, Micros], str]


def reason(facts: Facts, fate: Fate | None, now: Micros) -> str:
    """Why the message has this fate, with who, when and how often."""
    latest = facts.last()
    if fate is None or latest is None:
        return "The book has a row for it, and no entry says what became of it: it is unaccounted."
    text = WORDINGS[fate](facts, latest, now)
    if fate in CAME_TO_NOTHING and (again := facts.sent_again) is not None:
        text += f" It was sent again {span(now - again.at)} ago, and no worker has received that copy yet."
    return text


def _settled(facts: Facts, latest: Fact, now: Micros) -> str:
    entry = facts.last(Kind.COMMITTED) or latest
    evidence = proof(details(entry))
    text = f"Committed by {worker_name(facts.worker(entry))} on its {_nth(facts, entry)}{_after(facts, entry)}."
    text += f" Proof: {evidence}." if evidence else ""
    return text + _ack(facts)


def _noop(facts: Facts, latest: Fact, now: Micros) -> str:
    entry = facts.last(Kind.NOOP) or latest
    why = details(entry).get("reason") or "no reason is booked"
    return f"The handler said that there was nothing to do: {why}. {_by(facts, entry, now)}." + _ack(facts)


def _superseded(facts: Facts, latest: Fact, now: Micros) -> str:
    row = facts.row
    what = f" (its own sequence is {row.sequence})" if row.sequence is not None else ""
    entry = facts.last(Kind.SUPERSEDED) or latest
    return (
        f"A later event of {row.subject or 'its subject'} had been applied before it{what}. {_by(facts, entry, now)}."
    )


def _duplicate(facts: Facts, latest: Fact, now: Micros) -> str:
    operation, owner = facts.operation, facts.owner
    if operation is None:
        return "Its operation had been completed by another message."
    when = f" at {clock_time(operation.at, now)}"
    by = f"message {owner.row.id} ({owner.row.type})" if owner is not None else "another delivery of itself"
    return f"Its operation {operation.key} had been completed by {by}{when}: nothing was done twice." + _ack(facts)


def _dead(facts: Facts, latest: Fact, now: Micros) -> str:
    entry = facts.last(Kind.DEAD_LETTERED) or latest
    cause = facts.cause(facts.last(Kind.FAILED)) or facts.cause(entry) or "no cause is booked"
    count = len(deliveries(facts, now)) or entry.attempt
    return f"Dead-lettered after {_times(count)}, {span(now - entry.at)} ago. {_sentence(cause)}"


def _expired(facts: Facts, latest: Fact, now: Micros) -> str:
    entry = facts.last(Kind.EXPIRED) or latest
    return f"It expired unhandled: {_sentence(facts.cause(entry) or 'its time was over')}"


def _refused(facts: Facts, latest: Fact, now: Micros) -> str:
    entry = facts.last(Kind.REFUSED) or latest
    why = facts.cause(entry)
    return f"The queue refused it: {_sentence(why)}" if why else "The queue refused it; the book does not say why."


def _discarded(facts: Facts, latest: Fact, now: Micros) -> str:
    entry = facts.last(Kind.DISCARDED) or latest
    by = details(entry).get("by") or "A person"
    return f"{by} decided that it need not happen: {_sentence(facts.cause(entry) or 'no reason is booked')}"


def _vanished(facts: Facts, latest: Fact, now: Micros) -> str:
    if latest.kind is Kind.ACKED:
        return f"It was acked at {clock_time(latest.at, now)}, and nothing in the book justifies the ack."
    before = [entry for entry in facts.entries if entry.kind is not Kind.VANISHED]
    last = f" Last known: {before[-1].kind.label} at {clock_time(before[-1].at, now)}." if before else ""
    how = details(latest).get("seen")
    seen = f" (the queue was {how})" if how else ""
    return f"The queue no longer has it{seen}, and nothing proves that it was handled.{last}"


def _queued(facts: Facts, latest: Fact, now: Micros) -> str:
    how = {
        Kind.RELEASED: "Handed back unhandled", Kind.RESUMED: "Sent on after its wait", Kind.REPLAYED: "Sent again",
    }.get(latest.kind, "Published")  # fmt: skip
    why = f" {_sentence(facts.cause(latest))}" if latest.kind is Kind.RELEASED and facts.cause(latest) else ""
    return f"{how} {span(now - latest.at)} ago; it waits in queue {facts.row.queue} for a worker.{why}"


def _stranded(facts: Facts, latest: Fact, now: Micros) -> str:
    if latest.kind is Kind.FAILED:
        why = _sentence(facts.cause(latest))
        late = span(now - (latest.due or latest.at))
        return f"Its {_nth(facts, latest)} failed, and the next try is overdue for {late}: no worker received it. {why}"
    if latest.kind is Kind.PARKED:
        before, late = details(latest).get("predecessor"), span(now - (latest.due or latest.at))
        return (
            f"It came early and waited for sequence {before}; that is over since {late}, and no worker has sent it on."
        )
    waited = span(now - latest.at)
    return f"It has been waiting in queue {facts.row.queue} for {waited}, and no worker of this book has received it."


def _processing(facts: Facts, latest: Fact, now: Micros) -> str:
    received = facts.last(Kind.RECEIVED) or latest
    who = worker_name(facts.worker(received))
    lease = f"; its lease lasts until {clock_time(latest.due, now)}" if latest.due else ""
    if latest.due and latest.due <= now:
        lease = f", and its lease has been over for {span(now - latest.due)}: it has not ended it, or is about to"
    return f"{who[0].upper()}{who[1:]} has had it for {span(now - received.at)} ({_nth(facts, received)}){lease}."


def _stalled(facts: Facts, latest: Fact, now: Micros) -> str:
    over = span(now - (latest.due or latest.at))
    ends = [delivery for delivery in deliveries(facts, now) if delivery.end == "no end"]
    why = ends[-1].text if ends else "the delivery was not ended"
    return (
        f"{_sentence(why[0].upper() + why[1:])} Its lease has been over for {over}, and nobody has received it since."
    )


def _retrying(facts: Facts, latest: Fact, now: Micros) -> str:
    due = latest.due or latest.at
    when = f"in {span(due - now)}" if due > now else f"now (it was due {span(now - due)} ago)"
    return f"Its {_nth(facts, latest)} failed; it is tried again {when}. {_sentence(facts.cause(latest))}"


def _parked(facts: Facts, latest: Fact, now: Micros) -> str:
    before = details(latest).get("predecessor")
    until = f", until {clock_time(latest.due, now)} at most" if latest.due else ""
    return f"It came early: it waits for sequence {before} of {facts.row.subject or 'its subject'}{until}."


def _intended(facts: Facts, latest: Fact, now: Micros) -> str:
    if latest.kind is Kind.PUT_OFF:
        return f"The queue refused it for now, and it is sent again: {_sentence(facts.cause(latest))}"
    return f"Decided on {span(now - latest.at)} ago, durably; it has not been sent yet."


def _in_doubt(facts: Facts, latest: Fact, now: Micros) -> str:
    why = facts.cause(latest)
    if latest.kind is Kind.COMMIT_IN_DOUBT:
        text = (
            f"The commit of its {_nth(facts, latest)} gave no answer; the operation key decides at the next delivery."
        )
        return f"{text} {_sentence(why)}".strip()
    if latest.kind is Kind.PUBLISH_IN_DOUBT:
        return (
            f"The queue was asked to take it and did not answer; it is sent again under the same id. {_sentence(why)}"
        )
    return f"It was decided on {span(now - latest.at)} ago, and nobody has sent it: the service's relay does not run."


WORDINGS: dict[Fate, Wording] = {
    Fate.INTENDED: _intended, Fate.IN_DOUBT: _in_doubt, Fate.QUEUED: _queued, Fate.PROCESSING: _processing,
    Fate.RETRYING: _retrying, Fate.PARKED: _parked, Fate.STRANDED: _stranded, Fate.STALLED: _stalled,
    Fate.SETTLED: _settled, Fate.NOOP: _noop, Fate.SUPERSEDED: _superseded, Fate.DUPLICATE: _duplicate,
    Fate.DEAD: _dead, Fate.EXPIRED: _expired, Fate.REFUSED: _refused, Fate.DISCARDED: _discarded,
    Fate.VANISHED: _vanished,
}  # fmt: skip


def _nth(facts: Facts, entry: Fact) -> str:
    return f"{ordinal(nth(facts.entries, entry))} delivery" if entry.attempt else "delivery"


def _times(count: int) -> str:
    return plural(count, "delivery", "deliveries")


def _after(facts: Facts, entry: Fact) -> str:
    first = facts.entries[0]
    return f", {span(entry.at - first.at)} after it was {first.kind.label}" if first.at < entry.at else ""


def _by(facts: Facts, entry: Fact, now: Micros) -> str:
    who = worker_name(facts.worker(entry))
    return f"{who[0].upper()}{who[1:]}, {clock_time(entry.at, now)}"


def _ack(facts: Facts) -> str:
    if facts.summary.marks & (1 << Kind.ACKED):
        return ""
    return " Its ack is not booked: if it is delivered again, that delivery is suppressed."


def _sentence(text: str) -> str:
    """Ends with a full stop, unless it ends with something as good."""
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."
