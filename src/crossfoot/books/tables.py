"""The book's tables. All names begin with `crossfoot_`, so they can live in the business database.

`messages` and `entries` are what happened; `operations` makes *once* true; `tallies` are posted from the entries (see
`posting`) and can be rebuilt from them at any time. Times are microseconds since the epoch, kinds and fates are the
numbers of `Kind` and `Fate`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from crossfoot.books.fate import Fate

metadata = MetaData()

Key = BigInteger().with_variant(Integer, "sqlite")
"""SQLite makes a primary key its row id only when it is declared INTEGER."""

messages = Table(
    "crossfoot_messages",
    metadata,
    Column("key", Key, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("subject", Text),
    Column("operation", Text),
    Column("correlation", Text),
    Column("causation", Text),
    Column("sequence", BigInteger),
    Column("at", BigInteger, nullable=False),
    Column("bucket", BigInteger, nullable=False),
    Column("d0", BigInteger, nullable=False),
    Column("d1", BigInteger, nullable=False),
    Column("body", LargeBinary),
    Column("marks", BigInteger, nullable=False, server_default=text("0")),
    Column("latest", BigInteger, nullable=False, server_default=text("0")),
    Column("due", BigInteger, nullable=False, server_default=text("0")),
    Column("fate", Integer, nullable=False, server_default=text("0")),
    UniqueConstraint("id", "source", "queue", name="crossfoot_messages_identity"),
)
Index(
    "crossfoot_messages_subject",
    messages.c.subject,
    sqlite_where=messages.c.subject.is_not(None),
    postgresql_where=messages.c.subject.is_not(None),
)
Index(
    "crossfoot_messages_correlation",
    messages.c.correlation,
    sqlite_where=messages.c.correlation.is_not(None),
    postgresql_where=messages.c.correlation.is_not(None),
)
Index(
    "crossfoot_messages_operation",
    messages.c.operation,
    sqlite_where=messages.c.operation.is_not(None),
    postgresql_where=messages.c.operation.is_not(None),
)
Index(
    "crossfoot_messages_unsettled",
    messages.c.fate,
    messages.c.due,
    sqlite_where=text(f"fate <> {Fate.SETTLED.value}"),
    postgresql_where=text(f"fate <> {Fate.SETTLED.value}"),
)
Index("crossfoot_messages_bucket", messages.c.bucket)

entries = Table(
    "crossfoot_entries",
    metadata,
    Column("id", Key, primary_key=True),
    Column("message", BigInteger, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("delivery", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("due", BigInteger),
    Column("worker", Integer, nullable=False),
    Column("cause", Text),
    Column("details", Text),
)
Index("crossfoot_entries_message", entries.c.message)

operations = Table(
    "crossfoot_operations",
    metadata,
    Column("number", Key, primary_key=True),
    Column("key", Text, nullable=False),
    Column("message", BigInteger, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    UniqueConstraint("key", name="crossfoot_operations_once"),
)
Index("crossfoot_operations_message", operations.c.message, unique=True)

outbox = Table(
    "crossfoot_outbox",
    metadata,
    Column("number", Key, primary_key=True),
    Column("message", BigInteger, nullable=False),
    Column("queue", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("partition", Text),
    Column("base", Integer, nullable=False, server_default=text("0")),
    Column("due", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("claim", Text),
)
Index("crossfoot_outbox_due", outbox.c.queue, outbox.c.due)
Index(
    "crossfoot_outbox_line",
    outbox.c.partition,
    outbox.c.number,
    sqlite_where=outbox.c.partition.is_not(None),
    postgresql_where=outbox.c.partition.is_not(None),
)

sequences = Table(
    "crossfoot_sequences",
    metadata,
    Column("handler", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    PrimaryKeyConstraint("handler", "subject"),
    sqlite_with_rowid=False,
)

parked = Table(
    "crossfoot_parked",
    metadata,
    Column("handler", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("message", BigInteger, nullable=False),
    Column("predecessor", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("partition", Text),
    PrimaryKeyConstraint("handler", "subject", "sequence", "message"),
    sqlite_with_rowid=False,
)
Index("crossfoot_parked_until", parked.c.until)

outcomes = Table(
    "crossfoot_outcomes",
    metadata,
    Column("number", Key, primary_key=True),
    Column("message", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("subject", Text),
    Column("at", BigInteger, nullable=False),
    Column("facts", Text),
)
Index("crossfoot_outcomes_message", outcomes.c.message)
Index("crossfoot_outcomes_about", outcomes.c.name, outcomes.c.subject, outcomes.c.at)

causes = Table(
    "crossfoot_causes",
    metadata,
    Column("fingerprint", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("frames", Text, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

removed = Table(
    "crossfoot_removed",
    metadata,
    Column("number", Key, primary_key=True),
    Column("message", BigInteger, nullable=False),
    Column("id", Text),
    Column("entry", BigInteger),
    Column("kind", Integer),
)
"""What was taken out of `messages` (no `entry`) and `entries`, by whomever: see `triggers`."""

closed = Table(
    "crossfoot_closed",
    metadata,
    Column("number", Key, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("chain", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("sums", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("names", Text, nullable=False),
    Column("payloads", Text, nullable=False),
    Column("first_bucket", BigInteger, nullable=False),
    Column("last_bucket", BigInteger, nullable=False),
    Column("lowest", BigInteger, nullable=False),
    Column("highest", BigInteger, nullable=False),
    Column("lowest_entry", BigInteger, nullable=False),
    Column("messages", BigInteger, nullable=False),
    Column("entries", BigInteger, nullable=False),
    Column("pruned_upto", BigInteger, nullable=False),
    Column("pruned", BigInteger, nullable=False),
    Column("pruned_entries", BigInteger, nullable=False),
    Column("skipped", Text, nullable=False),
)
"""What was sealed into the archive, one row for each seal: see `archive.seal`."""

archived = Table(
    "crossfoot_archived",
    metadata,
    Column("bucket", BigInteger, nullable=False),
    Column("queue", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("measure", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("d0", BigInteger, nullable=False),
    Column("d1", BigInteger, nullable=False),
    PrimaryKeyConstraint("bucket", "queue", "type", "measure"),
    sqlite_with_rowid=False,
)
"""Of the tallies that part which is of messages that lie in the archive, and not in the book any more."""

pruning = Table(
    "crossfoot_pruning",
    metadata,
    Column("lower", BigInteger, nullable=False),
    Column("upper", BigInteger, nullable=False),
    PrimaryKeyConstraint("lower"),
    sqlite_with_rowid=False,
)
"""Keys that this very transaction takes out of the book, because they lie in the archive; empty to everybody else."""

erased = Table(
    "crossfoot_erased",
    metadata,
    Column("number", Key, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("subject", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("payloads", BigInteger, nullable=False),
)
"""Whose payloads were erased, by whom and why."""

workers = Table(
    "crossfoot_workers",
    metadata,
    Column("number", Key, primary_key=True),
    Column("name", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("stopped_at", BigInteger),
)

tallies = Table(
    "crossfoot_tallies",
    metadata,
    Column("bucket", BigInteger, nullable=False),
    Column("queue", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("measure", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("d0", BigInteger, nullable=False),
    Column("d1", BigInteger, nullable=False),
    PrimaryKeyConstraint("bucket", "queue", "type", "measure"),
    sqlite_with_rowid=False,
)

facts = Table(
    "crossfoot_facts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""What the book knows of itself: its identity, and how far it is posted."""

