"""The publisher: `python -m tests.chaos.publisher`. Goes on until SIGTERM, under the same faults, with ids of its own.

Before it asks it notes what it asks for, and then what it was told. What it was told nothing about it asks for again at
times, under the same id, as a careful publisher does; at other times it leaves it at that, as a careless one does.

Now and then it does as a web request does: it writes an order, and the message in the same transaction.
"""

from __future__ import annotations

import logging
import random
import signal
import sqlite3
import sys
from contextlib import closing
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import psycopg

import crossfoot.app
from crossfoot import Crossfoot
from crossfoot.connection import is_postgres
from crossfoot.effects.outbox import Outbox
from crossfoot.errors import DatabaseUnavailable, Unavailable
from crossfoot.message import Message
from crossfoot.queues.queue import Accepted, PublishAnswer, Refused
from tests.chaos.life import GOOD, MOVED, POISON, Life, Notes, my_life
from tests.chaos.service import make_app

FOLLOWED_UP = 4.0
"""Seconds after which a publisher that died is followed up, instead of a minute."""


class Publisher:
    """Publishes a few messages at a time."""

    def __init__(self, app: Crossfoot, life: Life) -> None:
        self._app = app
        self._every = life.every
        self._together = life.together
        self._database = life.database
        self._elsewhere = life.endpoint is not None
        self._notes = Notes(life.notes, "publisher")
        self._chance = random.Random()
        self._name = f"{self._chance.randrange(16**8):08x}"
        self._count = self._moves = 0
        self._unanswered: list[Message] = []

    async def run(self) -> None:
        with anyio.CancelScope() as going:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._until_told, going)
                while not going.cancel_called:
                    if self._chance.random() < 0.2:
                        await self._order([self._message()])
                    else:
                        await self._publish(self._next())
                    await anyio.sleep(self._every * self._chance.uniform(0.5, 1.5))

    async def _until_told(self, going: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                going.cancel()

    def _next(self) -> list[Message]:
        again, self._unanswered = self._unanswered, []
        return [*again, *(self._message() for _ in range(self._chance.randint(1, self._together)))]

    def _message(self) -> Message:
        self._count += 1
        if self._chance.random() < 0.15:
            self._moves += 1
            name = f"{self._name}-move-{self._moves}"
            return self._app.message(MOVED, id=name, subject=f"patient-{self._name}", sequence=self._moves)
        poison = self._chance.random() < 0.05
        name = f"{self._name}-{self._count}"
        amount: object = "much" if poison else self._count
        return self._app.message(POISON if poison else GOOD, id=name, subject=f"case-{name}", data={"amount": amount})

    async def _publish(self, messages: list[Message]) -> None:
        for message in messages:
            self._notes.write("asked", message.id, message.type)
        try:
            with anyio.CancelScope(shield=True):  # the answer to what was asked is heard out
                answers = await self._app.publish(*messages)
        except Unavailable as error:
            # Where the queue is elsewhere, its absence is an answer: they are in the book, and will be sent.
            promised = self._elsewhere and not isinstance(error, DatabaseUnavailable)
            for message in messages:
                self._notes.write("promised" if promised else "no answer", message.id, type(error).__name__)
            self._unanswered += [message for message in messages if self._chance.random() < 0.5]
            return
        for message, answer in zip(messages, answers, strict=True):
            self._notes.write(word_for(answer), message.id, getattr(answer, "reason", ""))
            if word_for(answer) == "doubtful" and self._chance.random() < 0.3:
                self._unanswered.append(message)

    async def _order(self, messages: list[Message]) -> None:
        for message in messages:
            self._notes.write("asked", message.id, message.type)
            self._notes.write("ordering", message.id)
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._order_in_one_transaction, messages)
        except (Unavailable, psycopg.Error, sqlite3.Error) as error:
            for message in messages:
                self._notes.write("no answer", message.id, type(error).__name__)
            return
        for message in messages:
            self._notes.write("ordered", message.id)

    def _order_in_one_transaction(self, messages: list[Message]) -> None:
        with closing(self._connect()) as connection, self._app.transaction(connection) as tx:
            for message in messages:
                connection.execute(f"INSERT INTO orders (message) VALUES ('{message.id}')")
                tx.send(message)

    def _connect(self) -> Any:
        if is_postgres(self._database):
            return psycopg.connect(self._database, connect_timeout=10)
        return sqlite3.connect(self._database, timeout=30)


def word_for(answer: PublishAnswer) -> str:
    if isinstance(answer, Accepted):
        return "accepted"
    if isinstance(answer, Refused):
        return "refused" if answer.permanent else "put off"
    return "doubtful"


async def main() -> None:
    life = my_life()
    app = make_app(life)
    vars(crossfoot.app)["Outbox"] = partial(Outbox, claim=FOLLOWED_UP)
    try:
        await Publisher(app, life).run()
    finally:
        await app.aclose()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    anyio.run(main)
