"""Planning a replay: its members and their classes, written to the book in parts.

Each part is read and judged first, and then written in one short transaction, so that live traffic waits for milliseconds. A plan
that was not finished is not run: only the last part freezes the membership. One that fails takes away what it has written; a planner
that is killed leaves a plan that can be aborted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import anyio.to_thread
import msgspec
from msgspec.structs import replace

from crossfoot.books import replays
from crossfoot.books.archive.past import Past
from crossfoot.books.archive.prune import forgotten_before
from crossfoot.books.grouped import keys_text
from crossfoot.books.membership import membership
from crossfoot.books.posting import post_all
from crossfoot.books.replays import (
    BY_ANOTHER,
    CLASSIFY,
    COMPLETED,
    PLANNED,
    PLANNING,
    READY,
    Candidate,
    Replay,
)
from crossfoot.books.store import Book, completed
from crossfoot.boundaries import Boundary, reach
from crossfoot.clock import Micros, micros
from crossfoot.connection import Connection
from crossfoot.effects.in_order import line_of
from crossfoot.errors import DatabaseUnavailable, EnvelopeInvalid, ReplayRefused
from crossfoot.message import decode
from crossfoot.queues.queue import Queue
from crossfoot.recover.replay import archived
from crossfoot.recover.replay.archived import Completed, Ended
from crossfoot.recover.replay.judging import Transform, Turns, Verdict, judge
from crossfoot.recover.replay.policy import see_seconds
from crossfoot.recover.replay.selection import Selection, select, with_whole_causes
from crossfoot.worker.registry import Registry

PART = 5_000
"""Members written in one transaction."""

Progress = Callable[[int, int], None]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants replayed.

    Attributes:
        by, why: who wants it, and why; the book keeps both.
        horizon, transform: see `Planner`.
        mends: the transformation's name, which the book keeps.

    Raises:
        UsageError: the horizon is no duration.
    """

    selection: Selection
    by: str
    why: str
    horizon: float | None = None
    transform: Transform | None = None
    mends: str | None = None

    def __post_init__(self) -> None:
        see_seconds("horizon", self.horizon or 0.0)


async def plan(
    book: Book,
    queue: Queue,
    registry: Registry,
    asked: Asked,
    progress: Progress = lambda done, total: None,
    *,
    past: Past | None = None,
) -> tuple[int, list[str]]:
    """Plan a replay: find the messages, judge them, freeze them. Returns its number, and ids that neither book nor archive knows.

    Args:
        past: the book's archive, where messages that are named by id are looked for, and operations whose keys are forgotten.

    Raises:
        ReplayRefused: there is nothing to plan.
        ArchiveBroken: the archive may hold some of them, and cannot be read.
        QueueUnavailable: the book does not keep what messages carry, and the dead letters cannot be read.
    """

    def find() -> tuple[Asked, list[int], list[str], set[str], dict[str, Ended]]:
        book.open()
        post_all(book)
        with book.reading() as connection, connection.snapshot():
            whole = replace(asked, selection=with_whole_causes(connection, asked.selection))
            keys, unknown = select(connection, queue.name, whole.selection)
            lacking = connection.execute(replays.LACKING, {"keys": keys_text(keys)}).fetchall()
            if past is not None:
                past.renew(connection)
            ended = archived.named(connection, past, unknown, queue.name) if past is not None else {}
        return whole, keys, [id_ for id_ in unknown if id_ not in ended], {str(name) for (name,) in lacking}, ended

    asked, keys, unknown, lacking, ended = await anyio.to_thread.run_sync(find)
    bodies = await _bodies(queue, lacking) if lacking else {}
    planner = Planner(
        book, queue.name, registry, horizon=asked.horizon, transform=asked.transform, bodies=bodies, past=past,
    )  # fmt: skip
    return await anyio.to_thread.run_sync(planner.plan, keys, asked, progress, list(ended.values())), unknown


