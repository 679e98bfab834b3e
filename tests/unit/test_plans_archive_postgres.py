"""What closing, expectations and alerts ask of PostgreSQL finds its rows by an index among hundreds of thousands of messages.

A closing and a chore plan each statement when they ask it, so here it is planned for what it is asked with.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import anyio
import pytest

from crossfoot.books import counted, expected, horizon, losing, signs
from crossfoot.books.archive import erase, prune, stories
from crossfoot.books.fate import Fate
from crossfoot.books.ranges import HIGHEST
from crossfoot.books.store import Book
from crossfoot.clock import SECOND
from crossfoot.dialect import translate
from crossfoot.postgres.connection import Connection, connect
from crossfoot.queues.postgres import ensure
from tests.servers import large_book
from tests.servers.large_book import EVERY, NOW
from tests.servers.plans import Plan, generic_plan, read_as_a_whole, rows_read
from tests.servers.postgres import postgres_running
from tests.servers.statements import statements
from tests.unit.test_plans_postgres import LARGE, SMALL, told

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("postgres")]

MESSAGES = int(os.environ.get("CROSSFOOT_ROWS", "300000"))

PART = 200
"""Messages, or entries, that a step is asked about."""

MIDDLE = MESSAGES // 2
A_WHILE = 50
"""One message in so many is old enough to be closed."""

KEYS = list(range(MIDDLE, MIDDLE + PART))
PIECE = {"keys": KEYS, "lower": KEYS[0], "upper": KEYS[-1]}
BEFORE = (NOW - 24 * large_book.HOUR + 24 * large_book.HOUR // A_WHILE) // SECOND
MINUTES = {"first": BEFORE - 3600, "last": BEFORE}
FOLLOWED = {"name": "x", "outcome": "o", "after": "case.opened", "since": 0, "skew": 0}

ROOMS = re.compile(r"crossfoot\.books\.(archive|expected|held|counted|episodes|losing|signs)\b")

FEW = 20 * PART
"""Rows that a step may look at: a message has some entries, and is looked up in several tables."""

UNSETTLED = 3 * MESSAGES // EVERY
"""What looks at all that is not settled may read."""

OLD = 4 * MESSAGES // A_WHILE
"""What looks at all that is old enough to be closed may read."""

BOUNDS: Mapping[str, int] = {
    stories._NEEDED: large_book.WAITING + UNSETTLED,
    stories._CANDIDATES: OLD + MESSAGES,
    stories._OPEN_BUCKETS: OLD + UNSETTLED,
    signs._OLDEST: UNSETTLED,
    signs._DEAD: 4 * UNSETTLED,
    losing._FIRST_SENT: 4 * UNSETTLED,
    **dict.fromkeys(signs._IDS.values(), UNSETTLED),
}


def asked_of(connection: Connection) -> dict[str, Any]:
    """Each statement, with what it is asked with."""
    entries = connection.execute(
        "SELECT xid::text || ':' || id FROM crossfoot_entries ORDER BY xid DESC, id DESC LIMIT 1"
    ).fetchone()[0]
    transaction, _, number = entries.partition(":")
    group = {"begin": f"{transaction}:{int(number) - PART}", "upto": entries, "size": PART}
    cursors = horizon.cursors(connection)._asdict()
    pairs = PIECE | {"ids": KEYS}
    return {
        stories._OPEN_BUCKETS: {"before": BEFORE},
        stories._CANDIDATES: {"before": BEFORE},
        stories._ROWS: PIECE,
        stories._ENTRIES: PIECE,
        stories._OUTCOMES: PIECE,
        stories._OPERATIONS: PIECE | {"posted": cursors["operations"]},
        **dict.fromkeys((*prune._DROP_POSTGRES, *prune._DROP[1:]), PIECE),
        prune._DROP_ENTRIES: pairs,
        prune._OLDEST_OPERATIONS: {"after": horizon.START, "limit": PART},
        prune._FORGET: [f"bill:{MIDDLE}", MIDDLE],
        erase._ERASE: [f"case-{MIDDLE // 5}"],
        erase._OPEN: [f"case-{MIDDLE // 5}"],
        erase._ENDED: [f"case-{MIDDLE // 5}"],
        erase._IS_KNOWN: [f"case-{MIDDLE // 5}"],
        erase._DEAD: [f"case-{MIDDLE // 5}"],
        expected._UPTO: group,
        **dict.fromkeys((*expected.OPENING.values(), *expected.ANSWERING.values()), FOLLOWED | group),
        expected._OVER: ["x", NOW],
        **{
            expected._OPEN.format(which=which): {"name": "x", "now": NOW, "limit": 20, "fate": None}
            for which in expected._WHICH.values()
        },
        counted.COUNT: group,
        signs._OLDEST: {"fate": Fate.QUEUED.value, "now": NOW},
        signs._DEAD: {"fate": Fate.DEAD.value},
        losing._FIRST_SENT: {"queue": "billing"},
        **{statement: {"fate": Fate.DEAD.value, "queue": "billing"} for statement in signs._IDS.values()},
        signs._UNPOSTED_POSTGRES: cursors | {"all": HIGHEST},
        stories._NEEDED: [],
    }


AT_ONCE: Mapping[str, set[str]] = {stories._CANDIDATES: {"crossfoot_states"}}
"""What a closing reads as a whole, once, without holding anybody up: fates by key, of which it needs one in some ten to fifty. To look
each up would cost the server more."""

SHORT = {"crossfoot_outbox", "crossfoot_parked", "crossfoot_expected", "crossfoot_replays", "crossfoot_replay_members"}
"""Tables of what is open, of what is not met and of replays, which a step may read as a whole; most of them are empty here."""

EMPTY = {
    f"crossfoot_{table}_{name}"
    for table in ("entries", "payloads")
    for name in ("rest", large_book.ranges(MESSAGES)[-1].lower)
}
"""Ranges in which there is nothing."""

SQLITES = {"crossfoot.books.signs._UNPOSTED", "crossfoot.books.archive.stories._OPERATIONS_OF"}
"""Of the other database, and a form that others are made of."""


@pytest.fixture(scope="module")
def plans() -> Iterator[dict[str, Plan]]:
    with postgres_running(
        fsync="off", full_page_writes="off", wal_level="minimal", max_wal_senders="0", max_wal_size="8GB", autovacuum="off",
        shared_buffers="256MB",
    ) as server:  # fmt: skip
        url = server.url()
        Book(url).open().close()
        anyio.run(lambda: ensure("orders", url=url))
        large_book.fill(url, MESSAGES)
        plain = connect(url)
        try:
            yield {
                statement: generic_plan(plain.raw, translate(statement), parameters, "force_custom_plan")
                for statement, parameters in asked_of(plain).items()
            }
        finally:
            plain.close()


def test_no_step_reads_a_large_table_as_a_whole(plans: dict[str, Plan]) -> None:
    small = SMALL | SHORT | EMPTY
    found = {
        statement: whole
        for statement, plan in plans.items()
        if (whole := read_as_a_whole(plan) - small - AT_ONCE.get(statement, set()))
    }
    assert not found, told(found)


def test_what_a_step_looks_at_is_bounded_by_what_it_is_about(plans: dict[str, Plan]) -> None:
    aside = SMALL | {"crossfoot_outbox"}
    found = {
        statement: (rows, BOUNDS.get(statement, FEW))
        for statement, plan in plans.items()
        if (rows := rows_read(plan, aside)) > BOUNDS.get(statement, FEW)
    }
    assert not found, told(found)


def test_every_statement_of_these_rooms_is_held_to_a_plan(plans: dict[str, Plan]) -> None:
    explained = [*plans, *(translate(statement).decode() for statement in plans)]
    missing = [
        f"{statement.where}: {' '.join(statement.split())[:80]}"
        for statement in statements(LARGE)
        if ROOMS.match(statement.where)
        and re.search(rf"\bcrossfoot_({LARGE})\b", statement)
        and not re.search(r"\{\w+\}", statement)  # what is put together of it is asked above
        and statement.where not in SQLITES
        and not any(statement.is_in(text) for text in explained)
    ]
    assert not missing, "\n".join(missing)
