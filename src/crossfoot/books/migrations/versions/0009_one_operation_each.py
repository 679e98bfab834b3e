"""A message completes one operation at most, whatever a later version of its program calls it: the database sees to it."""

from alembic import op

revision = "0009"
down_revision = "0008"

NAME = "crossfoot_operations_message"

# Where it happened before, those are kept, and whatever comes after them is held to it.
TWICE = """
SELECT max(number) FROM crossfoot_operations WHERE EXISTS (SELECT 1 FROM crossfoot_operations GROUP BY message HAVING count(*) > 1)
"""


def upgrade() -> None:
    connection = op.get_bind()
    last = connection.exec_driver_sql(TWICE).scalar()
    if last is None:
        connection.exec_driver_sql(f"DROP INDEX {NAME}")
        connection.exec_driver_sql(f"CREATE UNIQUE INDEX {NAME} ON crossfoot_operations (message)")
    else:
        connection.exec_driver_sql(
            f"CREATE UNIQUE INDEX {NAME}_once ON crossfoot_operations (message) WHERE number > {last:d}"
        )
