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
from crossfoot.books.replays import CHANGED, CLASSES, LEFT, MOVES, PLANNED, PLANNING, WAITING, Replay
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.recover.replay.expecting import Look, outlook

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


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A replay as it stands.

    Attributes:
        members: all of them; `unchanged` whether they are those that were planned.
        classes: what the plan says of them.
        ended: members that were moved, by their fate as of the posting; `moved` is their sum.
        waiting: to be moved; `left`: never to be; `changed`: left alone, because something had happened to them since the plan.
        failing: causes of which members failed after they were moved.
        breached: by expectation, members that took effect, and of which what is expected did not come in time.
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
    selection: dict[str, Any]
    policy: dict[str, Any] | None
    planned_at: Micros
    started_at: Micros | None
    ended_at: Micros | None
    stage: int
    members: int
    unchanged: bool
    classes: tuple[ClassLine, ...]
    moved: int
    ended: dict[str, int]
    waiting: int
    left: int
    changed: int
    failing: tuple[Failing, ...]
    breached: dict[str, int]
    awaited: int
    ids: dict[str, tuple[str, ...]]
    letters: int
    load: float | None

    @property
    def well(self) -> bool:
        """Whether nobody needs to look at it: planned with something to move, or on its way, or ended well."""
        if self.state in (PLANNING, PLANNED):
            return self.state == PLANNED and self.waiting > 0
        bad = sum(self.ended.get(fate.label, 0) for fate in BAD)
        return self.state in ("running", "finished") and not bad and not self.breached and self.unchanged


BAD = (Fate.DEAD, Fate.REFUSED, Fate.EXPIRED, Fate.VANISHED, Fate.STRANDED, Fate.STALLED)


def report(
    connection: Connection, replay: Replay, now: Micros = 0, look: Look | None = None, past: Past | None = None
) -> Report:
    """Within the caller's read transaction; what is posted is what is counted.

    Args:
        now, look: tell how those that took effect stand to what is expected of them, at that time; nothing is asked without.
        past: the book's archive, for the ids of members that lie there.
    """
    number = replay.number
    expects = outlook(connection, number, look, now) if look is not None else Outlook(frozenset(), {})
    ended: dict[str, int] = {}
    counts = dict.fromkeys((WAITING, LEFT, CHANGED), 0)
    for _, state, fate, count in connection.execute(replays_reported.ANY_FATE, (number,)):
        if state in counts:
            counts[state] += count
        else:
            name = Fate(fate).label if fate else "unaccounted"
            ended[name] = ended.get(name, 0) + count
    lines = [
        ClassLine(class_, class_ in MOVES, int(count), None if class_ in MOVES and not reason else reason)
        for class_, reason, count, _ in connection.execute(replays_reported.BY_CLASS, (number,))
    ]
    lines.sort(key=lambda line: (CLASSES.index(line.name), -line.count))
    return Report(
        number=number, queue=replay.queue, state=replay.state, note=replay.note, by=replay.by, why=replay.why,
        selection=msgspec.json.decode(replay.selection), policy=msgspec.json.decode(replay.policy) if replay.policy else None,
        planned_at=replay.at, started_at=replay.started_at, ended_at=replay.ended_at, stage=replay.stage, members=replay.count,
        unchanged=replay.state == PLANNING or membership(connection, number) == (replay.count, replay.d0, replay.d1),
        classes=tuple(lines), moved=sum(ended.values()), ended=dict(sorted(ended.items(), key=lambda item: -item[1])),
        waiting=counts[WAITING], left=counts[LEFT], changed=counts[CHANGED],
        failing=tuple(Failing(*row) for row in connection.execute(replays_reported.FAILING, (number,))),
        breached={name: len(messages) for name, messages in expects.breached.items()}, awaited=len(expects.waiting),
        ids={**_ids(connection, number, lines, ended, past), **_ids_of(connection, expects)},
        letters=len(connection.execute(replays.LETTERS, (number,)).fetchall()),
        load=_load(connection, replay) if replay.state == PLANNED else None,
    )  # fmt: skip


def _ids(
    connection: Connection, number: int, lines: list[ClassLine], ended: dict[str, int], past: Past | None
) -> dict[str, tuple[str, ...]]:
    told: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(line.name for line in lines if not line.moves):
        rows = connection.execute(replays_reported.IDS_OF_CLASS, (number, name, MOST_IDS)).fetchall()
        told[name] = tuple(id_ or _archived(connection, key, past) for key, id_ in rows)
    for fate in BAD:
        if ended.get(fate.label):
            told[fate.label] = tuple(
                id_ for (id_,) in connection.execute(replays_reported.IDS_OF_FATE, (number, int(fate), MOST_IDS))
            )
    return told


def _archived(connection: Connection, key: int, past: Past | None) -> str:
    """The id of a member that is not in the book."""
    if past is not None:
        past.renew(connection)
    story = past.keyed(key) if past is not None else None
    return str(story.row[3]) if story is not None else f"(archived message {key})"


def _ids_of(connection: Connection, expects: Outlook) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(
            id_ for (id_,) in connection.execute(replays_reported.IDS, {"keys": keys_text(sorted(messages)[:MOST_IDS])})
        )
        for name, messages in expects.breached.items()
    }


def _load(connection: Connection, replay: Replay) -> float | None:
    """Seconds that handlers will work on the members that are to settle, by what the latest of each type took."""
    total, known = 0.0, False
    for type_, count in connection.execute(replays_reported.TYPES, (replay.number,)).fetchall():
        of, took = connection.execute(replays_reported.HANDLING_TIMES, (type_, replay.queue)).fetchone()
        if of:
            total, known = total + count * took / of / 1_000_000, True
    return round(total, 3) if known else None
