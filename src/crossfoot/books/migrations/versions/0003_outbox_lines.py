"""What comes before a letter of an ordered queue is found by its partition, and not among all that waits."""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENT = """
CREATE INDEX crossfoot_outbox_line ON crossfoot_outbox (partition, number) WHERE partition IS NOT NULL
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(STATEMENT)
