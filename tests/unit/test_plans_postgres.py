"""Every statement of crossfoot's finds its rows by an index among a million messages, whatever its parameters were planned for.

The statements are those that the modules hold: a new one that nobody explains here fails a test.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing as closing_of
from types import SimpleNamespace
from typing import Any

import anyio
import psycopg
import pytest

from crossfoot.books import closing, cutting, failures, horizon, lately, lines, opening, promised, queries, sql, stock
from crossfoot.books.custody import Depth
from crossfoot.books.fate import Fate
from crossfoot.books.habits import _ANY, SEARCHED, habit
from crossfoot.books.posting import GROUP, backlog, post, tallies
from crossfoot.books.ranges import HIGHEST, LOWEST
from crossfoot.books.stock import Part, take_stock
from crossfoot.books.store import Book, completed, find_or_add_all
from crossfoot.dialect import translate
from crossfoot.postgres.connection import Connection, connect
from crossfoot.queues.postgres import ensure
from crossfoot.recover.checklist.survey import Bounds, survey
from crossfoot.recover.lookup import look_up
from crossfoot.worker.reconcile import _SENT_AGAIN, _UNSENT, Missing, Reconciliation
from tests.conformance.postgres_queue_statements import LOCAL, STATEMENTS
from tests.servers import large_book
from tests.servers.large_book import EVERY, NOW, WAITING, identity
from tests.servers.plans import Plan, generic_plan, nodes, read_as_a_whole, rows_read, rows_sorted
from tests.servers.postgres import postgres_running
from tests.servers.statements import statements

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("postgres")]

MESSAGES = int(os.environ.get("CROSSFOOT_ROWS", "1000000"))

LARGE = "messages|records|states|payloads|unsettled|entries|operations|outbox|outcomes|parked|sequences|queue"
CATALOG = {"pg_class", "pg_inherits", "pg_trigger", "crossfoot_messages_key_seq"}

SMALL = {
    f"crossfoot_{name}"
    for name in (
        "tallies",
        "expected",  # empty here; by index: `test_why_promised`
        "archived",
        "closed",
        "facts",
        "workers",
        "causes",
        "queue_counts",
        "version",
        "removed",
        "late",
        "expectations",
    )
} | CATALOG

EMPTY = {
    f"crossfoot_{table}_{name}"
    for table in ("entries", "payloads")
    for name in ("rest", large_book.ranges(MESSAGES)[-1].lower)
}
"""Ranges in which there is nothing, and which a command may read as a whole: it plans what it asks when it asks."""

FEW = 300
"""Rows that a statement about one message, or one group, may look at."""

OPEN = 2 * MESSAGES // EVERY + WAITING
"""What a balance may look at: what is not settled, and the outbox."""

MIDDLE, LAST = MESSAGES // 2 + 1, MESSAGES
A_NAME = (identity(MIDDLE), "tests", "billing")
DUE = {"now": NOW, "queue": "billing", "limit": 100, "claim": "me", "until": NOW + 1}
LINE = {"limit": 100, "type": None, "subject": None, "queue": None, "kind": None}
A_GROUP = horizon._POST
A_MESSAGE = ("billing", "tests", "new", "t", "s", "o", "c", None, 1, NOW, 60, 1, 1, b"")
AN_ENTRY = (MIDDLE, 5, 1, 1, NOW, NOW, 1, None, None)


def padded(*values: Any, size: int = sql.GROUP) -> list[Any]:
    return [*values, *[None] * (size - len(values))]


_PROMISED = {
    "name": "x", "outcome": "o", "after": "case.opened", "since": 0, "skew": 0, "place": f"{10**9}:{10**9}", "keys": f"[{MIDDLE}]",
}  # fmt: skip

BY_HAND: Mapping[str, Any] = {
    sql.FIND_CONTENT: (MIDDLE,),
    _ANY: (),
    sql.REPLACE_CONTENT: ("s", "o", "c", "c", 1, b"", MIDDLE),
    sql.FIND_MESSAGE: A_NAME,
    sql.FIND_MESSAGES: padded(*A_NAME, size=3 * sql.GROUP),
    sql.INSERT_MESSAGE: A_MESSAGE,
    sql.INSERT_MESSAGES: A_MESSAGE * sql.GROUP,
    sql.NAME_OPERATION: ("o", MIDDLE),
    sql.INSERT_ENTRY: AN_ENTRY,
    sql.INSERT_ENTRIES: AN_ENTRY * sql.GROUP,
    sql.INSERT_RECEIVED: (MIDDLE, 1, 1, NOW, NOW, 1),
    sql.INSERT_RECEIVED_GROUP: (MIDDLE, 1, 1, NOW, NOW, 1) * sql.GROUP,
    sql.INSERT_CLOSING: (MIDDLE, 23, 1, 1, NOW, 1, None),
    sql.INSERT_CLOSING_GROUP: (MIDDLE, 23, 1, 1, NOW, 1, None) * sql.GROUP,
    sql.INSERT_CLOSINGS: ([MIDDLE], [23], [1], [1], [NOW], [1], [None]),
    sql.INSERT_CLOSINGS_AND_ACKS: ([MIDDLE], [23], [1], [1], [NOW], [1], [None]),
    sql.INSERT_CLOSING_AND_ACK: (MIDDLE, 23, 1, 1, NOW, 1, None, MIDDLE, 1, 1, NOW, 1),
    sql.INSERT_CLOSING_AND_ACK_GROUP: (MIDDLE, 23, 1, 1, NOW, 1, None, MIDDLE, 1, 1, NOW, 1) * sql.GROUP,
    sql.INSERT_OPERATION: (f"bill:{MIDDLE}", MIDDLE, 23, NOW),
    sql.INSERT_OPERATIONS: (f"bill:{MIDDLE}", MIDDLE, 23, NOW) * sql.GROUP,
    sql.CLAIM_OPERATIONS: ([f"bill:{MIDDLE}"], [MIDDLE], [23], [NOW]),
    sql.DROP_OPERATION: (f"bill:{MIDDLE}", MIDDLE),
    sql.FIND_OPERATION: (f"bill:{MIDDLE}", MIDDLE),
    sql.FIND_OPERATIONS: ([f"bill:{MIDDLE}"], [MIDDLE]),
    sql.CLOSE_OPERATION: (23, f"bill:{MIDDLE}"),
    sql.LAST_DEATH: (MIDDLE,),
    sql.FIND_SUPPRESSED: (MIDDLE,),
    sql.FIND_RESUMED: (MIDDLE, 1),
    sql.LAST_ATTEMPT: (MIDDLE,),
    sql.COUNT_ENDS: (MIDDLE, 0),
    sql.FIRST_RECEIVED: (MIDDLE, 0),
    sql.FIND_PROOF: (MIDDLE,),
    sql.INSERT_OUTCOME: (MIDDLE, "n", "s", NOW, None),
    sql.INSERT_OUTBOX: (MIDDLE, "billing", "i", b"", None, 0, NOW, None),
    sql.INSERT_NUMBERED_OUTBOX: (MIDDLE, "billing", "i", b"", None, 0, NOW, None),
    sql.INSERT_NUMBERED_OUTBOX_GROUP: (MIDDLE, "billing", "i", b"", None, 0, NOW, None) * sql.GROUP,
    sql.OUTBOX_DUE: DUE,
    sql.OUTBOX_DUE_IN_ORDER: DUE,
    sql.OUTBOX_HOLDS: ("billing",),
    sql.OUTBOX_BEFORE: ("case-100", WAITING, 501),
    sql.CLAIM_OUTBOX: DUE,
    sql.CLAIM_OUTBOX_IN_ORDER: DUE,
    sql.LAPSED_CLAIMS: DUE,
    sql.OUTBOX_OF: ("billing", MIDDLE),
    sql.FREE_OUTBOX: ("billing", MIDDLE, NOW),
    sql.HELD_OUTBOX: ("billing", MIDDLE),
    sql.OUTBOX_AHEAD: ("billing", 2 * NOW),
    sql.BEGIN_OUTBOX_ANEW: (NOW, NOW, "billing", 2 * NOW),
    sql.DROP_OUTBOX: (500, "claimed"),
    sql.RETRY_OUTBOX: (NOW, 500, "claimed"),
    sql.FIND_SEQUENCE: ("bill", "case-7"),
    sql.TAKE_SEQUENCE: ("bill", "case-7"),
    sql.ADVANCE_SEQUENCE: ("bill", "case-7", 9, 1),
    sql.PARK: ("bill", "case-7", 9, MIDDLE, 8, 1, NOW, b"", None),
    sql.GAP_ACCEPTED: ("bill", "case-7", 9, MIDDLE),
    sql.ACCEPT_GAP: ("bill", "case-7", 9, MIDDLE),
    sql.FOLLOWERS: ("bill", "case-1", 9),
    sql.OVERDUE_PARKED: (NOW * 2, 100),
    sql.UNPARK: ("bill", "case-7", 9, MIDDLE),
    _SENT_AGAIN: (MIDDLE, 1),
    **dict.fromkeys(promised.LOOKED.values(), _PROMISED),
    promised.NOT_MET: _PROMISED,
    cutting._USED_UPTO: (MIDDLE,),
    opening._CELLS.format(where="TRUE", marks="'operation'"): (),
    opening._STANDINGS: ((NOW // 1_000_000 - 7_200) // 60 * 60, "billing", "case.opened"),
}  # fmt: skip
"""What goes through a handler's connection, or is asked when something is wrong, by its parameters."""

