"""2: were the same messages sent, received and deleted? By identity, as the balance has it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

from crossfoot.books.entry import RANKS, Kind
from crossfoot.books.failures import Standing
from crossfoot.books.fate import Fate
from crossfoot.books.receiving import taken_here, untaken
from crossfoot.recover.advice import Step, send_again
from crossfoot.recover.checklist import broker
from crossfoot.recover.checklist.findings import Finding, some
from crossfoot.recover.checklist.survey import Survey
from crossfoot.recover.phrases import listed, plural, span

WORK = Step("start a worker of its service", "crossfoot worker MODULE:NAME")


def ask(survey: Survey) -> Iterator[Finding]:
    yield from _unaccounted(survey)
    yield from _vanished(survey)
    yield from broker.ask(survey)
    yield from _acked(survey)
    yield from _overdue(survey)
    yield from _differ(survey)


def _unaccounted(survey: Survey) -> Iterator[Finding]:
    balance = survey.balance
    if balance.unaccounted:
        yield Finding(
            code="unaccounted",
            text=f"{plural(balance.unaccounted, 'message')} of {balance.published:,} {'has' if balance.unaccounted == 1 else 'have'} no "
            "fate: entries were removed from the book, or never written",
            count=balance.unaccounted,
            ids=some(balance.unaccounted_ids),
            next=(Step("rebuild the book from its entries and compare", "crossfoot verify"),),
        )  # fmt: skip


def _vanished(survey: Survey) -> Iterator[Finding]:
    members = [one for one in survey.of(Fate.VANISHED) if one.latest % RANKS != Kind.ACKED]
    for queue in sorted({one.queue for one in members}):
        theirs = [one for one in members if one.queue == queue]
        boundaries = survey.balance.queues[queue].boundaries
        yield Finding(
            code="acked-elsewhere",
            queue=queue,
            text=f"{plural(len(theirs), 'message')} left queue {queue} without any worker of this book: something else receives from it "
            "and deletes, or it was purged",
            count=len(theirs),
            ids=some(one.id for one in theirs),
            figures={
                name: f"{boundaries.get(name, 0):,}"
                for name in (Kind.PUBLISHED.label, Kind.RECEIVED.label, Kind.ACKED.label)
            },
            first_at=min(one.since for one in theirs),
            last_at=max(one.since for one in theirs),
            next=(
                Step("see what is known of the first", f"crossfoot why {shlex.quote(theirs[0].id)}"),
                Step(f"find out who else has access to queue {queue}, and end that"),
                send_again(queue),
            ),
        )  # fmt: skip


def _acked(survey: Survey) -> Iterator[Finding]:
    found = survey.balance.identities["acks"]
    if found.holds is False:
        yield Finding(
            code="acked-without-proof",
            text=f"{plural(found.count, 'message')} {'was' if found.count == 1 else 'were'} acked, and nothing in the book justifies it",
            count=found.count,
            ids=some(found.ids),
            next=(
                Step("see what is known of the first", f"crossfoot why {shlex.quote(found.ids[0])}"),
                Step("find the code that acks by itself"),
            ),
        )  # fmt: skip


def _overdue(survey: Survey) -> Iterator[Finding]:
    late: dict[tuple[str, str, bool], list[Standing]] = {}
    there: dict[str, bool | None] = {}
    for one in (*survey.waiting, *survey.parked):
        fate = one.stands(survey.as_of, survey.patience)
        if fate in (Fate.STRANDED, Fate.STALLED):
            if fate is Fate.STRANDED and not there.setdefault(one.queue, is_there(survey, one.queue)):
                continue  # whoever receives there may have a book of its own
            never = not survey.balance.queues[one.queue].boundaries.get(Kind.RECEIVED.label)
            code = "stalled" if fate is Fate.STALLED else "nobody-receives" if never else "stranded"
            late.setdefault((one.queue, code, one.fate is Fate.PARKED), []).append(one)
    for (queue, code, is_parked), members in sorted(late.items()):
        oldest = min(one.since for one in members)
        yield Finding(
            code=code,
            queue=queue,
            text=OVERDUE["parked" if is_parked else code](plural(len(members), "message"), queue),
            count=len(members),
            ids=some(one.id for one in members),
            figures={
                "waits for": span(survey.as_of - oldest),
                "workers at work": str(len(survey.at_work)),
                **_held(survey, queue),
            },
            first_at=oldest,
            last_at=max(one.since for one in members),
            next=(
                WORK,
                Step("see what is known of the first", f"crossfoot why {shlex.quote(members[0].id)}"),
                Step("see what the queue holds", f"crossfoot balance --queue {shlex.quote(queue)}"),
            ),
        )
    doubtful = [one for one in survey.of(Fate.IN_DOUBT) if one.latest % RANKS == Kind.COMMIT_IN_DOUBT]
    doubtful = [one for one in doubtful if survey.as_of > one.due + survey.patience.stranded]
    if doubtful:
        yield Finding(
            code="commit-in-doubt",
            text=f"the commits of {plural(len(doubtful), 'message')} gave no answer, and no delivery has found out since",
            count=len(doubtful),
            ids=some(one.id for one in doubtful),
            next=(WORK, Step("see what is known of the first", f"crossfoot why {shlex.quote(doubtful[0].id)}")),
        )


def is_there(survey: Survey, queue: str) -> bool | None:
    """Whether what has waited in a queue for too long is still there, as `untaken`."""
    service, balance = survey.service, survey.balance.queues[queue]
    asked = service.attached.get(queue)
    meant = service.queue == queue and bool(service.handlers)  # its own program, which is there to receive from it
    here = taken_here(balance, local=meant or (asked is not None and asked.local))
    return untaken(balance, here=here, held=asked.held if asked is not None else None)


def not_known(survey: Survey) -> str:
    """What this book cannot know of queues from which its workers never received; empty where there is nothing of that."""
    late = sorted({
        one.queue for one in survey.waiting if one.stands(survey.as_of, survey.patience) is Fate.STRANDED
    })  # fmt: skip
    told = [
        f"{survey.balance.queues[queue].fates[Fate.STRANDED.label]:,} sent to queue {queue}{_told(_held(survey, queue))}"
        for queue in late if is_there(survey, queue) is None
    ]  # fmt: skip
    return f"not known: whether anybody received {listed(told)}: the book of whoever does tells" if told else ""


def _held(survey: Survey, queue: str) -> dict[str, str]:
    asked = survey.service.attached.get(queue)
    return {"held by the queue": f"{asked.held:,}"} if asked is not None and asked.held is not None else {}


def _told(held: dict[str, str]) -> str:
    return "".join(f" (which holds {count})" for count in held.values())


OVERDUE: dict[str, Callable[[str, str], str]] = {
    "nobody-receives": lambda count, queue: (
        f"no worker of this book ever received from queue {queue}, and {count} waited there for too long"
    ),
    "stranded": lambda count, queue: (
        f"{count} of queue {queue} waited for too long: it is worked too slowly, or not any more"
    ),
    "parked": lambda count, queue: (
        f"{count} of queue {queue} came before an earlier event of the subject and waited for it: that time is over, and no worker has "
        "sent it on"
    ),
    "stalled": lambda count, queue: (
        f"{count} of queue {queue} was taken by a worker that did not end it, and nobody took over"
    ),
}


def _differ(survey: Survey) -> Iterator[Finding]:
    told = {Fate.VANISHED, Fate.STRANDED, Fate.STALLED} & {
        one.stands(survey.as_of, survey.patience) for one in (*survey.waiting, *survey.of(Fate.VANISHED))
    }
    for name, identity in survey.balance.identities.items():
        if identity.holds is not False or name == "acks" or (name == "holdings" and told):
            continue
        yield Finding(
            code="books-differ",
            text=f"two boundaries do not count the same messages ({identity.title}): {'; '.join(identity.notes)}",
            count=identity.count,
            ids=some(identity.ids),
            next=(
                Step("rebuild the book from its entries and compare", "crossfoot verify"),
                Step("see all identities", "crossfoot balance"),
            ),
        )
