"""Messages that somebody should look at, each with its latest failure: what `check` and `causes` are made of.

The cost is that of what is not settled, and bounded: at most `limit` messages of a fate are read, the newest or the oldest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from crossfoot.books.entry import RANKS, Kind
from crossfoot.books.fate import PATIENCE, Fate, Patience, Summary, fate_of
from crossfoot.books.queries import WorkerRow
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection
from crossfoot.dialect import differs

MOST = 20_000
"""Messages of one fate that are looked at one by one."""


class Failed(msgspec.Struct, frozen=True):
    """The latest failure of a message: its fingerprint, when, and the worker's number. `details` is what was booked for people."""

    cause: str
    at: Micros
    worker: int
    details: str


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is not settled, and how it stands.

    Attributes:
        at: the message's own time; `sent_at` when it was last sent, `None` where no sender said so.
        failed: `None` where none of its deliveries failed with a cause.
    """

    key: int
    queue: str
    source: str
    id: str
    type: str
    subject: str | None
    sequence: int | None
    fate: Fate
    marks: int
    latest: int
    due: Micros
    at: Micros
    sent_at: Micros | None
    failed: Failed | None

    @property
    def attempts(self) -> int:
        return self.latest // RANKS

    @property
    def received(self) -> bool:
        return bool(self.marks & (1 << Kind.RECEIVED))

    @property
    def since(self) -> Micros:
        """Since when a queue has had it, as far as that is known."""
        return self.at if self.sent_at is None else self.sent_at

    def stands(self, now: Micros, patience: Patience = PATIENCE) -> Fate:
        """The fate at the time `now`, overdue or not."""
        return fate_of(Summary(self.marks, self.latest, self.due), now, patience) or self.fate


SENT = ", ".join(str(int(kind)) for kind in (Kind.PUBLISHED, Kind.RESUMED, Kind.REPLAYED))
"""Kinds of entries that say that a message was sent, as SQL has them."""

# One value and not four: each would be a search of its own. A fingerprint and numbers hold no bar.
_LATEST_FAILURE = f"""
(SELECT f.cause || '|' || CAST(f.at AS TEXT) || '|' || CAST(f.worker AS TEXT) || '|' || coalesce(f.details, '')
 FROM crossfoot_entries f WHERE f.message = m.key AND f.cause IS NOT NULL AND f.kind <> {Kind.DEAD_LETTERED.value}
 ORDER BY f.attempt * {RANKS} + f.kind DESC, f.id DESC LIMIT 1)
"""

_STANDING = f"""
SELECT m.key, m.queue, m.source, m.id, m.type, m.subject, m.sequence, m.fate, m.marks, m.latest, m.due, m.at,
  (SELECT max(e.at) FROM crossfoot_entries e WHERE e.message = m.key AND e.kind IN ({SENT})), {_LATEST_FAILURE}
FROM crossfoot_messages m INDEXED BY crossfoot_messages_unsettled
WHERE m.fate <> {Fate.SETTLED.value} AND m.fate = :fate
  AND (CAST(:queue AS TEXT) IS NULL OR m.queue = :queue) AND (CAST(:type AS TEXT) IS NULL OR m.type = :type)
"""

_NEWEST = f"{_STANDING} ORDER BY m.key DESC LIMIT :limit"

_OLDEST = f"{_STANDING} ORDER BY m.key LIMIT :limit"


_BORN = "SELECT min(bucket) FROM crossfoot_tallies WHERE type = :type"

_WORKERS = f"SELECT {', '.join(WorkerRow.__struct_fields__)} FROM crossfoot_workers ORDER BY number DESC LIMIT :limit"

MOST_WORKERS = 2_000


def latest_workers(connection: Connection, limit: int = MOST_WORKERS) -> list[WorkerRow]:
    """The workers that registered last, the newest first, stopped or not."""
    return [WorkerRow(*row) for row in connection.execute(_WORKERS, {"limit": limit})]


def born(connection: Connection, type_: str) -> Micros | None:
    """From when the oldest message of that type is, to the minute; of those that are posted."""
    (bucket,) = connection.execute(_BORN, {"type": type_}).fetchone()
    return None if bucket is None else bucket * SECOND


ASKED = 200
"""Messages of which one statement asks whether their payload is kept; fewer are filled up with NULL, which is no key."""

_MARKS = ", ".join(["?"] * ASKED)

_KEPT = differs(
    f"SELECT key FROM crossfoot_messages WHERE key IN ({_MARKS}) AND body IS NOT NULL",
    postgres=f"SELECT key FROM crossfoot_payloads WHERE key IN ({_MARKS}) AND body IS NOT NULL",
)


def unkept(connection: Connection, keys: Sequence[int]) -> set[int]:
    """Those of the messages whose payload the book does not keep."""
    kept: set[int] = set()
    for first in range(0, len(keys), ASKED):
        group = keys[first : first + ASKED]
        filled = (*group, *[None] * (ASKED - len(group)))
        kept.update(row[0] for row in connection.execute(_KEPT, filled))
    return set(keys) - kept


def standing(
    connection: Connection, fates: Iterable[Fate], *, queue: str | None = None, type: str | None = None,
    limit: int = MOST, oldest: bool = False,
) -> list[Standing]:  # fmt: skip
    """Messages of these posted fates, at most `limit` of each, the newest first; or the oldest."""
    statement = _OLDEST if oldest else _NEWEST
    return [
        _standing(row)
        for fate in fates
        for row in connection.execute(
            statement, {"fate": int(fate), "queue": queue, "type": type, "limit": limit}
        ).fetchall()
    ]


def _standing(row: Sequence[Any]) -> Standing:
    key, queue, source, id_, type_, subject, sequence, fate, marks, latest, due, at, sent_at, failed = row
    return Standing(
        key=key, queue=queue, source=source, id=id_, type=type_, subject=subject, sequence=sequence, fate=Fate(fate), marks=marks,
        latest=latest, due=due, at=at, sent_at=sent_at, failed=_failed(failed),
    )  # fmt: skip


def _failed(packed: str | None) -> Failed | None:
    if packed is None:
        return None
    cause, at, worker, details = packed.split("|", 3)
    return Failed(cause, int(at), int(worker), details)