async def _bodies(queue: Queue, wanted: Collection[str]) -> dict[str, bytes]:
    """What the dead letters of these messages carry."""
    await queue.open()
    found: dict[str, bytes] = {}
    async for held in queue.dead_letters():
        try:
            name = decode(held.body).key
        except EnvelopeInvalid:
            continue
        if name in wanted:
            found[name] = held.body
    return found


class Planner:
    """Plans replays of one queue.

    Args:
        registry: the handlers that will take what is moved; an empty one judges nothing by them.
        horizon: seconds since its publication after which a message's operation may be forgotten; `None`: never.
        transform: mends payloads; the old and the new one are both kept.
        bodies: what dead letters carry, by `source|id`, for messages whose payload the book does not keep.
        past: the archive, where operations whose keys are forgotten are looked for.
    """

    def __init__(
        self, book: Book, queue: str, registry: Registry, *, horizon: float | None = None,
        transform: Transform | None = None, bodies: Mapping[str, bytes] | None = None, past: Past | None = None,
    ) -> None:  # fmt: skip
        self._book = book
        self._queue = queue
        self._registry = registry
        self._now = book.clock.now()
        self._before: Micros = 0 if horizon is None else self._now - micros(horizon)
        self._transform = transform
        self._bodies = bodies or {}
        self._past = past
        self._turns = Turns({})

    def plan(self, keys: Sequence[int], asked: Asked, progress: Progress, ended: Sequence[Ended] = ()) -> int:
        """Write the plan for these messages, and those in the archive. Returns the replay's number.

        Raises:
            ReplayRefused: there is nothing to plan, or it was aborted meanwhile.
            ArchiveBroken: the archive may hold the operation of one, and cannot be read.
            UsageError: the transformation is none.
        """
        if not keys and not ended:
            raise ReplayRefused(
                f"no message of queue {self._queue} is {asked.selection.told()}: there is nothing to replay; crossfoot dead list "
                "--by-cause shows what there is"
            )

        def add(connection: Connection) -> int:
            kept = asked.selection.kept(asked.horizon, asked.mends, forgotten_before(connection))
            row = (self._queue, PLANNING, asked.by, asked.why, self._now, kept)
            return int(connection.execute(replays.ADD, row).fetchone()[0])

        number = self._book.write(add)
        try:
            for first in range(0, len(keys), PART):
                self._part(number, keys[first : first + PART])
                progress(min(first + PART, len(keys)), len(keys))
                reach(Boundary.PLANNING_REPLAY)
            for first in range(0, len(ended), PART):
                self._leave(number, ended[first : first + PART])
            self._book.write(lambda connection: self._freeze(connection, number))
        except BaseException:
            with suppress(DatabaseUnavailable):  # then it stays, and can be aborted
                drop_members(self._book, number)
                self._book.write(lambda connection: connection.execute(replays.DROP_PLAN, (number,)))
            raise
        return number

    def _leave(self, number: int, ended: Sequence[Ended]) -> None:
        """Have the archive's messages be members that stay."""
        rows = [
            (number, story.key, verdict.class_, verdict.reason, story.row[15], story.row[13]) for story, verdict in ended
        ]  # fmt: skip

        def write(connection: Connection) -> None:
            _hold(connection, number)
            connection.executemany(replays.ADD_ARCHIVED, rows)

        self._book.write(write)

    def _part(self, number: int, keys: Sequence[int]) -> None:
        asked: dict[str, Any] = {"replay": number, "keys": keys_text(keys), "horizon": self._before}
        with self._book.reading() as connection, connection.snapshot():
            candidates = [self._whole(Candidate(*row)) for row in connection.execute(replays.CANDIDATES, asked)]
            self._learn_turns(connection, candidates, asked)
            verdicts = self._judged(connection, candidates)
        rows = [
            (
                one.class_, one.reason, self._sealed(candidate, candidate.body if one.after is not None else None),
                self._sealed(candidate, one.after or self._lost(candidate)),
                number, candidate.message, READY,
            )
            for candidate, one in verdicts
        ]  # fmt: skip

        def write(connection: Connection) -> None:
            _hold(connection, number)
            connection.execute(replays.ADD_MEMBERS, asked)
            for statement in CLASSIFY:
                connection.execute(statement, asked)
            connection.executemany(replays.RECLASS, rows)

        self._book.write(write)

    def _judged(self, connection: Connection, candidates: Sequence[Candidate]) -> list[tuple[Candidate, Verdict]]:
        """Those of which there is more to say than that they will settle."""
        found = []
        operations: dict[int, str] = {}
        for one in candidates:
            body = one.body if one.body is not None else self._bodies.get(one.identity)
            verdict = judge(one, body, self._registry.find(one.type), self._turns, self._now, self._transform)
            if verdict.operation is not None:
                operations[one.message] = verdict.operation
            found.append((one, verdict))
        known = completed(connection, list(dict.fromkeys(operations.values()))) if operations else {}
        done = Verdict(COMPLETED, BY_ANOTHER)
        told = [
            (one, done._replace(after=verdict.after) if operations.get(one.message) in known else verdict)
            for one, verdict in found
        ]
        if self._past is not None:
            self._past.renew(connection)
            asked = {
                one.message: operations.get(one.message) or one.operation
                for one, verdict in told
                if verdict.class_ == READY
            }
            done_before = Completed(connection, self._past).among(
                {message: key for message, key in asked.items() if key}
            )
            told = [(one, done_before.get(one.message, verdict)) for one, verdict in told]
        return [
            (one, verdict) for one, verdict in told
            if verdict.class_ != READY or verdict.after is not None or self._lost(one) is not None
        ]  # fmt: skip

    def _whole(self, candidate: Candidate) -> Candidate:
        return replace(candidate, body=self._book.restored(candidate, candidate.body))

    def _sealed(self, candidate: Candidate, body: bytes | None) -> bytes | None:
        return None if body is None else self._book.sealed(body, type=candidate.type, subject=candidate.subject)

    def _lost(self, candidate: Candidate) -> bytes | None:
        """What the dead letter has, and the book has not."""
        return self._bodies.get(candidate.identity) if candidate.body is None else None

    def _learn_turns(self, connection: Connection, candidates: Sequence[Candidate], asked: Mapping[str, Any]) -> None:
        found = (self._registry.find(one.type) for one in candidates)
        for name in {handler.name for handler in found if handler is not None and handler.in_order is not None}:
            rows = connection.execute(replays.SEQUENCES, {**asked, "handler": line_of(self._queue, name)})
            self._turns.learn({(name, subject): int(last) for subject, last in rows})

    def _freeze(self, connection: Connection, number: int) -> None:
        _hold(connection, number)
        connection.execute(replays.LEAVE, (number,))
        connection.execute(replays.FREEZE, (PLANNED, *membership(connection, number), number))


def _hold(connection: Connection, number: int) -> None:
    """Within the caller's transaction.

    Raises:
        ReplayRefused: somebody has aborted it meanwhile.
    """
    if connection.execute(replays.STILL_PLANNING, (number,)).rowcount != 1:
        raise ReplayRefused(f"replay {number} was aborted while it was planned: nothing of it is kept")


def drop_members(book: Book, number: int) -> None:
    """Those of a plan that will not be. In parts, so that live traffic does not wait."""
    asked = {"replay": number, "limit": PART}
    while book.write(lambda connection: connection.execute(replays.DROP_MEMBERS, asked).rowcount) == PART:
        pass


def found(connection: Connection, number: int) -> Replay:
    """The replay of that number.

    Raises:
        ReplayRefused: there is none.
    """
    replay = replays.get(connection, number)
    if replay is None:
        raise ReplayRefused(
            f"there is no replay {number} in this book: crossfoot replay list shows those that there are"
        )
    return replay
