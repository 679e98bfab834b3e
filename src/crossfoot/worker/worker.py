"""The worker: one queue, its handlers, and the tasks that keep both and the book in step."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskGroup

from crossfoot.books.entry import Kind
from crossfoot.books.posting import post
from crossfoot.books.store import Book
from crossfoot.boundaries import Boundary, reach
from crossfoot.clock import Clock
from crossfoot.effects.attached import note_queues
from crossfoot.effects.databases.session import Database
from crossfoot.effects.outbox import Outbox
from crossfoot.effects.perform import is_cancelled
from crossfoot.errors import DatabaseUnavailable, HandlerBusy, HandlerQuit, QueueUnavailable, UnknownType, UsageError
from crossfoot.queues.queue import Delivery, LocalQueue, LosesAtOnce, Order, Queue
from crossfoot.worker.alone import Alone
from crossfoot.worker.dispatch import Dispatch
from crossfoot.worker.held import Held
from crossfoot.worker.intake import Intake
from crossfoot.worker.lanes import LoopLane, Result, ThreadLane
from crossfoot.worker.leases import Leases
from crossfoot.worker.parking import resume_overdue
from crossfoot.worker.pattern import Pattern
from crossfoot.worker.reconcile import Reconciliation
from crossfoot.worker.registry import Registry
from crossfoot.worker.retry import Retry
from crossfoot.worker.settling import Settling
from crossfoot.worker.standstill import Watch
from crossfoot.worker.upkeep import Chore, Upkeep

logger = logging.getLogger("crossfoot.worker")


class Worker:
    """Works one queue until it is stopped.

    Args:
        queues: where the outbox may have to send to, by name; holds the worked queue too.
        chores: what else is done for the book every few seconds.
    """

    def __init__(
        self, service: str, book: Book, queue: Queue, registry: Registry, database: Database, *,
        queues: Mapping[str, Queue] | None = None, pattern: Pattern | None = None, chores: Sequence[Chore] = (),
    ) -> None:  # fmt: skip
        self.pattern = pattern or Pattern()
        self.name = f"{service}-{socket.gethostname()}-{os.getpid()}"
        self._service = service
        self._book = book
        self._ledger = book.another()
        self._clock: Clock = book.clock
        self._queue = queue
        self._queues = {**(queues or {}), queue.name: queue}
        self._registry = registry
        self._chores = tuple(chores)
        self._database = database
        self._stopping = anyio.Event()
        self._receiving: anyio.CancelScope | None = None
        self._room = anyio.Event()
        self.ends: Counter[str] = Counter()
        """Deliveries that came to an end, by what it was: the kind of the entry, `failed`, or `handed back`."""
        self.trouble = ""
        """Why the queue could not be received from when it was last tried; empty when it could."""
        self.leaves = anyio.Event()
        """Set when it receives no more, and waits for what runs."""
        self.upkeep: Upkeep | None = None
        self.leases: Leases | None = None
        self.on_ready: Callable[[], None] | None = None
        """Called, in the event loop, when book and queues are open and it begins to receive."""
        self.on_settled: Callable[[Held], None] | None = None
        """Called, in the event loop, with every delivery whose end is in the book."""

    def stop(self) -> None:
        """Finish what runs, hand the rest back, and return from `run`. To be called in the event loop."""
        self._stopping.set()
        self._break_off()

    def _break_off(self) -> None:
        """Receive anew: what was asked for before a standstill might bring what is in hand here, its lease unextended."""
        if self._receiving is not None:
            self._receiving.cancel()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    async def run(self, *, until_idle: bool = False) -> None:
        """Work.

        Args:
            until_idle: return when the queue is empty and nothing is in hand, instead of waiting for more.

        Raises:
            QueueUnavailable: the queue cannot be used at the start (later it is tried again).
            DiskFull, DatabaseUnavailable: the book cannot be written; nothing was acked that is not in it.
        """
        if not len(self._registry):
            raise UsageError("there is no handler to run: register one with @app.handler(...)")
        with self._registry.in_use(self.name):
            await self._run(until_idle)

    async def _run(self, until_idle: bool) -> None:
        for handler in self._registry:
            if handler.in_order is not None and handler.in_order.wait < self.pattern.lease:
                logger.warning(
                    "handler %s waits %g s for a predecessor, less than the lease of %g s: one that a killed worker held comes too late",
                    handler.name, handler.in_order.wait, self.pattern.lease,
                )  # fmt: skip
        await anyio.to_thread.run_sync(self._book.open)
        for queue in self._queues.values():
            await queue.open()
        await anyio.to_thread.run_sync(note_queues, self._book, tuple(self._queues.values()))
        try:
            for chore in self._chores:
                await anyio.to_thread.run_sync(chore.begin)
            number = await anyio.to_thread.run_sync(self._book.start_worker, self.name, self._service)
            logger.info("worker %s works queue %s, book %s", self.name, self._queue.name, self._book.place.name)
            if self.on_ready is not None:
                self.on_ready()
            await self._work(number, until_idle)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._finish, number)
        except BaseExceptionGroup as group:
            raise _first(group) from group
        finally:
            for chore in self._chores:
                chore.close()
            self._ledger.close()

    async def _work(self, number: int, until_idle: bool) -> None:
        local = await anyio.to_thread.run_sync(self._local_queue)
        leases = self.leases = Leases(self._book, self._queue, self._clock, lease=self.pattern.lease)
        if isinstance(self._queue, LosesAtOnce):
            self._queue.on_lost(leases.lose)
        retry = self._retry(until_idle)
        intake = Intake(self._book, self._queue, self._registry, retry, number, local, self.name)
        outbox = Outbox(self._book, self._queues, worker=number, claim=self.pattern.lease)
        upkeep = self.upkeep = Upkeep(self._book, self._ledger, self._queue, self._queues, outbox, number)
        watch = Watch(self.pattern.lease, self._clock, self._break_off)
        settling = Settling(
            self._book, self._queue, retry, local=local, forget=self._forgetter(leases), sent=upkeep.wake_outbox,
            explain=watch.explain,
        )  # fmt: skip
        reconciliation = Reconciliation(self._book, self._queue, worker=number)
        ordered = self._queue.capabilities.order is Order.KEY
        in_order = any(handler.in_order is not None for handler in self._registry)
        dispatch = Dispatch(settling, ordered=ordered, in_order=in_order, settled=self._count)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.run)
            upkeep.start(tasks, leases, reconciliation, self.pattern, self._chores)
            async with anyio.create_task_group() as lanes:
                self._start_lanes(lanes, dispatch)
                with dispatch.threads, dispatch.loops:
                    try:
                        await self._receive(intake, leases, dispatch, outbox, reconciliation if until_idle else None)
                    finally:
                        self.leaves.set()
                lanes.cancel_scope.deadline = anyio.current_time() + self.pattern.grace
            await settling.settle([(held, None) for held in leases.held])  # cut short when the grace was over
            tasks.cancel_scope.cancel()

    def _local_queue(self) -> LocalQueue | None:
        """The queue, if it lies in the effects' own file. Looks at the disk."""
        queue = self._queue
        return queue if isinstance(queue, LocalQueue) and queue.is_in(self._database.path) else None

    def _start_lanes(self, lanes: TaskGroup, dispatch: Dispatch) -> None:
        """Start lanes for the kinds of handler there are."""
        streams = []
        alone = Alone(self._book)
        optimistic = self.pattern.optimistic or any(handler.many for handler in self._registry)
        for kind, wanted in ((ThreadLane, False), (LoopLane, True)):
            send, receive = anyio.create_memory_object_stream[Held](float("inf"))
            streams.append(send)
            with receive:
                if any(handler.is_async is wanted for handler in self._registry):
                    for _ in range(self.pattern.concurrency):
                        lane = kind(
                            self._database, self._clock, dispatch.settle, dispatch.load, alone, batch=self.pattern.batch,
                            optimistic=optimistic, stopping=self._stopping.is_set,
                        )  # fmt: skip
                        lanes.start_soon(self._run_lane, lane, receive.clone())
        dispatch.threads, dispatch.loops = streams

    async def _run_lane(self, lane: ThreadLane | LoopLane, source: Any) -> None:
        with source:
            try:
                await lane.run(source)
            except anyio.get_cancelled_exc_class() as error:
                if is_cancelled():
                    raise
                raise HandlerQuit(
                    "a lane of this worker was cancelled, and not by crossfoot: look for something that a handler left running "
                    "and that cancels the task it was called in"
                ) from error

    async def _receive(
        self, intake: Intake, leases: Leases, dispatch: Dispatch, outbox: Outbox, until_idle: Reconciliation | None
    ) -> None:
        """Receive until told to stop, or until idle, where there is something to be done then."""
        failures = 0
        while not self._stopping.is_set():
            most = self._queue.capabilities.max_receive
            room = self._capacity - len(leases)
            # Rather one large receive than many small ones; and none that only takes turns with the handlers.
            in_turns = self.pattern.batch > 1 and not intake.remote
            if room < min(most, self._capacity // 2) or (in_turns and not dispatch.starved):
                await self._wait_for_room()
                continue
            await leases.catch_up()
            asked = self._clock.monotonic()
            try:
                limit = self._whole(min(room, most))
                deliveries = await self._unless_stopping(limit, 0.0 if until_idle else self._longest_wait)
                failures, self.trouble = 0, ""
                if not deliveries and until_idle and await self._idle(leases, outbox):
                    await until_idle.run()  # what the queue has forgotten is no more to do, and must not look so
                    return
            except QueueUnavailable as error:
                if isinstance(error, DatabaseUnavailable):  # the queue is a table in a file that cannot be used
                    raise
                failures += 1
                self.trouble = f"queue {self._queue.name} cannot be used: {error}"
                logger.warning("%s", self.trouble)
                await self._sleep(min(30.0, 0.5 * 2 ** min(failures, 6)))
                continue
            if deliveries:
                reach(Boundary.AFTER_RECEIVE)
                helds = await anyio.to_thread.run_sync(intake.take, deliveries, asked + self.pattern.lease)
                reach(Boundary.AFTER_RECEIVED_ENTRY)
                leases.hold(helds)
                await dispatch.take(helds)

    def _retry(self, until_idle: bool) -> Retry:
        """Our patience, and the queue's. One who works until nothing is left waits for no newer version."""
        waits = {"unknown_for": 0.0} if until_idle else {}
        return msgspec.structs.replace(self.pattern.retry, most=self._queue.max_attempts, **waits)

    @property
    def _longest_wait(self) -> float:
        """Leases count from before they were asked for: what comes at the end of a long wait must have most of its own left."""
        return min(self.pattern.wait, self.pattern.lease / 4)

    @property
    def _capacity(self) -> int:
        """Deliveries in hand at most: what the lanes work on, and enough for the next turn, taken in by large receives."""
        return max(self.pattern.prefetch, 2 * self.pattern.batch) + self.pattern.concurrency * self.pattern.batch

    def _whole(self, limit: int) -> int:
        """As many deliveries as make whole batches: the last one would be committed half empty."""
        return limit - limit % self.pattern.batch or limit

    async def _unless_stopping(self, limit: int, wait: float) -> list[Delivery]:
        """Receive, but do not wait out a long poll when the worker is to stop."""
        got: list[Delivery] = []
        with anyio.CancelScope() as self._receiving:
            got = await self._queue.receive(limit, lease=self.pattern.lease, wait=wait)
        return got

    async def _idle(self, leases: Leases, outbox: Outbox) -> bool:
        """Whether there is nothing left to do for anybody."""
        await anyio.to_thread.run_sync(resume_overdue, self._book)
        for queue in self._queues.values():
            if await outbox.drain(queue):
                return False
            if await outbox.waits(queue):  # put off, or claimed by a sender that may be dead
                await self._sleep(0.05)
                return False
        if len(leases):
            await self._wait_for_room()
            return False
        depth = await self._queue.depth()
        if depth.ready:
            return False
        if depth.held:
            await self._sleep(0.02)
            return False
        return True

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _forgetter(self, leases: Leases) -> Callable[[Sequence[Held]], None]:
        def forget(helds: Sequence[Held]) -> None:
            leases.forget(helds)
            for held in helds:
                if self.on_settled is not None:
                    self.on_settled(held)
                held.part()
            self._room.set()

        return forget

    def _count(self, results: Sequence[Result]) -> None:
        self.ends.update(_label(end) for _, end in results)

    async def _wait_for_room(self) -> None:
        self._room = anyio.Event()
        with anyio.move_on_after(0.5):
            await self._room.wait()

    async def _sleep(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._stopping.wait()

    def _finish(self, number: int) -> None:
        """Post what is left, and say that this worker stopped in order."""
        while post(self._ledger):
            pass
        for chore in self._chores:
            chore.turn(last=True)
        self._book.stop_worker(number)


def _label(end: Kind | Exception | None) -> str:
    """What one delivery's end is called in the worker's last line."""
    if isinstance(end, Kind):
        return end.label
    return "handed back" if end is None or isinstance(end, (HandlerBusy, UnknownType)) else "failed"


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception a person should see."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
