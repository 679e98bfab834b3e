"""The service that is made to suffer: `crossfoot worker tests.chaos.service:app`, with `CHAOS_LIFE` in the environment.

No unique key keeps a second effect out of its tables; if there is never one, that is crossfoot's doing.
"""

from __future__ import annotations

import faulthandler
import signal
import time
from typing import Any

import anyio
import msgspec

from crossfoot import Crossfoot
from crossfoot.clock import Micros, SystemClock, micros
from crossfoot.connection import is_postgres
from crossfoot.effects.sequence import InOrder
from crossfoot.message import Message
from crossfoot.worker.retry import Retry
from tests.chaos.life import GOOD, INVOICE, MOVED, POISON, Life, Notes, my_life
from tests.crash import sabotage
from tests.servers.run import offset_of

TABLES = ("effects", "ledger", "receipts")

IN_ORDER = InOrder(contiguous=True, wait=6.0)
"""Predecessors may be missing for good: the publisher does not ask again for everything it was told nothing about."""

RETRY = Retry(attempts=50, deaths=1_000, base=0.05, cap=1.0)
"""A message may be in the hands of many that fail before somebody gets through; only poison dies."""


class MovedClock(SystemClock):
    """The machine's clock, ahead or behind by what its file says. Only the wall's: nothing moves the other one."""

    def __init__(self, path: str) -> None:
        self._offset = offset_of(path)

    def now(self) -> Micros:
        return super().now() + micros(self._offset())


class Case(msgspec.Struct):
    """What is released."""

    amount: int


def make_app(life: Life) -> Crossfoot:
    app = Crossfoot(
        "billing", database=life.database, queue=life.queue, endpoint=life.endpoint, region="eu-central-1",
        clock=MovedClock(life.clock), lease=life.lease, wait=0.2, concurrency=life.handlers, batch=life.batch,
        prefetch=4 * life.handlers, reconcile=1.0, grace=5.0,
    )  # fmt: skip
    app.pattern = msgspec.structs.replace(app.pattern, retry=RETRY)
    notes = Notes(life.notes, "worker")
    effects, ledger, receipts = (_insert(table, life.database) for table in TABLES)

    def bill(message: Message, tx: Any) -> None:
        notes.write("begun", message.id)
        row = {"subject": message.subject, "message": message.id}
        time.sleep(life.pause)
        tx.execute(effects, row)
        tx.execute(ledger, row)
        tx.send(INVOICE, subject=message.subject)
        notes.write("done", message.id)

    async def receipt(message: Message, tx: Any) -> None:
        notes.write("begun", message.id)
        await anyio.sleep(life.pause)
        await tx.execute(receipts, {"subject": message.subject, "message": message.id})
        notes.write("done", message.id)

    def move(message: Message, tx: Any) -> None:
        notes.write("begun", message.id)
        values = "%(subject)s, %(sequence)s" if is_postgres(life.database) else ":subject, :sequence"
        row = {"subject": message.subject, "sequence": message.sequence}
        tx.execute(f"INSERT INTO moves (subject, sequence) VALUES ({values})", row)
        notes.write("done", message.id)

    app.handler(MOVED, name="move", in_order=IN_ORDER)(move)
    app.handler(GOOD, operation="bill:{subject}", name="bill", payload=Case)(bill)
    app.handler(POISON, operation="bill:{subject}", name="poison", payload=Case)(bill)
    app.handler(INVOICE, operation="receipt:{subject}", name="receipt")(receipt)
    if life.sabotage:
        sabotage.KINDS[life.sabotage](app)
    return app


def _insert(table: str, database: str) -> str:
    values = "%(subject)s, %(message)s" if is_postgres(database) else ":subject, :message"
    return f"INSERT INTO {table} (subject, message) VALUES ({values})"


def __getattr__(name: str) -> Crossfoot:
    """`app`, made when it is asked for: whoever only wants the names above has no life to make one of."""
    if name != "app":
        raise AttributeError(name)
    faulthandler.register(signal.SIGUSR1)  # a process that seems to hang can be asked where
    app = globals()["app"] = make_app(my_life())
    return app
