"""crossfoot's own variants: the limit over its tables, the worker in every form, and the worker without books."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import anyio

from benchmarks.kit import limit, without_books
from benchmarks.kit.load import Meter
from benchmarks.kit.publish import publish_elsewhere
from benchmarks.kit.workload import EFFECT, SERVICE, TYPE, Variant, check_effects, create_effect_table
from crossfoot import Crossfoot, Message
from crossfoot.books.posting import post_all

BATCH = 100

Attach = Callable[[Crossfoot], None]


def sync_handler(app: Crossfoot) -> None:
    @app.handler(TYPE, operation="bill:{subject}")
    def bill(message: Any, tx: Any) -> None:
        tx.execute(EFFECT, (message.subject, message.data["amount"]))


def async_handler(app: Crossfoot) -> None:
    @app.handler(TYPE, operation="bill:{subject}")
    async def bill(message: Any, tx: Any) -> None:
        await tx.execute(EFFECT, (message.subject, message.data["amount"]))


def list_handler(app: Crossfoot) -> None:
    @app.handler(TYPE, operation="bill:{subject}", many=True)
    def bill(messages: list[Message], tx: Any) -> None:
        tx.connection.executemany(EFFECT, [(message.subject, message.data["amount"]) for message in messages])


def sqlalchemy_handler(app: Crossfoot) -> None:
    from sqlalchemy import text

    statement = text("INSERT INTO invoices (case_id, amount) VALUES (:case_id, :amount)")

    @app.handler(TYPE, operation="bill:{subject}")
    def bill(message: Any, tx: Any) -> None:
        tx.session.execute(statement, {"case_id": message.subject, "amount": message.data["amount"]})


def sqlalchemy_async_handler(app: Crossfoot) -> None:
    from sqlalchemy import text

    statement = text("INSERT INTO invoices (case_id, amount) VALUES (:case_id, :amount)")

    @app.handler(TYPE, operation="bill:{subject}")
    async def bill(message: Any, tx: Any) -> None:
        await tx.begin()
        await tx.session.execute(statement, {"case_id": message.subject, "amount": message.data["amount"]})


def as_path(path: str) -> Any:
    return path


def as_engine(path: str) -> Any:
    from sqlalchemy import create_engine

    return create_engine(f"sqlite:///{path}")


def as_async_engine(path: str) -> Any:
    from sqlalchemy.ext.asyncio import create_async_engine

    return create_async_engine(f"sqlite+aiosqlite:///{path}")


def prepared(folder: str, messages: int, attach: Attach, database: Callable[[str], Any]) -> tuple[Crossfoot, str]:
    path = os.path.join(folder, "job.db")
    create_effect_table(path)
    publish_elsewhere(path, messages)
    app = Crossfoot(SERVICE, database=database(path), synchronous="FULL")
    attach(app)
    app.book.open()
    return app, path


def check(app: Crossfoot, path: str, messages: int, *, books: bool = True) -> str:
    """`ok`, or what does not add up: effects, the queue, and the posted fates."""
    answer = check_effects(path, messages)
    with app.book.reading() as connection:
        (left,) = connection.execute("SELECT count(*) FROM crossfoot_queue").fetchone()
        settled, operations = (
            connection.execute(
                "SELECT coalesce(sum(count), 0) FROM crossfoot_tallies WHERE measure = ?", (m,)
            ).fetchone()[0]
            for m in ("fate settled", "operation")
        )
    if left:
        answer = f"{left} messages left in the queue"
    if books and not settled == operations == messages:
        answer = f"{settled} settled and {operations} operations for {messages} messages"
    return answer


def the_limit(batch: int) -> Callable[[str, int, Meter], str]:
    def run(folder: str, messages: int, meter: Meter) -> str:
        app, path = prepared(folder, messages, sync_handler, as_path)
        meter.start()
        limit.work(path, SERVICE, batch=batch)
        post_all(app.book)
        meter.stop()
        return check(app, path, messages)

    return run


def the_worker(
    batch: int, attach: Attach = sync_handler, database: Callable[[str], Any] = as_path, *, books: bool = True,
    concurrency: int = 1, optimistic: bool = False,
) -> Callable[[str, int, Meter], str]:  # fmt: skip
    def run(folder: str, messages: int, meter: Meter) -> str:
        app, path = prepared(folder, messages, attach, database)

        async def work() -> None:
            await app.worker(batch=batch, concurrency=concurrency, optimistic=optimistic).run(until_idle=True)

        switch: AbstractContextManager[None] = nullcontext() if books else without_books.switched_off()
        with switch:
            meter.start()
            anyio.run(work)
            meter.stop()
        return check(app, path, messages, books=books)

    return run


ONCE = "effect once, proven, full books"
BY_HAND = "effect once, entries, no retry, no lease, no proof"
VARIANTS = [
    Variant("limit-plain", "plain", BY_HAND, the_limit(1)),
    Variant("crossfoot-plain", "plain", ONCE, the_worker(1)),
    Variant("crossfoot-plain-no-books", "plain", "effect once, no books", the_worker(1, books=False)),
    Variant("limit-batch", "batch", BY_HAND, the_limit(BATCH)),
    Variant("crossfoot-batch", "batch", ONCE, the_worker(BATCH)),
    Variant("crossfoot-optimistic", "batch", ONCE, the_worker(BATCH, optimistic=True)),
    Variant("crossfoot-list", "batch", ONCE, the_worker(BATCH, list_handler)),
    Variant("crossfoot-batch-no-books", "batch", "effect once, no books", the_worker(BATCH, books=False)),
    Variant("crossfoot-plain-c4", "plain", ONCE, the_worker(1, concurrency=4)),
    Variant("crossfoot-async-plain", "plain", ONCE, the_worker(1, async_handler)),
    Variant("crossfoot-async-batch", "batch", ONCE, the_worker(BATCH, async_handler), share=0.5),
    Variant("crossfoot-sqlalchemy-plain", "plain", ONCE, the_worker(1, sqlalchemy_handler, as_engine), share=0.5),
    Variant("crossfoot-sqlalchemy-batch", "batch", ONCE, the_worker(BATCH, sqlalchemy_handler, as_engine), share=0.3),
    Variant(
        "crossfoot-sqlalchemy-async-plain", "plain", ONCE,
        the_worker(1, sqlalchemy_async_handler, as_async_engine), share=0.3,
    ),
    Variant(
        "crossfoot-sqlalchemy-async-batch", "batch", ONCE,
        the_worker(BATCH, sqlalchemy_async_handler, as_async_engine), share=0.2,
    ),
]  # fmt: skip