READS_ALL = {
    re.compile(r"crossfoot\.books\.verify\b"): "it looks at everything: that is what it is for",
    re.compile(r"crossfoot\.books\.(custody\.LYING_THERE|posting[.:])"): "SQLite's",
    re.compile(r"crossfoot\.queues\.postgres\.sql\.OPENED"): "it asks for the table, and not for rows",
    re.compile(r"crossfoot\.books\.horizon:"): "made once, when the module is imported",
    re.compile(
        r"crossfoot\.(books\.(replays(_reported)?|membership)|recover\.replay)\b"
    ): "a replay's, timed with its members in test_replay_large.py",
    re.compile(
        r"crossfoot\.books\.cutting(\._RECORDS_OF|\._TABLES|:221)"
    ): "asked when a range is dropped; see test_archive_ranges_postgres.py",
    re.compile(
        r"crossfoot\.books\.(archive|expected|held|counted|episodes|losing|signs)\b"
    ): "planned each time for what they are asked with: held to that in test_plans_archive_postgres.py",
    re.compile(r"crossfoot\.queues\.postgres\.sql\.FORGET_DEAD"): "a replay's, by keys",
}
"""Statements that are not judged, and why."""

BOUNDS: Mapping[str, int] = {
    A_GROUP: 8 * GROUP,
    horizon._BACKLOG: GROUP,
    horizon._LAST_NUMBER: GROUP,
    closing._COUNT: 2 * closing.STRETCH,
    closing._COUNT_AGAIN: 2 * closing.AGAIN,
    sql.CLAIM_OUTBOX: 10 * FEW,
    sql.CLAIM_OUTBOX_IN_ORDER: 10 * FEW,
    sql.LAPSED_CLAIMS: 10 * FEW,
    lines._AFTER: 10 * FEW,
    lines._LAST: 10 * FEW,
}
"""Rows that others may look at. A group of letters has others between that are not due; a page of lines may be read by several
processes at once, each some way ahead. A stretch of keys is counted once."""

