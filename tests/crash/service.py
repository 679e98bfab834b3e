"""The service that is crashed: an ordinary one, its effects in tables that would take them twice.

No unique key keeps a second effect out of the business tables; if there is never one, that is crossfoot's doing.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from crossfoot import Crossfoot
from crossfoot.boundaries import Boundary, reach
from crossfoot.message import Message
from tests.crash.job import BROKEN, GOOD, INVOICE, LATE, Job

TABLES = (
    "CREATE TABLE IF NOT EXISTS effects (subject TEXT, message TEXT)",
    "CREATE TABLE IF NOT EXISTS ledger (subject TEXT, message TEXT)",
    "CREATE TABLE IF NOT EXISTS receipts (subject TEXT, message TEXT)",
)


def make_tables(path: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for table in TABLES:
            connection.execute(table)


def make_app(job: Job) -> Crossfoot:
    """The service over the form and the queue of the job."""
    app = Crossfoot(
        "billing", database=_database(job), queue=job.queue, endpoint=job.endpoint, region="eu-central-1",
        lease=job.lease, wait=0.2, concurrency=2, batch=job.batch, optimistic=job.optimistic, prefetch=4,
        reconcile=0.4, grace=5.0, synchronous="NORMAL",
    )  # fmt: skip
    effect, receipt = _handlers(job)
    app.handler(GOOD, operation="bill:{subject}", name="bill")(effect)
    app.handler(INVOICE, operation="receipt:{subject}", name="receipt")(receipt)
    app.handler(BROKEN, name="break")(_broken_async if _is_async(job) else _broken)
    app.handler(LATE, name="late")(effect)
    return app


def _is_async(job: Job) -> bool:
    return job.form in ("aiosqlite", "sqlalchemy-async")


def _database(job: Job) -> Any:
    if job.form == "django":
        return _django(job.path)
    if job.form == "sqlalchemy":
        engine = create_engine(f"sqlite:///{job.path}")
        _patient(engine)
        return engine
    if job.form == "sqlalchemy-async":
        async_engine = create_async_engine(f"sqlite+aiosqlite:///{job.path}")
        _patient(async_engine.sync_engine)
        return async_engine
    return job.path


def _django(path: str) -> Any:
    from django.db import connections

    from tests.conformance.django_form import registered

    return connections[registered(path, OPTIONS={"init_command": "PRAGMA synchronous = NORMAL"})]


def _patient(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def settings(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = NORMAL")


def _insert(table: str, form: str) -> Any:
    if form.startswith("sqlalchemy"):
        return text(f"INSERT INTO {table} (subject, message) VALUES (:subject, :message)")
    if form == "django":
        return f"INSERT INTO {table} (subject, message) VALUES (%(subject)s, %(message)s)"
    return f"INSERT INTO {table} (subject, message) VALUES (:subject, :message)"


def _handlers(job: Job) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Two rows in two tables and a message; and what the message leads to. Death may come between any two."""
    effects, ledger, receipts = (_insert(table, job.form) for table in ("effects", "ledger", "receipts"))

    def bill(message: Message, tx: Any) -> None:
        row = {"subject": message.subject, "message": message.id}
        time.sleep(job.pause)
        _wait_at(job.hold if not job.hold_inside else "")
        tx.execute(effects, row)
        reach(Boundary.INSIDE_HANDLER)
        _wait_at(job.hold if job.hold_inside else "")
        tx.execute(ledger, row)
        tx.send(INVOICE, subject=message.subject)

    def receipt(message: Message, tx: Any) -> None:
        tx.execute(receipts, {"subject": message.subject, "message": message.id})

    async def abill(message: Message, tx: Any) -> None:
        row = {"subject": message.subject, "message": message.id}
        await anyio.sleep(job.pause)
        _wait_at(job.hold if not job.hold_inside else "")
        await tx.execute(effects, row)
        reach(Boundary.INSIDE_HANDLER)
        _wait_at(job.hold if job.hold_inside else "")
        await tx.execute(ledger, row)
        tx.send(INVOICE, subject=message.subject)

    async def areceipt(message: Message, tx: Any) -> None:
        await tx.execute(receipts, {"subject": message.subject, "message": message.id})

    return (abill, areceipt) if _is_async(job) else (bill, receipt)


def _wait_at(hold: str) -> None:
    """Say that a handler is here, once, and stay until somebody removes the file."""
    if not hold:
        return
    here, passed = Path(hold), Path(hold).with_suffix(".passed")
    if passed.exists():
        return
    try:
        here.touch(exist_ok=False)
    except FileExistsError:
        return
    until = time.monotonic() + 60
    while here.exists() and time.monotonic() < until:
        time.sleep(0.01)
    passed.touch()


def _broken(message: Message, tx: Any) -> None:
    raise RuntimeError("this case cannot be billed")


async def _broken_async(message: Message, tx: Any) -> None:
    raise RuntimeError("this case cannot be billed")
