"""Invariants as the book keeps them, and what came of their last check."""

from __future__ import annotations

from typing import NamedTuple

from crossfoot.clock import Micros
from crossfoot.connection import Connection


class Kept(NamedTuple):
    """An invariant. `held` is 1, 0, or nothing where it could not be told; `result` is a JSON object."""

    name: str
    definition: str
    checked_at: Micros | None
    held: int | None
    result: str | None


def kept(connection: Connection) -> list[Kept]:
    """All of them, by name."""
    columns = ", ".join(Kept._fields)
    return [Kept(*row) for row in connection.execute(f"SELECT {columns} FROM crossfoot_invariants ORDER BY name")]


_KEEP = """
INSERT INTO crossfoot_invariants (name, definition) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET definition = excluded.definition, checked_at = NULL, held = NULL, result = NULL
WHERE crossfoot_invariants.definition <> excluded.definition
"""


def keep(connection: Connection, name: str, definition: str) -> None:
    """Keep one; in the caller's transaction."""
    connection.execute(_KEEP, (name, definition))


def forget(connection: Connection, name: str) -> bool:
    return connection.execute("DELETE FROM crossfoot_invariants WHERE name = ?", (name,)).rowcount > 0


def note(connection: Connection, name: str, now: Micros, holds: int | None, result: str) -> None:
    """What came of a check."""
    connection.execute(
        "UPDATE crossfoot_invariants SET checked_at = ?, held = ?, result = ? WHERE name = ?",
        (now, holds, result, name),
    )