MAY_READ: tuple[tuple[str, int], ...] = (
    ("fate <> 20", OPEN),
    (_UNSENT, WAITING),
    ("crossfoot_parked p", OPEN),
    (f"LIMIT {SEARCHED}) o", 2 * SEARCHED),
    ("m.bucket = ", FEW * 10),
    *((text, WAITING) for text in (sql.OUTBOX_OF, sql.FREE_OUTBOX, sql.HELD_OUTBOX)),
)
"""The same for those with that text."""


A_LIST = "(SELECT f.cause FROM crossfoot_entries f WHERE f.message = m.key"

MAY_LOOK_INTO: Mapping[str, int] = {
    "message >= :floor": 4,
    **dict.fromkeys(
        (lines._AFTER, lines._LAST, lines._NEWEST, A_LIST, failures._NEWEST, failures._OLDEST, failures._KEPT), 1000
    ),
}
"""Into how many ranges statements may look, by their text: posting into the current one, the one before it, the one ahead and the
rest. Who follows the book reads it in the order of transactions, and has time. Of a list each message is looked up in its own range."""


OUTBOX_AS_A_WHOLE = (
    "MATERIALIZED (SELECT message FROM crossfoot_outbox)",
    _UNSENT,
    "crossfoot_outbox WHERE queue = ? AND message = ?",
)
"""Where all that is open is looked at, what is still to be sent may be, too; and where a person takes one message back."""


