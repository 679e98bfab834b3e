"""How crossfoot talks to PostgreSQL, 13 or newer: connections, and what their errors mean."""

from crossfoot.postgres.connecting import DURABLE, PATIENCE, connect_async, connect_raw, needs_durability
from crossfoot.postgres.connection import AFTER_OTHERS, ALONE, COMMIT, ROLLBACK, Connection, Raw, adapt, connect
from crossfoot.postgres.errors import explain, explained, first_line, is_missing, is_outside, is_transient
from crossfoot.postgres.trips import Speaking, Trip, Trips, rows_changed, rows_of

__all__ = [
    "AFTER_OTHERS", "ALONE", "COMMIT", "DURABLE", "PATIENCE", "ROLLBACK", "Connection", "Raw", "Speaking", "Trip", "Trips",
    "adapt", "connect", "connect_async", "connect_raw", "explain", "explained", "first_line", "is_missing", "is_outside",
    "is_transient", "needs_durability", "rows_changed", "rows_of",
]  # fmt: skip
