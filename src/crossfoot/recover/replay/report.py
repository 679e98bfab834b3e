"""What a replay came to, counted anew from the book: by class, by what became of each, and by cause."""

from __future__ import annotations

from typing import Any

import msgspec

from crossfoot.books import replays, replays_reported
from crossfoot.books.archive.past import Past
from crossfoot.books.expected import Outlook
from crossfoot.books.fate import Fate
from crossfoot.books.grouped import keys_text
from crossfoot.books.membership import membership
from crossfoot.books.replays import CHANGED, CLASSES, LEFT, MOVES, PAUSED, PLANNED, PLANNING, RUNNING, WAITING, Replay
from crossfoot.books.replays_reported import LEFT_ALONE
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection
from crossfoot.recover.replay.expecting import Look, outlook
from crossfoot.recover.replay.running import HOLD_SECONDS
from crossfoot.recover.replay.selection import Told, as_told
from crossfoot.recover.replay.since_archived import Archived

MOST_IDS = 20
"""Ids that are told of each class and each bad end."""


class ClassLine(msgspec.Struct, frozen=True):
    """Members of one class and reason."""

    name: str
    moves: bool
    count: int
    reason: str | None


class Failing(msgspec.Struct, frozen=True):
    """A cause of which members failed after they were moved, and how many."""

    fingerprint: str | None
    title: str | None
    count: int


