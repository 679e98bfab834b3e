"""DBOS Transact: a queued workflow with one step.

no-op: the step does nothing.  effect and crash: the step is a datasource
transaction, which records its result in the same Postgres transaction as the
inserted row: the one peer here whose effect is exactly once.
"""

import os
import signal
import threading
import time

import sqlalchemy as sa
from apps import common
from dbos import DBOS, DBOSClient, SQLAlchemyDatasource

URL = common.PG_DSN.replace("postgresql://", "postgresql+psycopg://")
QUEUE = "peers"


def configure(executor: str) -> None:
    DBOS(
        config={
            "name": "peers",
            "system_database_url": URL,
            "executor_id": executor,
            "application_version": "1",
            "log_level": "ERROR",
            "enable_otlp": False,
            "sys_db_pool_size": 20,
            "max_executor_threads": common.CONCURRENCY * 2,
        }
    )


if common.WORKLOAD == "noop":

    @DBOS.step()
    def step(key, value):
        common.mark()
else:
    source = SQLAlchemyDatasource.create(URL, {"pool_size": common.CONCURRENCY})
    statement = sa.text(common.sql(":key", ":value"))

    @source.transaction(isolation_level="READ COMMITTED")
    def step(key, value):
        source.sql_session().execute(statement, {"key": key, "value": value})


@DBOS.workflow()
def handle(key, value):
    if common.WORKLOAD == "crash":
        time.sleep(common.CRASH_SLEEP)
    step(key, value)
    if common.WORKLOAD != "noop":
        common.mark()  # after the commit
    if common.WORKLOAD == "crash":
        time.sleep(common.CRASH_SLEEP)


def register() -> None:
    DBOS.register_queue(
        QUEUE, worker_concurrency=common.CONCURRENCY, polling_interval_sec=float(os.environ.get("PEER_POLL", "0.01"))
    )


def work() -> None:
    configure("worker-" + os.environ.get("PEER_PROC", "0"))
    DBOS.listen_queues([QUEUE])
    DBOS.launch()
    register()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    DBOS.destroy()


def enqueue(n):
    # The tables are made by launching once without listening to any queue.
    configure("producer")
    DBOS.listen_queues([])
    DBOS.launch()
    register()
    client = DBOSClient(system_database_url=URL)
    options = {"queue_name": QUEUE, "workflow_name": "handle", "app_version": "1"}
    keys = common.keys(n)
    start = time.perf_counter()
    for i, key in enumerate(keys):  # there is no batch call for queues
        client.enqueue(options, key, i)
    return time.perf_counter() - start


def pending():
    with sa.create_engine(URL).connect() as c:
        return c.execute(
            sa.text("SELECT count(*) FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING')")
        ).scalar()