replays = Table(
    "crossfoot_replays",
    metadata,
    Column("number", Key, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("selection", Text, nullable=False),
    Column("policy", Text),
    Column("count", BigInteger, nullable=False, server_default=text("0")),
    Column("d0", BigInteger, nullable=False, server_default=text("0")),
    Column("d1", BigInteger, nullable=False, server_default=text("0")),
    Column("stage", Integer, nullable=False, server_default=text("0")),
    Column("note", Text),
    Column("claim", Text),
    Column("until", BigInteger, nullable=False, server_default=text("0")),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
)

replay_members = Table(
    "crossfoot_replay_members",
    metadata,
    Column("replay", BigInteger, nullable=False),
    Column("message", BigInteger, nullable=False),
    Column("class", Text, nullable=False),
    Column("reason", Text),
    Column("fate", Integer, nullable=False),
    Column("latest", BigInteger, nullable=False),
    Column("cause", Text),
    Column("state", Text, nullable=False),
    Column("stage", Integer),
    Column("base", Integer),
    Column("moved_at", BigInteger),
    Column("ended", Integer),
    Column("ended_at", BigInteger),
    Column("letters", Text),
    Column("before", LargeBinary),
    Column("after", LargeBinary),
    PrimaryKeyConstraint("replay", "message"),
    sqlite_with_rowid=False,
)
"""`fate` and `latest` are those of the plan: a member to which something happened since is left alone. `base` is the attempt that
its deliveries go on from; `letters` are the broker's ids of the dead letters that its move makes void."""
Index(
    "crossfoot_replay_members_stage",
    replay_members.c.replay,
    replay_members.c.state,
    replay_members.c.stage,
    replay_members.c.message,
)