class Asked:
    """What was asked of a book, with the parameters it was asked with."""

    def __init__(self, book: Book, url: str) -> None:
        self.book = book
        self.plain = connect(url)
        self.statements: dict[str, Any] = dict(BY_HAND)

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """That plans as it does for a command: a worker's book does not read tables as a whole where that can be avoided."""
        return self.plain.raw

    def note(self, statement: str, parameters: Any = ()) -> None:
        self.statements.setdefault(statement, parameters if isinstance(parameters, Mapping) else list(parameters))


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    """A filled database, and everything that commands and workers ask of it."""
    with postgres_running(
        fsync="off", full_page_writes="off", wal_level="minimal", max_wal_senders="0", max_wal_size="8GB", autovacuum="off",
        shared_buffers="256MB",
    ) as server:  # fmt: skip
        url = server.url()
        book = Book(url).open()
        anyio.run(lambda: ensure("orders", url=url))
        large_book.fill(url, MESSAGES)
        try:
            asked = Asked(book, url)
            with pytest.MonkeyPatch.context() as patch:
                _listen(patch, asked.note)
                _ask_everything(book)
            yield asked
            asked.plain.close()
        finally:
            book.close()


def _listen(patch: pytest.MonkeyPatch, note: Callable[..., None]) -> None:
    for name in ("execute", "stream"):
        real = getattr(Connection, name)

        def noted(self: Connection, statement: str, *parameters: Any, real: Callable[..., Any] = real) -> Any:
            note(statement, *parameters)
            return real(self, statement, *parameters)

        patch.setattr(Connection, name, noted)


def _ask_everything(book: Book) -> None:
    connection = book.connection
    for name in (
        identity(MIDDLE),
        identity(MIDDLE - 1),
        f"case-{MIDDLE // 5}",
        f"flow-{MIDDLE // 10}",
        f"bill:{MIDDLE}",
        "nothing",
    ):
        look_up(connection, name, NOW)
        look_up(connection, name, NOW, queue="billing")
    for kind in queries.KINDS_OF_NAME:
        queries.count_named(connection, kind, "nothing")
    queries.body_of(connection, MIDDLE)
    queries.at_work(connection)
    queries.operation(connection, f"bill:{MIDDLE}")
    for part in (stock.EVERYTHING, Part(queue="billing", type="case.opened", since=NOW - 10**9, until=NOW)):
        take_stock(connection, NOW, part=part, depth_of=lambda queue: Depth(0, 0, 0, NOW))
    queries.dead_letters(connection, queue="billing", type=None, limit=50)
    queries.dead_causes(connection, queue=None, type=None)
    queries.check_names(connection, queue="billing", type_="case.opened")
    survey(connection, NOW, depth_of=lambda queue: None, bounds=Bounds(newest=100))
    survey(
        connection,
        NOW,
        part=Part(queue="billing", type="case.opened"),
        depth_of=lambda queue: None,
        bounds=Bounds(newest=100),
    )
    lately.queues(connection)
    assert habit(connection, "billing", "case.opened").of
    lines.last_lines(connection, 100)
    lines.lines_after(connection, lines.newest(connection), 100)
    assert post(book) == 0
    assert backlog(connection) == 0
    tallies(connection, queue="billing")
    assert completed(connection, [f"bill:{MIDDLE}"])
    find_or_add_all(connection, [])
    queue: Any = SimpleNamespace(name="billing", retention=None)
    reconciliation = Reconciliation(book, queue)
    assert reconciliation._overdue(None)
    reconciliation._count(Fate.DEAD)
    reconciliation._write_gone([Missing(MIDDLE, "", NOW, 0)], "")  # to which something else has happened
    cutting.look(connection)


@pytest.mark.parametrize("messages", [1_000, 3_000, 6_000, 20_000])
def test_posting_keeps_to_the_index_whatever_size_its_plan_was_made_for(messages: int) -> None:
    """A plan is kept while the table grows: one that reads all of a small table would read all of a large one."""
    with postgres_running(fsync="off", autovacuum="off") as server, closing_of(Book(server.url()).open()) as book:
        anyio.run(lambda: ensure("orders", url=server.url()))
        large_book.fill(server.url(), messages)
        connection = book.connection
        assert isinstance(connection, Connection)
        given = {"entries": horizon.START, "floor": LOWEST, "all": HIGHEST, "group": GROUP}
        at = horizon.cursors(connection)._asdict() | given
        for statement in (horizon._POST, horizon._WAITING, horizon._BACKLOG, horizon._LAST_NUMBER):
            plan = generic_plan(connection.raw, translate(statement), at)
            scans = [node for node in nodes(plan) if "crossfoot_entries" in node.get("Relation Name", "")]
            ways = {str(node.get("Index Name", node["Node Type"])) for node in scans}
            assert not {way for way in ways if not way.endswith("_pkey")}, statement


