"""Lanes: each runs one piece of work at a time, over a connection of its own.

Synchronous handlers run in threads. Handing work to a thread costs more than a short handler, so a lane takes a
*chunk* of deliveries at once, as many as it can finish in a moment by the service time measured so far. Asynchronous
handlers run in the event loop, one per lane. In batch mode a chunk is one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from itertools import zip_longest
from typing import Protocol

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream

from crossfoot.books.entry import Kind
from crossfoot.clock import Clock
from crossfoot.effects.databases.session import AsyncSession, Database, Session
from crossfoot.effects.optimism import Optimism
from crossfoot.effects.perform import aperform, forgo, perform
from crossfoot.effects.together import aperform_batch, perform_batch
from crossfoot.effects.work import Work
from crossfoot.errors import LeaseLost, Unavailable
from crossfoot.tracing.delivering import together
from crossfoot.worker.admission import aadmit, aadmitted, admit, admitted
from crossfoot.worker.alone import Alone
from crossfoot.worker.held import Held

logger = logging.getLogger("crossfoot.worker")

Result = tuple[Held, Kind | Exception | None]
"""How a delivery ended: closed, failed, or `None`: not begun, because the worker stops."""

MOMENT = 0.05
"""Seconds a chunk should take at most."""

MAX_CHUNK = 256


class Settle(Protocol):
    """What happens with the results of a chunk."""

    def __call__(self, results: Sequence[Result]) -> Awaitable[None]: ...


class Pace:
    """How many deliveries a lane takes at once: what it finishes in a moment, judged by a moving average."""

    def __init__(self) -> None:
        self._each = MOMENT

    @property
    def chunk(self) -> int:
        return max(1, min(MAX_CHUNK, int(MOMENT / self._each)))

    def learn(self, seconds: float, count: int) -> None:
        """A chunk of `count` took `seconds`. Slowness is believed at once, speed step by step."""
        each = max(seconds / count, 1e-6)
        self._each = each if each > self._each else self._each / 2 + each / 2


class Load:
    """How many lanes there are, and how many of them are at work."""

    def __init__(self) -> None:
        self.lanes = 0
        self.working = 0


class Lane:
    """What both kinds of lane share: where work comes from, and where results go.

    Args:
        batch: deliveries per transaction; 1 is the plain mode.
        optimistic: whether batches begin without savepoints.
        stopping: says whether the worker is to finish; work not begun by then is handed back.
    """

    def __init__(
        self, database: Database, clock: Clock, settle: Settle, load: Load, alone: Alone, *, batch: int,
        optimistic: bool, stopping: Callable[[], bool],
    ) -> None:  # fmt: skip
        load.lanes += 1
        self._load = load
        self._database = database
        self._clock = clock
        self._settle = settle
        self._alone = alone
        self._batch = batch
        self._optimism = Optimism() if optimistic else None
        self._stopping = stopping
        self._pace = Pace()

    def _more(self, first: Held, source: MemoryObjectReceiveStream[Held], limit: int) -> list[Held]:
        chunk = [first]
        with suppress(anyio.WouldBlock, anyio.EndOfStream):
            while len(chunk) < limit:
                chunk.append(source.receive_nowait())
        return chunk


class ThreadLane(Lane):
    """A lane for synchronous handlers."""

    async def run(self, source: MemoryObjectReceiveStream[Held]) -> None:
        """Work until the source ends."""
        limiter = anyio.CapacityLimiter(1)
        session = await anyio.to_thread.run_sync(self._database.connect, limiter=limiter)
        try:
            async for held in source:
                chunk = self._more(held, source, self._batch if self._batch > 1 else self._pace.chunk)
                started = self._clock.monotonic()
                with anyio.CancelScope(shield=True):  # a thread cannot be cancelled: wait for it, and keep its results
                    self._load.working += 1
                    results = await anyio.to_thread.run_sync(self._work, session, chunk, limiter=limiter)
                    self._load.working -= 1
                    self._pace.learn(self._clock.monotonic() - started, len(chunk))
                    await self._settle(results)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(session.close, limiter=limiter)

    def _work(self, session: Session, chunk: Sequence[Held]) -> list[Result]:
        if self._batch > 1 and len(chunk) > 1 and not self._stopping() and not any(held.suspect for held in chunk):
            results = self._together(session, chunk)
            if results is not None:
                return results
        return [(held, self._one(session, held, after)) for held, after in zip_longest(chunk, chunk[1:])]

    def _one(self, session: Session, held: Held, after: Held | None) -> Kind | Exception | None:
        try:
            if self._stopping():
                return None
            if held.suspect:
                with self._alone.turn(held), admitted(held):
                    return perform(held.start(), session, self._database)
            following = after.early() if after is not None else None
            with admitted(held):
                return perform(held.start(), session, self._database, following)
        except Exception as error:  # noqa: BLE001 - a failed delivery is a result, booked with its cause
            return error
        finally:
            forgo(held.work, session)
            held.stamp()

    def _together(self, session: Session, chunk: Sequence[Held]) -> list[Result] | None:
        with ExitStack() as permits:
            admissible, busy = admit(chunk, permits)
            ready, works, results = _ready(admissible)
            try:
                with together([held.trace for held in ready]):
                    kinds = perform_batch(works, session, self._optimism) if works else []
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - the transaction as a whole failed: one by one finds out who is to blame
                _tell_undone(chunk, error)
                return None
        return [*busy, *results, *zip(ready, kinds, strict=True)]


class LoopLane(Lane):
    """A lane for asynchronous handlers."""

    async def run(self, source: MemoryObjectReceiveStream[Held]) -> None:
        """Work until the source ends."""
        session = await self._database.aconnect()
        try:
            async for held in source:
                chunk = self._more(held, source, self._batch)
                results: list[Result] = []
                self._load.working += 1
                try:
                    await self._work(session, chunk, results)
                finally:
                    self._load.working -= 1
                    with anyio.CancelScope(shield=True):  # what was committed before it was cancelled has its end, too
                        await self._settle(results)
        finally:
            with anyio.CancelScope(shield=True):
                await session.close()

    async def _work(self, session: AsyncSession, chunk: Sequence[Held], results: list[Result]) -> None:
        if len(chunk) > 1 and not self._stopping() and not any(held.suspect for held in chunk):
            done = await self._together(session, chunk)
            if done is not None:
                results += done
                return
        for held in chunk:
            results.append((held, await self._one(session, held)))

    async def _one(self, session: AsyncSession, held: Held) -> Kind | Exception | None:
        if self._stopping():
            return None
        try:
            work = held.start()
            with anyio.CancelScope() as held.cancel:
                if held.suspect:
                    async with self._alone.aturn(held), aadmitted(held):
                        return await aperform(work, session, self._database)
                async with aadmitted(held):
                    return await aperform(work, session, self._database)
        except Exception as error:  # noqa: BLE001 - a failed delivery is a result, booked with its cause
            return error
        finally:
            held.stamp()
        assert held.message is not None
        return LeaseLost(
            f"{held.message.key}: the lease was lost while the handler ran; it was cancelled, nothing was kept"
        )

    async def _together(self, session: AsyncSession, chunk: Sequence[Held]) -> list[Result] | None:
        async with AsyncExitStack() as permits:
            admissible, busy = await aadmit(chunk, permits)
            ready, works, results = _ready(admissible)
            try:
                with together([held.trace for held in ready]):
                    kinds = await aperform_batch(works, session, self._optimism) if works else []
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - as above
                _tell_undone(chunk, error)
                return None
        return [*busy, *results, *zip(ready, kinds, strict=True)]


def _tell_undone(chunk: Sequence[Held], error: Exception) -> None:
    """Nobody's failure, and yet worth telling: batches that all end so are slower than none."""
    logger.info(
        "a transaction of %d messages failed as a whole (%s); they are handled one by one",
        len(chunk),
        type(error).__name__,
    )
    for held in chunk:
        held.undone = True


def _ready(chunk: Sequence[Held]) -> tuple[list[Held], list[Work], list[Result]]:
    """Those that may begin, with their work; and the results of those whose lease ran out while they waited here."""
    ready: list[Held] = []
    works: list[Work] = []
    over: list[Result] = []
    for held in chunk:
        try:
            works.append(held.start())
        except LeaseLost as error:
            over.append((held, error))
        else:
            ready.append(held)
    return ready, works, over
