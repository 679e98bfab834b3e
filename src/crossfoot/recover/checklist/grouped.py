"""What failed, grouped by cause: how many, since when, how fast, where, and what was new when it began. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from crossfoot.books.failures import Standing
from crossfoot.books.fate import Fate
from crossfoot.books.queries import CauseRow, WorkerRow
from crossfoot.clock import SECOND, Micros
from crossfoot.recover.checklist.findings import some
from crossfoot.recover.facts import told_in
from crossfoot.recover.phrases import span, worker_name

BEFORE: Micros = 15 * 60 * SECOND
"""How long before a first failure something may have begun and still be told as what changed."""

MOST_CHANGES = 5

MINUTE = 60 * SECOND

UNTOLD = CauseRow("", "", "no cause is booked", "", 0)


class CauseGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Messages whose latest failure has one cause.

    Attributes:
        fingerprint: `None` where nobody booked why: the queue gave them up by itself.
        messages: how many, `dead` and `failing` (they are tried again).
        raised: the line of the latest failure.
        first_at: when this cause was first booked; `last_at` when one of these failed last.
        known_at: when it was first booked, where that was before any of these was sent: it was over, and came back at `first_at`.
        per_minute: over the time in which these failed.
        types: and `queues`, `workers`, `versions` (of crossfoot, as workers told it): how many messages of each.
        changes: what was new when it began.
        ids: of the messages, the first of them.
    """

    fingerprint: str | None
    kind: str
    title: str
    raised: str | None
    frames: str
    messages: int
    dead: int
    failing: int
    first_at: Micros
    last_at: Micros
    known_at: Micros | None
    per_minute: float
    types: dict[str, int]
    queues: dict[str, int]
    subjects: int
    workers: dict[str, int]
    versions: dict[str, int]
    changes: tuple[str, ...]
    ids: tuple[str, ...]


class Background(msgspec.Struct, frozen=True):
    """What failures are held against: known causes, the workers, and since when there are messages of a type."""

    causes: Mapping[str, CauseRow]
    workers: Sequence[WorkerRow]
    born: Mapping[str, Micros]


def grouped(failing: Iterable[Standing], background: Background) -> list[CauseGroup]:
    """One group for each cause, the largest first. Messages that did not fail and are not dead are left out."""
    by_cause: dict[str | None, list[Standing]] = {}
    for one in failing:
        if one.failed is not None or one.fate is Fate.DEAD:
            by_cause.setdefault(one.failed.cause if one.failed else None, []).append(one)
    groups = [_group(fingerprint, members, background) for fingerprint, members in by_cause.items()]
    return sorted(groups, key=lambda group: (-group.messages, group.first_at))


def _group(fingerprint: str | None, members: list[Standing], background: Background) -> CauseGroup:
    cause = background.causes.get(fingerprint or "", UNTOLD)
    failures = [one.failed for one in members if one.failed is not None]
    times = [failed.at for failed in failures] or [one.since for one in members]
    booked = min(cause.first_at or min(times), *times)
    came_back = booked < min(one.since for one in members)
    first = min(times) if came_back else booked
    latest = max(failures, key=lambda failed: failed.at, default=None)
    known = {worker.number: worker for worker in background.workers}
    theirs = [known[failed.worker] for failed in failures if failed.worker in known]
    dead = sum(one.fate is Fate.DEAD for one in members)
    types = Counter(one.type for one in members)
    return CauseGroup(
        fingerprint=fingerprint,
        kind=cause.kind,
        title=cause.title,
        raised=str(told_in(latest.details).get("raised") or "") or None if latest is not None else None,
        frames=cause.frames,
        messages=len(members),
        dead=dead,
        failing=len(members) - dead,
        first_at=first,
        last_at=max(times),
        known_at=booked if came_back else None,
        per_minute=round(len(members) / max((max(times) - min(times)) / MINUTE, 1.0), 2),
        types=_spread(types),
        queues=_spread(Counter(one.queue for one in members)),
        subjects=len({one.subject for one in members if one.subject is not None}),
        workers=_spread(Counter(worker.name for worker in theirs)),
        versions=_spread(Counter(worker.version for worker in theirs)),
        changes=tuple(_changes(first, theirs, types, background))[:MOST_CHANGES],
        ids=some(one.id for one in sorted(members, key=lambda one: one.key)),
    )


def _spread(counter: Counter[str]) -> dict[str, int]:
    return dict(counter.most_common(20))


def _changes(first: Micros, theirs: list[WorkerRow], types: Iterable[str], background: Background) -> Iterable[str]:
    """What began shortly before the first failure, the most telling first."""
    began: dict[str, Micros] = {}
    for worker in background.workers:
        began[worker.version] = min(worker.started_at, began.get(worker.version, worker.started_at))
    for version, at in sorted(began.items(), key=lambda item: item[1]):
        if _just_before(at, first) and at > min(began.values()):
            yield f"version {version} of crossfoot was first seen {span(first - at)} before"
    for type_ in sorted(types):
        # To the minute: the first message of a minute may be younger than the minute.
        first_of_it = background.born.get(type_)
        if first_of_it is not None and _just_before(first_of_it, first):
            yield f"messages of type {type_} are new: the first are from the same quarter of an hour"
    seen = {worker.number: worker for worker in theirs if _just_before(worker.started_at, first)}
    for worker in sorted(seen.values(), key=lambda one: -one.started_at):
        yield f"{worker_name(worker)} had started {span(first - worker.started_at)} before"


def _just_before(at: Micros, first: Micros) -> bool:
    return first - BEFORE <= at <= first