@pytest.fixture(scope="module")
def plans(asked: Asked) -> dict[str, Plan]:
    """The plan of each statement."""
    connection = asked.connection
    entries, operations, floor, now = connection.execute(translate(horizon._CURSORS)).fetchone() or ("", "", 0, "")
    behind = {
        "entries": _before(entries, GROUP), "operations": _before(operations, GROUP), "after": _before(entries, GROUP),
        "floor": floor, "horizon": now, "all": HIGHEST, "group": GROUP,
    }  # fmt: skip
    asked.statements |= {
        A_GROUP: behind, horizon._BACKLOG: behind, horizon._WAITING: behind, horizon._LAST_NUMBER: behind,
        closing._COUNT: {"after": MESSAGES // 2, "upto": MESSAGES // 2 + closing.STRETCH, "xid": "3"},
        closing._COUNT_AGAIN: {"after": 0, "upto": closing.AGAIN}, closing._KEEP: ("1:1", "1:1:1"),
        closing._BEGIN: {"after": 1, "upto": MIDDLE}, closing._NEXT: {"after": 1, "upto": MIDDLE},
        lines._AFTER: {**LINE, "after": behind["entries"], "upto": entries}, lines._LAST: {**LINE, "upto": entries},
    }  # fmt: skip
    return {
        statement: generic_plan(connection, translate(statement), parameters)
        for statement, parameters in asked.statements.items()
    }


def _before(cursor: str, count: int) -> str:
    transaction, _, number = cursor.partition(":")
    return f"{transaction}:{int(number) - count}"


def bound(statement: str) -> int:
    more = [rows for text, rows in MAY_READ if text in statement]
    return BOUNDS.get(statement) or max([FEW, *more])


def may_read(statement: str) -> set[str]:
    return SMALL | EMPTY | ({"crossfoot_outbox"} if any(text in statement for text in OUTBOX_AS_A_WHOLE) else set())


def most_ranges(statement: str) -> int:
    return next((most for text, most in MAY_LOOK_INTO.items() if text in statement), 1)


def ranges_read(plan: Plan) -> set[str]:
    """Tables of ranges that were looked into, of whichever table there are more."""
    tables = {node["Relation Name"] for node in nodes(plan) if node.get("Actual Loops") and "Relation Name" in node}
    return max(
        ({one for one in tables if one.startswith(f"crossfoot_{cut}_")} for cut in ("entries", "payloads")), key=len
    )


def told(found: Mapping[str, Any]) -> str:
    return "\n".join(f"{what}: {' '.join(statement.split())}" for statement, what in found.items())


def test_no_statement_reads_a_large_table_as_a_whole(plans: dict[str, Plan]) -> None:
    found = {s: whole for s, plan in plans.items() if (whole := read_as_a_whole(plan) - may_read(s))}
    assert not found, told(found)


def test_a_question_about_one_message_looks_into_one_range(plans: dict[str, Plan]) -> None:
    found = {s: ranges for s, plan in plans.items() if len(ranges := ranges_read(plan)) > most_ranges(s)}
    assert not found, told(found)


def test_what_a_statement_looks_at_is_bounded(plans: dict[str, Plan]) -> None:
    found = {s: (rows, bound(s)) for s, plan in plans.items() if (rows := rows_read(plan, SMALL)) > bound(s)}
    assert not found, told(found)


def test_no_statement_sorts_more_than_it_may_look_at(plans: dict[str, Plan]) -> None:
    found = {s: rows for s, plan in plans.items() if (rows := rows_sorted(plan)) > bound(s)}
    assert not found, told(found)


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_queue_of_a_million_is_searched_by_index(asked: Asked, name: str) -> None:
    statement, parameters, indexes = STATEMENTS[name]
    plan = generic_plan(asked.connection, statement, parameters)
    if indexes is not None:
        assert not read_as_a_whole(plan)
        assert rows_read(plan) <= FEW


def test_every_statement_of_the_modules_is_explained(asked: Asked, plans: dict[str, Plan]) -> None:
    explained = [
        *plans,
        *(translate(statement).decode() for statement in asked.statements),
        *(text.decode() for text, *_ in STATEMENTS.values()),
        *(text for text, _ in LOCAL.values()),
    ]
    missing = [
        f"{statement.where}: {' '.join(statement.split())[:80]}"
        for statement in statements(LARGE)
        if not any(one.match(statement.where) for one in READS_ALL)
        and not any(statement.is_in(text) for text in explained)
    ]
    assert not missing, "\n".join(missing)
