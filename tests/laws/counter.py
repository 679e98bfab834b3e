"""A service whose queue looks into the book before it does what cannot be undone, and counts what it hands out.

The queue is a real one in a file of its own, so that no step rides in the effect's transaction; the look is over a
connection of its own, so that it sees what is durable and nothing else.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from enum import IntEnum
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from crossfoot import Crossfoot, Noop
from crossfoot.books.entry import ACK_REASONS, Kind
from crossfoot.books.store import Book
from crossfoot.message import Message
from crossfoot.message.structured import key_of
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Delivery, Outgoing, PublishAnswer, ReceiptAnswer
from crossfoot.worker.retry import Retry

PATIENCE = 60.0


@cache
def _made_once() -> bytes:
    """A file with the tables of a book and a queue, because a migration takes longer than an example."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        Book(path).open().close()
        return path.read_bytes()


class Act(IntEnum):
    """What becomes of a message."""

    BILL = 0
    DECLINE = 1
    RAISE_ONCE = 2
    RAISE_ALWAYS = 3
    SWALLOW = 4
    TELL = 5


class Witness(EmbeddedQueue):
    """Writes down every step that the book does not justify, and the most deliveries that were out at once."""

    def __init__(self, path: Path, book: Path) -> None:
        path.write_bytes(_made_once())
        super().__init__(path, "billing", ordered=False, synchronous="OFF")
        self._book = book
        self._keys: dict[str, str] = {}
        self._out: set[str] = set()
        self.most_out = 0
        self.unjustified: list[str] = []

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        self._look("published", [one.key for one in messages], (Kind.INTENDED, Kind.RESUMED))
        return await super().publish(messages)

    async def receive(self, limit: int, *, lease: float, wait: float = 0.0) -> list[Delivery]:
        deliveries = await super().receive(limit, lease=lease, wait=wait)
        self._keys |= {one.receipt: key_of(one.body) or "" for one in deliveries}
        self._out |= {one.receipt for one in deliveries}
        self.most_out = max(self.most_out, len(self._out))
        return deliveries

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        self._look("acked", self._back(receipts), ACK_REASONS)
        return await super().ack(receipts)

    async def release(self, receipts: Sequence[str], *, delay: float = 0.0) -> list[ReceiptAnswer]:
        self._look("handed back", self._back(receipts), (Kind.FAILED, Kind.RELEASED))
        return await super().release(receipts, delay=delay)

    async def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[ReceiptAnswer]:
        self._look("dead-lettered", self._back([one.receipt for one in deliveries]), (Kind.FAILED,))
        return await super().dead_letter(deliveries, reason=reason)

    def _back(self, receipts: Sequence[str]) -> list[str]:
        self._out.difference_update(receipts)
        return [self._keys[receipt] for receipt in receipts]

    def _look(self, step: str, keys: Iterable[str], reasons: Iterable[Kind]) -> None:
        marks = ", ".join(str(kind.value) for kind in reasons)
        with closing(sqlite3.connect(self._book, timeout=30)) as connection:
            for key in keys:
                found = connection.execute(
                    f"""SELECT 1 FROM crossfoot_messages m JOIN crossfoot_entries e ON e.message = m.key
                    WHERE m.source || '|' || m.id = ? AND e.kind IN ({marks})""",
                    (key,),
                ).fetchone()
                if found is None:
                    self.unjustified.append(f"{key} was {step}, and nothing durable says why")


class Service:
    """The handlers, and how many of them run at once."""

    def __init__(self, folder: Path) -> None:
        path = folder / "billing.db"
        path.write_bytes(_made_once())
        self.app = Crossfoot("billing", database=path, queue=Witness(folder / "queue.db", path), synchronous="NORMAL")
        self.path = path
        self.most_running = 0
        self.deliveries: dict[str, int] = {}
        self._running = 0
        self._lock = threading.Lock()
        self.app.handler("case.released")(self._handle)
        self.app.handler("invoice.issued")(self._receive)

    @property
    def witness(self) -> Witness:
        assert isinstance(self.app.queue, Witness)
        return self.app.queue

    def work(self, acts: Sequence[Act], **pattern: Any) -> None:
        """Publish one message for each act, and work until nothing is left to do."""

        async def run() -> None:
            await self.app.publish(*[self.app.message("case.released", data=int(act)) for act in acts])
            with anyio.fail_after(PATIENCE):
                retry = Retry(attempts=2, base=0.001, cap=0.002)
                await self.app.worker(**{"wait": 0.01, "retry": retry} | pattern).run(until_idle=True)
            await self.app.aclose()

        anyio.run(run)

    def fates(self) -> list[int]:
        with closing(sqlite3.connect(self.path)) as connection:
            rows = connection.execute("SELECT fate FROM crossfoot_messages WHERE type = 'case.released' ORDER BY key")
            return [row[0] for row in rows]

    def _receive(self, message: Message, tx: Any) -> None:
        tx.outcome("letter.written")

    def _handle(self, message: Message, tx: Any) -> Any:
        with self._lock:
            self._running += 1
            self.most_running = max(self.most_running, self._running)
            self.deliveries[message.id] = self.deliveries.get(message.id, 0) + 1
        try:
            return self._do(Act(message.data), message, tx)
        finally:
            with self._lock:
                self._running -= 1

    def _do(self, act: Act, message: Message, tx: Any) -> Any:
        if act is Act.RAISE_ALWAYS or (act is Act.RAISE_ONCE and self.deliveries[message.id] == 1):
            raise RuntimeError("the printer is on fire")
        if act is Act.DECLINE:
            return Noop("nothing to bill")
        if act is Act.TELL:
            tx.send("invoice.issued")
        elif act is not Act.SWALLOW:
            tx.outcome("invoice.billed")
        return None