class Shared(msgspec.Struct, frozen=True):
    """Another replay that is to move the same messages, or has them on their way, how many, and some of their ids."""

    replay: int
    state: str
    count: int
    ids: tuple[str, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A replay as it stands.

    Attributes:
        members: all of them; `unchanged` whether they are those that were planned.
        classes: what the plan says of them, and which it leaves alone, because something had happened to them since.
        mended: members that carry something else than before; shared: with which other replays it shares some.
        runner, runner_seen_at: who runs it, and when that one gave its last sign of life; `runner_gone` when that is longer ago than it
            has the replay without one.
        ended: members that were moved, by their fate as of the posting; `moved` is their sum.
        waiting: to be moved; `left`: never to be; `changed`: left alone, because something had happened to them since the plan.
        failing: causes of which members failed after they were moved.
        breached: by expectation, members that took effect, and of which what is expected did not come in time; `late`: those of them for
            which it came later.
        awaited: members that took effect, and of which something may still come in time.
        ids: some of those that ended badly, lack what is expected, or will not be moved, by fate, expectation or class.
        letters: dead letters that the queue has still to forget.
        load: seconds of handling that the plan's members are expected to take, where the book knows.
    """

    number: int
    queue: str
    state: str
    note: str | None
    by: str
    why: str
    selection: Told
    policy: dict[str, Any] | None
    planned_at: Micros
    started_at: Micros | None
    ended_at: Micros | None
    stage: int
    members: int
    unchanged: bool
    classes: tuple[ClassLine, ...]
    mended: int
    shared: tuple[Shared, ...]
    runner: str | None
    runner_seen_at: Micros | None
    runner_gone: bool
    moved: int
    ended: dict[str, int]
    waiting: int
    left: int
    changed: int
    failing: tuple[Failing, ...]
    breached: dict[str, int]
    late: dict[str, int]
    awaited: int
    ids: dict[str, tuple[str, ...]]
    letters: int
    load: float | None

    @property
    def well(self) -> bool:
        """Whether nobody needs to look at it: planned with something to move, or on its way, or ended well."""
        if self.state in (PLANNING, PLANNED):
            return self.runs and self.waiting > 0
        bad = sum(self.ended.get(fate.label, 0) for fate in BAD)
        return (
            self.state in ("running", "finished") and not (bad or self.breached or self.runner_gone) and self.unchanged
        )

    @property
    def runs(self) -> bool:
        """Whether it would be run, or gone on with, if somebody asked for it."""
        return self.state in (PLANNED, RUNNING, PAUSED) and self.unchanged and bool(self.waiting or self.moved)


BAD = (Fate.DEAD, Fate.REFUSED, Fate.EXPIRED, Fate.VANISHED, Fate.STRANDED, Fate.STALLED)


def report(
    connection: Connection, replay: Replay, now: Micros = 0, look: Look | None = None, past: Past | None = None
) -> Report:
    """Within the caller's read transaction; what is posted is what is counted.

    Args:
        now, look: tell how those that took effect stand to what is expected of them, at that time; nothing is asked without.
        past: the book's archive, for members that lie there.

    Raises:
        ArchiveBroken: a file that may hold some cannot be read.
    """
    number = replay.number
    archived = Archived(connection, number, past)
    expects = Outlook(frozenset(), {}, {})
    if look is not None:
        expects = outlook(connection, number, look, now, archived.proven())
    counts, ended = _counts(connection, number, archived)
    lines = [
        ClassLine(class_, class_ in MOVES, int(count), None if class_ in MOVES and not reason else reason)
        for class_, reason, count in connection.execute(replays_reported.BY_CLASS, (number,))
    ]
    lines.sort(key=lambda line: ((*CLASSES, LEFT_ALONE).index(line.name), -line.count))
    seen_at = _seen_at(replay)
    return Report(
        number=number, queue=replay.queue, state=replay.state, note=replay.note, by=replay.by, why=replay.why,
        selection=as_told(replay.selection), policy=msgspec.json.decode(replay.policy) if replay.policy else None,
        planned_at=replay.at, started_at=replay.started_at, ended_at=replay.ended_at, stage=replay.stage, members=replay.count,
        unchanged=not replay.count or membership(connection, number) == (replay.count, replay.d0, replay.d1),
        classes=tuple(lines), mended=connection.execute(replays_reported.MENDED, (number,)).fetchone()[0],
        shared=_shared(connection, replay), runner=(replay.claim or "").rpartition(":")[0] or None, runner_seen_at=seen_at,
        runner_gone=seen_at is not None and replay.until < now,
        moved=sum(ended.values()), ended=dict(sorted(ended.items(), key=lambda item: -item[1])),
        waiting=counts[WAITING], left=counts[LEFT], changed=counts[CHANGED],
        failing=_failing(connection, number, archived),
        breached={name: len(messages) for name, messages in expects.breached.items()},
        late={name: len(messages) for name, messages in expects.late.items()}, awaited=len(expects.waiting),
        ids={**_ids(connection, number, lines, ended, archived), **_ids_of(connection, expects, archived)},
        letters=len(connection.execute(replays.LETTERS, (number,)).fetchall()),
        load=_load(connection, replay) if replay.state == PLANNED else None,
    )  # fmt: skip


def _counts(connection: Connection, number: int, archived: Archived) -> tuple[dict[str, int], dict[str, int]]:
    """Members by state, and those that were moved by fate."""
    ended: dict[str, int] = {}
    counts = dict.fromkeys((WAITING, LEFT, CHANGED), 0)
    for state, fate, gone, count in connection.execute(replays_reported.ANY_FATE, (number,)):
        if state in counts:
            counts[state] += count
            continue
        known = archived.members[gone].fate if gone in archived.members else Fate(fate) if fate else None
        name = known.label if known is not None else "unaccounted"
        ended[name] = ended.get(name, 0) + count
    return counts, ended


def _shared(connection: Connection, replay: Replay) -> tuple[Shared, ...]:
    if replay.state not in (PLANNED, RUNNING, PAUSED):
        return ()
    told = []
    for other, state, count in connection.execute(replays_reported.SHARED, {"number": replay.number}).fetchall():
        asked = {"number": replay.number, "other": other, "limit": MOST_IDS}
        ids = tuple(str(id_) for (id_,) in connection.execute(replays_reported.IDS_SHARED, asked))
        told.append(Shared(other, state, count, ids))
    return tuple(told)


def _seen_at(replay: Replay) -> Micros | None:
    """When its runner last said that it has it."""
    if replay.state != RUNNING or replay.claim is None:
        return None
    hold = msgspec.json.decode(replay.policy).get("hold", HOLD_SECONDS) if replay.policy else HOLD_SECONDS
    return replay.until - round(hold * SECOND)


def _failing(connection: Connection, number: int, archived: Archived) -> tuple[Failing, ...]:
    found = {row[0]: Failing(*row) for row in connection.execute(replays_reported.FAILING, (number,))}
    if more := archived.failing():
        titles = dict(connection.execute(replays_reported.TITLES).fetchall())
        for cause, count in more.items():
            here = found[cause].count if cause in found else 0
            found[cause] = Failing(cause, titles.get(cause), here + count)
    return tuple(sorted(found.values(), key=lambda one: -one.count))


def _ids(
    connection: Connection, number: int, lines: list[ClassLine], ended: dict[str, int], archived: Archived
) -> dict[str, tuple[str, ...]]:
    told: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(line.name for line in lines if not line.moves):
        if name == LEFT_ALONE:
            rows = connection.execute(replays_reported.IDS_OF_CHANGED, (number, MOST_IDS)).fetchall()
        else:
            rows = connection.execute(replays_reported.IDS_OF_CLASS, (number, name, MOST_IDS)).fetchall()
        told[name] = tuple(id_ or archived.id_of(key) for key, id_ in rows)
    for fate in BAD:
        if ended.get(fate.label):
            told[fate.label] = tuple(
                id_ for (id_,) in connection.execute(replays_reported.IDS_OF_FATE, (number, int(fate), MOST_IDS))
            )
    return told


def _ids_of(connection: Connection, expects: Outlook, archived: Archived) -> dict[str, tuple[str, ...]]:
    told = {}
    for name, messages in expects.breached.items():
        first = sorted(messages)[:MOST_IDS]
        known = dict(connection.execute(replays_reported.IDS, {"keys": keys_text(first)}).fetchall())
        told[name] = tuple(known.get(key) or archived.id_of(key) for key in first)
    return told


def _load(connection: Connection, replay: Replay) -> float | None:
    """Seconds that handlers will work on the members that are to settle, by what the latest of each type took."""
    total, known = 0.0, False
    for type_, count in connection.execute(replays_reported.TYPES, (replay.number,)).fetchall():
        of, took = connection.execute(replays_reported.HANDLING_TIMES, (type_, replay.queue)).fetchone()
        if of:
            total, known = total + count * took / of / 1_000_000, True
    return round(total, 3) if known else None
