"""The embedded queue's hot statements do the same work on a hundred thousand messages as on a thousand."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from crossfoot.clock import ManualClock
from crossfoot.queues.embedded import sql
from crossfoot.queues.embedded.store import EmbeddedStore
from crossfoot.queues.embedded.tables import creation
from crossfoot.queues.queue import Outgoing
from tests.unit.embedded_rig import make_file, make_store, open_connection, raw

FEW, MANY = 1_000, 100_000

PLANS = {
    "look": (
        sql.LOOK,
        "SEARCH crossfoot_queue USING COVERING INDEX crossfoot_queue_claim (queue=? AND state=? AND visible_at<?)",
    ),
    "oldest": (
        sql.OLDEST,
        "SEARCH crossfoot_queue USING COVERING INDEX crossfoot_queue_claim (queue=? AND state=? AND visible_at<?)",
    ),
    "claim": (
        sql.CLAIM,
        "SEARCH crossfoot_queue USING COVERING INDEX crossfoot_queue_claim (queue=? AND state=? AND visible_at<?)",
    ),
    "claim, the rows": (sql.CLAIM, "SEARCH crossfoot_queue USING INTEGER PRIMARY KEY (rowid=?)"),
    "insert": (
        sql.INSERT,
        "SEARCH crossfoot_queue USING COVERING INDEX crossfoot_queue_line (queue=? AND partition=? AND state<?)",
    ),
    "ack": (sql.ACK, "SEARCH crossfoot_queue USING INTEGER PRIMARY KEY (rowid=?)"),
    "release": (sql.RELEASE_LATER, "SEARCH crossfoot_queue USING INTEGER PRIMARY KEY (rowid=?)"),
    "extend": (sql.EXTEND, "SEARCH crossfoot_queue USING INTEGER PRIMARY KEY (rowid=?)"),
    "bury": (sql.BURY, "SEARCH crossfoot_queue USING INTEGER PRIMARY KEY (rowid=?)"),
    "expire": (sql.EXPIRE, "SEARCH crossfoot_queue USING INDEX crossfoot_queue_expiry (queue=? AND expires_at<?)"),
    "clock step": (
        sql.AHEAD_OF_TIME,
        "SEARCH crossfoot_queue USING INDEX crossfoot_queue_claim (queue=? AND state=? AND visible_at>?)",
    ),
    "browse": (sql.PAGE_OF_HELD, "SEARCH crossfoot_queue USING INTEGER PRIMARY KEY (rowid>?)"),
    "dead letters": (
        sql.PAGE_OF_DEAD,
        "SEARCH crossfoot_queue USING INDEX crossfoot_queue_dead (queue=? AND state=? AND rowid>?)",
    ),
    "expired": (
        sql.PAGE_OF_EXPIRED,
        "SEARCH crossfoot_queue USING INDEX crossfoot_queue_expired (queue=? AND state=?)",
    ),
}


def fill(path: Path, count: int) -> EmbeddedStore:
    """Half of the messages in one long line, half free; another queue beside it."""
    store = make_store(path, clock=ManualClock())
    other = make_store(path, clock=ManualClock(), queue="other")
    for start in range(0, count, 1_000):
        batch = [
            Outgoing(key=f"t|{n}", body=b"x" * 100, partition="case-1" if n % 2 else None)
            for n in range(start, start + 1_000)
        ]
        store.publish(batch)
        other.publish(batch[:100])
    return store


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return fill(make_file(tmp_path_factory.mktemp("few") / "queue.db"), FEW)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    return fill(make_file(tmp_path_factory.mktemp("many") / "queue.db"), MANY)


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_is_a_search_by_index(many: EmbeddedStore, name: str) -> None:
    statement, step = PLANS[name]
    assert step in plan(raw(many), statement)


def test_no_hot_statement_scans_or_sorts(many: EmbeddedStore) -> None:
    for name, (statement, _) in PLANS.items():
        steps = plan(raw(many), statement)
        assert not [step for step in steps if "SCAN" in step or "TEMP B-TREE" in step], (name, steps)


def test_the_depth_reads_indexes_only_where_there_may_be_many(many: EmbeddedStore) -> None:
    steps = [step for step in plan(raw(many), sql.DEPTH) if "crossfoot_queue" in step]
    assert all(step.startswith("SEARCH crossfoot_queue USING") for step in steps), steps
    assert [
        step for step in steps if "COVERING" not in step and "visible_at>" not in step and "expiry" not in step
    ] == []


def test_statistics_of_an_idle_moment_spoil_no_plan(tmp_path: Path) -> None:
    path = make_file(tmp_path / "queue.db")
    with closing(open_connection(path)) as connection:
        connection.execute("ANALYZE")
    store = fill(path, FEW)
    for name, (statement, step) in PLANS.items():
        assert step in plan(raw(store), statement), name


@pytest.mark.parametrize("what", ["look", "claim", "ack", "ack in line", "publish", "extend", "dead letter"])
def test_the_work_does_not_grow_with_the_queue(few: EmbeddedStore, many: EmbeddedStore, what: str) -> None:
    assert work(many, what) <= 1.2 * work(few, what) + 20


def test_the_migration_can_execute_what_makes_the_tables() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in creation():
            connection.execute(statement)
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE sql IS NOT NULL")}
    assert names >= {"crossfoot_queue", "crossfoot_queue_counts", "crossfoot_queue_claim", "crossfoot_queue_gone"}


def plan(connection: sqlite3.Connection, statement: str) -> list[str]:
    parameters: object = {"queue": "orders", "now": 1} if ":now" in statement else ("1",) * statement.count("?")
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]  # type: ignore[arg-type]  # sqlite3's stubs know no list of parameters here


def work(store: EmbeddedStore, what: str) -> int:
    """How many steps SQLite's machine takes for one call, triggers included."""
    calls: dict[str, Callable[[], object]] = {
        "look": store.look,
        "publish": lambda: store.publish([Outgoing(key="t|x", body=b"x", partition="case-1")]),
        "claim": lambda: store.claim(8, 30),
    }
    if what not in calls:
        receipts = [one.receipt for one in store.claim(1, 30)]
        calls |= {
            "ack": lambda: store.ack(receipts),
            "extend": lambda: store.extend(receipts, 30),
            "dead letter": lambda: store.dead_letter(receipts, "poison"),
            "ack in line": lambda: remove_the_head(store),
        }
    with counted(raw(store)) as steps:
        calls[what]()
    return len(steps)


def remove_the_head(store: EmbeddedStore) -> None:
    """Remove the head of the long line, so that its successor moves up."""
    raw(store).execute(
        "DELETE FROM crossfoot_queue WHERE key = (SELECT key FROM crossfoot_queue INDEXED BY crossfoot_queue_line"
        " WHERE queue = 'orders' AND partition = 'case-1' AND state = 0 AND state < 2)"
    )


@contextmanager
def counted(connection: sqlite3.Connection) -> Iterator[list[None]]:
    steps: list[None] = []
    connection.set_progress_handler(lambda: steps.append(None), 1)
    try:
        yield steps
    finally:
        connection.set_progress_handler(None, 1)
