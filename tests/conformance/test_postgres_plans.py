"""The hot statements of a queue in PostgreSQL do the same work on a hundred thousand messages as on a thousand; whatever the
statistics say, and however many were delivered before and cannot be vacuumed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import anyio
import psycopg
import pytest

from crossfoot.books import sql
from crossfoot.books.store import Book
from crossfoot.dialect import translate
from crossfoot.postgres import Connection, connect
from crossfoot.queues.postgres import ensure
from crossfoot.queues.postgres.places import HIGHEST, RANKS, Look, Places, after, columns
from crossfoot.queues.postgres.receiving import instant
from tests.conformance.postgres_queue_statements import A_CLAIM, ACK, CLAIM, COMMON, KEY, LOCAL, LOOK, STATEMENTS
from tests.conformance.postgres_scene import database_on
from tests.servers.plans import Plan, generic_plan, nodes, read_as_a_whole
from tests.servers.postgres import Postgres

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

FEW, MANY = 1_000, int(os.environ.get("CROSSFOOT_ROWS", "100000"))

FILL = b"""
INSERT INTO crossfoot_queue (place, enqueued_at, due_at, attempts, state, rank, priority, queue, message, line, body)
SELECT pg_current_xact_id()::text::bigint, now(), now(), 0, CASE WHEN mod(n, 50) = 0 THEN 1 WHEN mod(n, 51) = 0 THEN 3 ELSE 0 END,
       10 - mod(n, 2), mod(n, 2), %s, 'a|' || n, CASE WHEN mod(n, 2) = 0 THEN 'line' END, repeat('x', 200)::bytea
  FROM generate_series(%s::int, %s::int) AS n
