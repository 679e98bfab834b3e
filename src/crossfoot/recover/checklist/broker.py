"""Sent, received, deleted, once more: the broker's own counts beside those of the book. Pure.

The broker counts whatever anybody does. What it counts beyond the book was done by somebody else. Both are taken over the same time,
which begins with the oldest entry that was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crossfoot.books.entry import Kind
from crossfoot.books.lines import Line
from crossfoot.clock import SECOND, Micros
from crossfoot.queues.telling import Counted
from crossfoot.recover.advice import Step
from crossfoot.recover.checklist.findings import Finding
from crossfoot.recover.checklist.survey import Attached, Survey
from crossfoot.recover.phrases import moment

LATE: Micros = 15 * 60 * SECOND
"""By which counts may come late: CloudWatch says a minute, and brings some later."""

WITHIN: Micros = 24 * 3_600 * SECOND
"""How far back is compared."""

LEAST, SHARE = 10, 0.1
"""What may be between the counts and prove nothing: deliveries whose worker died before its first entry, edges of the time compared,
approximate counting. A tenth of what the broker counted, and ten at least."""

DELETING = (Kind.ACKED, Kind.ACK_FAILED, Kind.DEAD_LETTERED)
"""Entries behind which there may be a deletion: an ack whose answer was lost may have been one."""


def ask(survey: Survey) -> Iterator[Finding]:
    for queue in survey.service.attached.values():
        if queue.counted:
            yield from _beyond(survey, queue, queue.counted)


def _beyond(survey: Survey, queue: Attached, counted: Iterable[Counted]) -> Iterator[Finding]:
    lines = [line for line in survey.lines if line.queue == queue.name]
    if not lines:
        return
    since = min(line.at for line in survey.lines)
    over = [one for one in counted if one.at >= since and one.until <= survey.as_of - LATE]
    if not over:
        return
    begin, end = over[0].at, over[-1].until
    received = _count(lines, (Kind.RECEIVED,), begin, end)
    deleted = _count(lines, DELETING, begin, end)
    others = {
        "received": sum(one.received for one in over) - received,
        "deleted": sum(one.deleted for one in over) - deleted,
    }
    by_broker = {"received": received + others["received"], "deleted": deleted + others["deleted"]}
    beyond = {name: count for name, count in others.items() if count > max(LEAST, SHARE * by_broker[name])}
    if not beyond:
        return
    yield Finding(
        code="received-elsewhere",
        queue=queue.name,
        text=f"the broker of queue {queue.name} counts {by_broker['received']:,} deliveries and {by_broker['deleted']:,} deletions, and "
        f"the workers of this book had {received:,} and {deleted:,}: something else receives from it",
        count=max(beyond.values()),
        figures={
            "sent": f"{sum(one.sent for one in over):,}", "received": f"{by_broker['received']:,} ({received:,} here)",
            "deleted": f"{by_broker['deleted']:,} ({deleted:,} here)", "from": moment(begin), "to": moment(end),
        },
        first_at=begin,
        last_at=end,
        next=(
            Step(f"find out who else has access to queue {queue.name}, and end that"),
            Step("see which messages are gone", "crossfoot balance"),
        ),
    )  # fmt: skip


def _count(lines: Iterable[Line], kinds: tuple[Kind, ...], begin: Micros, end: Micros) -> int:
    return sum(line.kind in kinds and begin <= line.at < end for line in lines)
