"""Running a replay: stage after stage, each only when the one before it has settled.

One runner has a replay at a time: it holds it for some seconds, and renews that with every group it moves. One that is killed loses
it when that time is over, and the next one goes on where it was, from what the book says: members that were moved are watched, and
the others are still to be moved.

A dead letter is forgotten by its queue only after its message has been sent, and by the broker's own id: a second one that the
message may leave behind is not mixed up with it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial

import anyio
import anyio.to_thread
import msgspec

from crossfoot.books import replays
from crossfoot.books.expected import Proven
from crossfoot.books.membership import membership
from crossfoot.books.replays import ABORTED, FINISHED, PAUSED, RUNNING, Replay
from crossfoot.books.store import Book
from crossfoot.boundaries import Boundary, reach
from crossfoot.clock import micros
from crossfoot.connection import Connection
from crossfoot.effects.outbox import Outbox, token
from crossfoot.errors import QueueUnavailable, ReplayRefused, UsageError
from crossfoot.queues.queue import ForgetsDead, LocalQueue, Queue
from crossfoot.recover.replay import expecting
from crossfoot.recover.replay.burial import forget, letters_of
from crossfoot.recover.replay.expecting import Expecting
from crossfoot.recover.replay.forgetting import leave
from crossfoot.recover.replay.halting import why_not
from crossfoot.recover.replay.moving import Group, Halted, Moved, Mover
from crossfoot.recover.replay.pacing import Budget
from crossfoot.recover.replay.planning import found
from crossfoot.recover.replay.policy import Policy, Tally, reason_to_abort, see_seconds
from crossfoot.recover.replay.watching import End, Outstanding, of_stage, write_ends
from crossfoot.recover.replay.yielding import Yielding

HOLD_SECONDS = 10.0
"""For how long a runner has a replay without renewing it."""

MOST_MOVED = 25
"""Members moved in one transaction: a few milliseconds, so that live traffic does not wait long."""

LOOK_SECONDS = 0.05
"""Between two looks at what became of members."""

FORGET = 1_000
"""Dead letters that are forgotten in one go, at least: some queues have to look through all of them each time."""

Watcher = Callable[[Replay, int, int, int], None]
"""Told now and then: the replay, its stage, members moved so far, and members on their way."""


class Runner:
    """Runs one replay.

    Args:
        queue: the queue that its members belong to.
        policy: the bounds; those that it was run with last, unless given.
        horizon: seconds since its publication after which a message's operation may be forgotten: what passed it since the plan is
            not moved. The plan's, unless given.
        hold: seconds for which this runner has the replay without renewing it.
        look: tells how members that took effect stand to what is expected of them; `None`: nothing is expected.
    """

    def __init__(
        self, book: Book, queue: Queue, number: int, policy: Policy | None = None, *, horizon: float | None = None,
        hold: float = HOLD_SECONDS, watcher: Watcher | None = None, look: expecting.Look | None = None,
    ) -> None:  # fmt: skip
        see_seconds("hold", hold)
        see_seconds("horizon", horizon or 0.0)
        self._book = book
        self._queue = queue
        self._number = number
        self._asked = policy
        self._policy = policy or Policy()
        self._horizon = horizon
        self._hold_for = hold
        self._watcher = watcher
        self._claim = f"{socket.gethostname()}:{os.getpid()}:{token()}"
        self._outbox = Outbox(book, {queue.name: queue})
        self._outstanding = Outstanding()
        self._expecting = Expecting(look)
        self._yielding = Yielding(self._policy.live_slower)
        self._after = 0
        self._moved = 0
        self._letters = 0

    async def run(self) -> Replay:
        """Until it is finished, or stopped by itself or by somebody. Returns it as it stands then.

        Raises:
            ReplayRefused: it may not be run: it is of another queue, was not planned to its end, is over, or its members changed.
            QueueUnavailable: the queue cannot be used; the replay is paused.
        """
        await anyio.to_thread.run_sync(self._book.open)
        await self._queue.open()
        replay = await self._take()
        try:
            mover = await self._prepare(replay)
            await self._stages(replay, mover)
        except Halted:
            await self._forget()  # of what was sent
        except (QueueUnavailable, UsageError) as error:
            await self._stop(PAUSED, str(error))
            raise
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._stop(PAUSED, "its runner was stopped")
            raise
        return await anyio.to_thread.run_sync(self._read)

    # ---- taking it -----------------------------------------------------------------------------------------------

    async def _take(self) -> Replay:
        """Have it, when nobody else has it any more."""
        give_up_at = anyio.current_time() + self._hold_for + 5
        while not await anyio.to_thread.run_sync(self._claimed):
            replay = await anyio.to_thread.run_sync(self._read)
            if replay.state != RUNNING or anyio.current_time() > give_up_at:
                raise ReplayRefused(why_not(replay))
            await anyio.sleep(0.1)
        replay = await anyio.to_thread.run_sync(self._read)
        try:
            self._check(replay)
        except ReplayRefused as error:
            await self._stop(PAUSED, str(error))
            raise
        return replay

    def _claimed(self) -> bool:
        now = self._book.clock.now()
        if self._asked is None and (kept_policy := self._read().policy) is not None:
            self._policy = msgspec.json.decode(kept_policy, type=Policy)
        kept = msgspec.json.encode(self._policy).decode()
        row = (self._claim, now + micros(self._hold_for), kept, now, self._number, now)
        return self._book.write(lambda connection: connection.execute(replays.CLAIM, row).rowcount == 1)

    def _check(self, replay: Replay) -> None:
        if replay.queue != self._queue.name:
            raise ReplayRefused(
                f"replay {replay.number} is of queue {replay.queue}, and this service works queue {self._queue.name}: name the "
                "service whose messages they are"
            )
        with self._book.reading() as connection:
            members = membership(connection, replay.number)
        if members != (replay.count, replay.d0, replay.d1):
            raise ReplayRefused(
                f"replay {replay.number} was planned with {replay.count:,} members, and there are others now ({members[0]:,}): "
                "somebody has changed them, or removed messages; plan it again"
            )
        if self._horizon is None:
            self._horizon = msgspec.json.decode(replay.selection).get("horizon")
        if self._horizon is not None and self._book.clock.now() - replay.at > micros(self._horizon):
            raise ReplayRefused(
                f"replay {replay.number} was planned before the horizon of deduplication ({self._horizon:g} s): what was completed "
                "since may be forgotten; plan it again"
            )
        self._book.write(lambda connection: leave(connection, replay))

    async def _prepare(self, replay: Replay) -> Mover:
        waiting, moved = await anyio.to_thread.run_sync(self._left, replay)
        self._outstanding.members = {one.message: one for one in moved}
        buried: dict[str, Sequence[str]] = {}
        local = self._queue if isinstance(self._queue, LocalQueue) else None
        if local is not None and not await anyio.to_thread.run_sync(local.is_in, self._book.path):
            local = None
        mover = Mover(
            self._book,
            replay,
            self._claim,
            hold=self._hold_for,
            local=local,
            buried=buried,
            horizon=self._horizon,
        )
        if isinstance(self._queue, ForgetsDead):
            await self._forget()
            if waiting:
                buried |= await letters_of(
                    self._queue, waiting, meanwhile=partial(self._renew, mover, max(1, replay.stage))
                )
        return mover

    def _left(self, replay: Replay) -> tuple[set[str], list[Moved]]:
        with self._book.reading() as connection, connection.snapshot():
            waiting = {f"{source}|{id_}" for source, id_ in connection.execute(replays.WAITING_IDS, (self._number,))}
            rows = connection.execute(replays.OUTSTANDING, (self._number,)).fetchall()
            (self._moved,) = connection.execute(replays.COUNT_MOVED, (self._number,)).fetchone()
            self._yielding = Yielding(self._policy.live_slower)
            self._yielding.begin(connection, self._queue.name, replay.started_at or replay.at)
        return waiting, [Moved(message, base, cause, at) for message, base, _, cause, at in rows]

    # ---- stages --------------------------------------------------------------------------------------------------

    async def _stages(self, replay: Replay, mover: Mover) -> None:
        """One after the other.

        Raises:
            Halted: somebody else decides now.
        """
        stage = max(1, replay.stage)
        taken, tally, proven = await anyio.to_thread.run_sync(self._begun, stage)
        self._expecting.add(proven)
        tally.moved += len(self._outstanding)
        self._outstanding.tally = tally
        while True:
            if await self._stage(replay, mover, stage, taken):
                break
            stage, taken = stage + 1, 0
            self._outstanding.begin()
            self._expecting.begin()
            await self._renew(mover, stage)
            reach(Boundary.BETWEEN_STAGES)
        await self._forget()
        await self._stop(FINISHED, "all that could be moved has ended")

    def _begun(self, stage: int) -> tuple[int, Tally, list[Proven]]:
        with self._book.reading() as connection, connection.snapshot():
            proven = expecting.of_stage(connection, self._number, stage)
            return *of_stage(connection, self._number, stage), proven

    async def _stage(self, replay: Replay, mover: Mover, stage: int, taken: int) -> bool:
        """Move a stage's members, and wait until they have ended. True when none are left for another.

        Raises:
            Halted: somebody else decides now; or it was brought to a stand here.
        """
        size, policy = self._policy.size_of(stage), self._policy
        spent, renewed = Budget(policy.rate), anyio.current_time()
        heard = anyio.current_time()
        left = True
        while True:
            if await self._look():
                heard = anyio.current_time()
            self._tell(replay, stage)
            if reason := reason_to_abort(policy, stage, self._outstanding.tally):
                await self._stop(ABORTED, reason)  # before the queue is asked for anything: it may not answer
                raise Halted
            room = min(size - taken, self._yielding.window(policy.window) - len(self._outstanding), MOST_MOVED)
            if left and room > 0 and (count := spent.take(room, self._yielding.share)):
                group = await self._move(mover, stage, count)
                taken += len(group.moved) + group.changed
                left = bool(group.moved or group.changed)
                heard = renewed = anyio.current_time()
                continue
            if not len(self._outstanding) and not len(self._expecting) and (taken >= size or not left):
                return not left
            if anyio.current_time() - renewed >= min(1.0, self._hold_for / 3):
                await self._renew(mover, stage)
                await self._relay()
                renewed = anyio.current_time()
            if len(self._outstanding) and anyio.current_time() - heard > policy.patience:
                waits = len(self._outstanding)
                await self._stop(
                    PAUSED,
                    f"stage {stage}: nothing ended for {policy.patience:g} s, and {waits:,} are on their way: does a worker run?",
                )
                raise Halted
            await anyio.sleep(LOOK_SECONDS)

    async def _move(self, mover: Mover, stage: int, count: int) -> Group:
        reach(Boundary.BEFORE_MOVE)
        group = await anyio.to_thread.run_sync(mover.move, stage, count, self._after)
        reach(Boundary.AFTER_MOVE)
        self._after = group.upto
        self._moved += len(group.moved)
        self._outstanding.add(group.moved)
        self._letters += len(group.moved)
        if group.letters:
            await self._outbox.deliver(group.letters, self._queue)
        if self._letters >= FORGET:
            await self._forget()
        return group

    async def _look(self) -> int:
        """See what has ended, and write it. How many did."""
        if self._yielding.is_due(self._book.clock.now()):
            await anyio.to_thread.run_sync(self._look_at_live)
        if self._expecting.is_due(self._book.clock.now()):
            await anyio.to_thread.run_sync(self._read_expected)
        if not len(self._outstanding):
            return 0
        ends = await anyio.to_thread.run_sync(self._read_ends)
        if ends:
            await anyio.to_thread.run_sync(
                self._book.write, lambda connection: write_ends(connection, self._number, ends)
            )
            self._expecting.add(self._outstanding.let_go(ends))
            await anyio.to_thread.run_sync(self._read_expected)
        return len(ends)

    def _look_at_live(self) -> None:
        with self._book.reading() as connection:
            self._yielding.look(connection, self._number, self._queue.name, self._book.clock.now())

    def _read_expected(self) -> None:
        with self._book.reading() as connection:
            self._expecting.look(connection, self._book.clock.now(), self._outstanding.tally)

    def _read_ends(self) -> Sequence[End]:
        with self._book.reading() as connection:
            return self._outstanding.look(connection, self._book.clock.now())

    async def _renew(self, mover: Mover, stage: int) -> None:
        now = self._book.clock.now()
        await anyio.to_thread.run_sync(self._book.write, lambda connection: mover.hold(connection, stage, now))

    async def _relay(self) -> None:
        """Send what a runner before this one has left in the outbox; a worker would do so, too."""
        await self._outbox.drain(self._queue)

    def _tell(self, replay: Replay, stage: int) -> None:
        if self._watcher is not None:
            self._watcher(replay, stage, self._moved, len(self._outstanding))

    # ---- dead letters ----------------------------------------------------------------------------------------------

    async def _forget(self) -> None:
        """Have the queue forget the dead letters of messages that were sent again."""
        self._letters = 0
        if not isinstance(self._queue, ForgetsDead):
            return
        rows = await anyio.to_thread.run_sync(self._to_forget)
        if not rows:
            return
        reach(Boundary.BEFORE_FORGET)
        await forget(
            self._queue, [name for _, letters in rows for name in msgspec.json.decode(letters, type=list[str])]
        )
        reach(Boundary.AFTER_FORGET)
        for first in range(0, len(rows), 4 * MOST_MOVED):
            done = [(self._number, message) for message, _ in rows[first : first + 4 * MOST_MOVED]]
            await anyio.to_thread.run_sync(self._book.write, partial(_note_forgotten, done))

    def _to_forget(self) -> list[tuple[int, str]]:
        with self._book.reading() as connection:
            return connection.execute(replays.LETTERS, (self._number,)).fetchall()

    # ---- its state ---------------------------------------------------------------------------------------------------

    def _read(self) -> Replay:
        with self._book.reading() as connection:
            return found(connection, self._number)

    async def _stop(self, state: str, note: str) -> None:
        now = self._book.clock.now()

        def stop(connection: Connection) -> bool:
            (claim,) = connection.execute(replays.WHO, (self._number,)).fetchone()
            return claim == self._claim and replays.stop(connection, self._number, state, note, now, of=(RUNNING,))

        await anyio.to_thread.run_sync(self._book.write, stop)


def _note_forgotten(rows: Sequence[tuple[int, int]], connection: Connection) -> None:
    connection.executemany(replays.FORGOT, rows)
