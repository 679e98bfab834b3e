"""A table of a PostgreSQL database as the queue, through psycopg (the extra `postgres`).

Any number of workers on any number of machines receive from it, each message leased to one of them. The database may be
the one with the book and the business tables: then the ack rides in the transaction of the effect.

`tables.py` is what it is made of, `sql.py` and `local.py` the statements, `places.py` where a receive begins to look,
`client.py` the connections, `answers.py` what an answer proves, `bell.py` the wake-up.
"""

from crossfoot.errors import missing_extra

try:
    import psycopg  # noqa: F401 - only to say it here, once, when it is not there
except ImportError as error:
    raise missing_extra("PostgreSQL", "postgres") from error

from crossfoot.queues.postgres.ensure import ensure
from crossfoot.queues.postgres.queue import PostgresQueue

__all__ = ["PostgresQueue", "ensure"]
