"""The tables of what the business is promised, and of who was told that it did not come; see `tables`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, PrimaryKeyConstraint, Table, Text, UniqueConstraint

from crossfoot.books.tables import Key, metadata

expectations = Table(
    "crossfoot_expectations",
    metadata,
    Column("name", Text, primary_key=True),
    Column("definition", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("opened", BigInteger, nullable=False),
    Column("met", BigInteger, nullable=False),
    Column("excused", BigInteger, nullable=False),
    Column("evaluated_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""What a service expects: the definition as JSON, how far it is evaluated, and how many messages ended well."""

expected = Table(
    "crossfoot_expected",
    metadata,
    Column("number", Key, primary_key=True),
    Column("expectation", Text, nullable=False),
    Column("message", BigInteger, nullable=False),
    Column("id", Text, nullable=False),
    Column("name", Text),
    Column("at", BigInteger, nullable=False),
    Column("due", BigInteger, nullable=False),
    Column("answered", BigInteger),
    Column("accepted", Text),
    UniqueConstraint("expectation", "message", name="crossfoot_expected_once"),
)
"""Messages whose outcome has not come, or came late; the others are only counted. `accepted` says who accepted that, and why."""
Index("crossfoot_expected_name", expected.c.expectation, expected.c.name)
Index(
    "crossfoot_expected_due",
    expected.c.expectation,
    expected.c.due,
    sqlite_where=expected.c.answered.is_(None),
    postgresql_where=expected.c.answered.is_(None),
)

invariants = Table(
    "crossfoot_invariants",
    metadata,
    Column("name", Text, primary_key=True),
    Column("definition", Text, nullable=False),
    Column("checked_at", BigInteger),
    Column("held", Integer),
    Column("result", Text),
    sqlite_with_rowid=False,
)
"""Questions over business tables that must have no answer, and what came of the last time they were asked."""

alerts = Table(
    "crossfoot_alerts",
    metadata,
    Column("alert", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("state", Text, nullable=False),
    PrimaryKeyConstraint("alert", "about"),
    sqlite_with_rowid=False,
)
"""What each alert remembers between two looks."""

episodes = Table(
    "crossfoot_episodes",
    metadata,
    Column("number", Key, primary_key=True),
    Column("alert", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Column("closed_at", BigInteger),
    Column("told", Text, nullable=False),
)
"""From when an alert fired until it was over, and what is told of it."""
Index(
    "crossfoot_episodes_open",
    episodes.c.alert,
    episodes.c.about,
    unique=True,
    sqlite_where=episodes.c.closed_at.is_(None),
    postgresql_where=episodes.c.closed_at.is_(None),
)

notices = Table(
    "crossfoot_notices",
    metadata,
    Column("episode", BigInteger, nullable=False),
    Column("what", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("answer", Text),
    PrimaryKeyConstraint("episode", "what", "target"),
    sqlite_with_rowid=False,
)
"""Whom an episode was told: written before it is sent, and noted after."""
