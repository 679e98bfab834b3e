"""A message completes one operation at most, whatever a later version of its program calls it: the database sees to it."""

import time
from typing import Any

from alembic import op
from sqlalchemy.exc import OperationalError

revision = "0009"
down_revision = "0008"

NAME = "crossfoot_operations_message"

# Where it happened before, those messages keep what they have, and all others are held to it.
TWICE = "SELECT message FROM crossfoot_operations GROUP BY message HAVING count(*) > 1 ORDER BY message"


LOCK = "LOCK TABLE crossfoot_operations IN ACCESS EXCLUSIVE MODE"
PATIENCE, PAUSE, TRIES = "1s", 1.0, 30
LOCK_NOT_AVAILABLE = "55P03"


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        _lock(connection)
    twice = [f"{message:d}" for (message,) in connection.exec_driver_sql(TWICE)]
    if not twice:
        connection.exec_driver_sql(f"DROP INDEX {NAME}")
        connection.exec_driver_sql(f"CREATE UNIQUE INDEX {NAME} ON crossfoot_operations (message)")
    else:
        connection.exec_driver_sql(
            f"CREATE UNIQUE INDEX {NAME}_once ON crossfoot_operations (message) WHERE message NOT IN ({', '.join(twice)})"
        )


def _lock(connection: Any) -> None:
    """Before the look, so that nobody completes a second operation behind it. Whoever comes while it is waited for waits, too: so it
    is for a second each time, and not for as long as the longest handler takes."""
    (before,) = connection.exec_driver_sql("SELECT current_setting('lock_timeout')").one()
    for left in reversed(range(TRIES)):
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE}'")
                connection.exec_driver_sql(LOCK)
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{before}'")
                return
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE or not left:
                raise
        time.sleep(PAUSE)
