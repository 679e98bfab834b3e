"""A PostgreSQL server that undoes transactions, as if they stood in the way of others."""

from __future__ import annotations

import psycopg

TIMES = 2

_UNDONE = """
CREATE SEQUENCE undone;
CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF nextval('undone') <= {times} THEN RAISE EXCEPTION 'stood in the way' USING ERRCODE = '{state}'; END IF;
  RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER undo BEFORE {what} FOR EACH ROW EXECUTE FUNCTION undo();
"""


def undo(url: str, what: str, *, state: str = "deadlock_detected") -> None:
    """Have the first transactions that do that undone, `TIMES` of them.

    Args:
        what: as in `INSERT ON crossfoot_entries`.
        state: of the error, as PL/pgSQL calls it.
    """
    with psycopg.connect(url) as connection:
        connection.execute(_UNDONE.format(times=TIMES, state=state, what=what).encode())


def was_undone(url: str) -> bool:
    """Whether that has happened as often, and been done again."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT last_value FROM undone").fetchone()
    return row is not None and row[0] > TIMES
