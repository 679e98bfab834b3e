"""Two task queues that run on SQLite, each with its own recommended fast settings, doing the same job.

They are timed from the first handler's start to the last one's end, which leaves their start-up out; the worker of
crossfoot is timed as a whole.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from typing import Any

from benchmarks.kit.load import Meter
from benchmarks.kit.workload import EFFECT, Variant, check_effects, create_effect_table, subject

PATIENCE = 300.0
"""Seconds after which a peer that does not finish is given up."""


class Completions:
    """Starts the meter at the first handler and stops it at the last."""

    def __init__(self, messages: int, meter: Meter) -> None:
        self._left = messages
        self._begun = False
        self._meter = meter
        self._lock = threading.Lock()
        self._done = threading.Event()

    def begin(self) -> None:
        with self._lock:
            if not self._begun:
                self._begun = True
                self._meter.start()

    def end(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._meter.stop()
                self._done.set()

    def wait(self) -> None:
        if not self._done.wait(PATIENCE):
            raise RuntimeError(f"{self._left} messages were still to do after {PATIENCE} s")


class Effects:
    """One autocommitting connection per thread, as a handler of a task queue would have it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._local = threading.local()

    def insert(self, case: str, amount: int) -> None:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, isolation_level=None, timeout=30)
            connection.execute("PRAGMA synchronous = FULL")
            self._local.connection = connection
        connection.execute(EFFECT, (case, amount))


def huey(*, fsync: bool | None, workers: int) -> Any:
    """Huey: WAL is its default; `fsync=False` is what its guide suggests for speed."""

    def run(folder: str, messages: int, meter: Meter) -> str:
        from huey import SqliteHuey

        logging.getLogger("huey").setLevel(logging.WARNING)
        path = os.path.join(folder, "job.db")
        create_effect_table(path)
        options: dict[str, Any] = {} if fsync is None else {"fsync": fsync}
        app = SqliteHuey("bench", filename=os.path.join(folder, "huey.db"), results=False, **options)
        effects, completions = Effects(path), Completions(messages, meter)

        def bill(case: str, amount: int) -> None:
            completions.begin()
            effects.insert(case, amount)
            completions.end()

        task = app.task()(bill)
        with app.storage.db(commit=True) as cursor:  # its own enqueue flushes once per task: fill it in one go instead
            rows = [("bench", _encoded(app, task.s(subject(n), n)), 0.0) for n in range(messages)]
            cursor.executemany("INSERT INTO task (queue, data, priority) VALUES (?, ?, ?)", rows)
        consumer = app.create_consumer(workers=workers, periodic=False, initial_delay=0.01, check_worker_health=False)
        consumer.start()
        completions.wait()
        consumer.stop(graceful=True)
        return check_effects(path, messages)

    return run


def _encoded(app: Any, task: Any) -> bytes:
    return app.serialize_task(task)  # type: ignore[no-any-return]  # huey is untyped


def dbos(*, concurrency: int) -> Any:
    """DBOS: a queued workflow whose step is a datasource transaction, recorded in the transaction of its effect.

    Both of its files are put into WAL mode beforehand, which it does not do itself and which makes it faster.
    """

    def run(folder: str, messages: int, meter: Meter) -> str:
        import sqlalchemy as sa
        from dbos import DBOS, DBOSClient, SQLAlchemyDatasource

        path = os.path.join(folder, "job.db")
        create_effect_table(path)
        system = os.path.join(folder, "dbos.db")
        sqlite3.connect(system).execute("PRAGMA journal_mode = WAL").connection.close()
        url, completions = f"sqlite:///{system}", Completions(messages, meter)
        source = SQLAlchemyDatasource.create(f"sqlite:///{path}", {"pool_size": concurrency})
        statement = sa.text("INSERT INTO invoices (case_id, amount) VALUES (:case_id, :amount)")

        def insert(case: str, amount: int) -> None:
            source.sql_session().execute(statement, {"case_id": case, "amount": amount})

        step = source.transaction()(insert)

        def bill(case: str, amount: int) -> None:
            completions.begin()
            step(case, amount)
            completions.end()

        config = {
            "name": "bench", "system_database_url": url, "executor_id": "worker", "application_version": "1",
            "log_level": "ERROR", "enable_otlp": False, "sys_db_pool_size": 20, "max_executor_threads": concurrency * 2,
        }  # fmt: skip
        DBOS(config=config)
        DBOS.workflow(name="bill")(bill)
        DBOS.listen_queues([])  # launched once without, so that the tables are there and nothing runs yet
        DBOS.launch()
        client = DBOSClient(system_database_url=url)
        for n in range(messages):
            client.enqueue({"queue_name": "bench", "workflow_name": "bill", "app_version": "1"}, subject(n), n)
        client.destroy()
        DBOS.destroy()
        DBOS(config=config)
        DBOS.listen_queues(["bench"])
        DBOS.launch()
        DBOS.register_queue("bench", worker_concurrency=concurrency, polling_interval_sec=0.01)
        completions.wait()
        DBOS.destroy()
        return check_effects(path, messages)

    return run


VARIANTS = [
    Variant("huey", "peer", "may lose a message whose worker is killed, and the last ones in a power cut",
            huey(fsync=False, workers=1)),
    Variant("huey-fsync", "peer", "may lose a message whose worker is killed", huey(fsync=True, workers=1)),
    Variant("dbos", "peer", "effect once", dbos(concurrency=8), share=0.06),
]  # fmt: skip