"""
"""One in fifty waits, and is due; a few are dead; half of them stand in one long line."""

SEARCHED = {name: one for name, one in STATEMENTS.items() if one[2] is not None}


class Filled:
    """A database with a filled table, whose statistics are of the moment when it was empty."""

    def __init__(self, url: str, count: int) -> None:
        self.url = url
        anyio.run(lambda: ensure("orders", url=url))
        self.run("ANALYZE crossfoot_queue")
        with self.connection() as connection:
            connection.execute("SET session_replication_role = replica")  # the line is made below, and not by triggers
            for start in range(1, count + 1, 1_000):  # each a transaction, as publishers would
                connection.execute(FILL, ("orders", start, start + 999))
            connection.execute(FILL, ("other", 1, 100))
            connection.execute(
                "UPDATE crossfoot_queue SET state = 2 WHERE line IS NOT NULL AND state < 2 AND key > 2 AND queue = 'orders'"
            )
        self.run("VACUUM crossfoot_queue")

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            yield connection

    def run(self, statement: str) -> None:
        with self.connection() as connection:
            connection.execute(statement.encode())

    def explain(self, statement: bytes, parameters: Any, mode: str = "auto") -> Plan:
        """The plan of a prepared statement, as executed; and everything undone."""
        with self.connection() as connection:
            return generic_plan(connection, statement, parameters, mode)


@pytest.fixture(scope="module")
def few(postgres: Postgres) -> Iterator[Filled]:
    with database_on(postgres) as url:
        yield Filled(url, FEW)


@pytest.fixture(scope="module")
def many(postgres: Postgres) -> Iterator[Filled]:
    with database_on(postgres) as url:
        yield Filled(url, MANY)


def indexes(plan: Plan) -> set[str]:
    return {node["Index Name"] for node in nodes(plan) if "Index Name" in node}


def work(plan: Plan) -> int:
    """Pages looked at."""
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def assert_searched(name: str, plan: Plan, wanted: set[str] | None) -> None:
    scanned = [
        node["Node Type"]
        for node in nodes(plan)
        if node.get("Relation Name") == "crossfoot_queue" and "Seq" in node["Node Type"]
    ]
    assert not scanned, (name, scanned)
    assert indexes(plan) == wanted, (name, indexes(plan))


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize("name", SEARCHED)
def test_the_plan_is_a_search_by_index_although_the_statistics_are_of_an_empty_table(
    many: Filled, name: str, mode: str
) -> None:
    statement, parameters, wanted = STATEMENTS[name]
    assert_searched(name, many.explain(statement, parameters, mode), wanted)


@pytest.mark.parametrize("name", LOCAL)
def test_what_rides_in_a_transaction_goes_by_the_key(many: Filled, name: str) -> None:
    statement, parameters = LOCAL[name]
    plan = many.explain(translate(statement), parameters, "force_generic_plan")
    assert_searched(name, plan, {KEY} if name != "publish" else set())


@pytest.mark.parametrize("name", [name for name in SEARCHED if name != "set aside"])
def test_the_work_does_not_grow_with_the_queue(few: Filled, many: Filled, name: str) -> None:
    statement, parameters, _ = STATEMENTS[name]
    least, most = (work(filled.explain(statement, parameters)) for filled in (few, many))
    assert most <= 1.5 * least + 60, (least, most)


def test_with_statistics_of_today_the_plans_are_the_same(many: Filled) -> None:
    many.run("ANALYZE crossfoot_queue")
    for name, (statement, parameters, wanted) in SEARCHED.items():
        assert_searched(name, many.explain(statement, parameters), wanted)


def test_what_was_delivered_before_is_not_stepped_over_although_nothing_can_be_vacuumed(
    postgres: Postgres,
) -> None:
    """The seventh thousand costs what the first did; read from the beginning, it would cost much more."""
    with database_on(postgres) as url:
        filled = Filled(url, 20_000)
        # Such short leases end up among the waits that are read.
        claim, few = {**CLAIM, "limit": 100, "lease": timedelta(seconds=0.05)}, {"limit": 10}
        with filled.connection() as old, filled.connection() as worker:
            old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            old.execute("SELECT FROM crossfoot_queue LIMIT 1")
            places, costs = Places(), []
            for number in range(70):
                row = worker.execute(
                    LOOK, {**COMMON, **columns(places.ranges()), "since": instant(places.since)}
                ).fetchone()
                assert row is not None
                places = after(places, Look(*row))
                asked = {**claim, **columns(places.ranges()), "since": instant(places.since), "token": number + 1}
                costs.append(work(filled.explain(A_CLAIM, {**asked, **few})))
                taken = worker.execute(A_CLAIM, asked).fetchall()
                worker.execute(
                    ACK,
                    {"queue": "orders", "keys": [one[2] for one in taken], "tokens": [number + 1] * len(taken)},
                )
            from_the_beginning = work(filled.explain(A_CLAIM, {**claim, **few}))
            filled.run("VACUUM crossfoot_queue")
            assert work(filled.explain(A_CLAIM, {**claim, **few})) > 0.9 * from_the_beginning, (
                "it was vacuumed after all"
            )
        early, late = sum(costs[5:15]) / 10, sum(costs[-10:]) / 10
        # How many leases are over by the time of a look depends on the machine, and with it a part of what is read.
        assert late <= 2 * early, (early, late, from_the_beginning)
        assert from_the_beginning > 2 * late, "this test would not notice"


def test_the_ranges_of_a_claim_cover_every_rank() -> None:
    assert {rank for rank, _, high in Places().ranges() if high == HIGHEST} == set(RANKS)


def test_a_book_that_is_empty_plans_for_what_it_will_hold(postgres: Postgres) -> None:
    """The server keeps to the plan of a prepared statement, and of an empty table it would read all."""
    asked = {
        sql.FIND_OPERATIONS: (["bill:1"], [1]),
        sql.FIND_MESSAGES: ("1", "billing", "billing") * sql.GROUP,
    }
    with database_on(postgres) as url:
        book = Book(url).open()
        by_a_command = connect(url)
        with book.writing() as connection:
            connection.execute("ANALYZE")
        try:
            assert isinstance(book.connection, Connection)
            for statement, parameters in asked.items():
                text = translate(statement)
                assert read_as_a_whole(generic_plan(by_a_command.raw, text, parameters)), "this test would not notice"
                assert not read_as_a_whole(generic_plan(book.connection.raw, text, parameters))
        finally:
            by_a_command.close()
            book.close()
