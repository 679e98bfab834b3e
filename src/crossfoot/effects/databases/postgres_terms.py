"""What is said in each transaction on a PostgreSQL connection that is not crossfoot's, but an engine's or Django's.

Of its own sessions crossfoot sets the same once (see `crossfoot.postgres.connecting`); those it borrows are also used by others, for
whom nothing may be changed, so it is `SET LOCAL` there. Where the server, the role or the connection says it already, nothing is said,
and a trip is saved.
"""

from __future__ import annotations

from typing import Any

from psycopg import generators, pq
from psycopg.abc import PQGen
from psycopg.errors import error_from_result

from crossfoot.postgres import DURABLE, PATIENCE, needs_durability

LOOK = "SELECT current_setting('synchronous_commit'), current_setting('lock_timeout'), pg_backend_pid()"
"""What is asked of a driver's connection once in its life."""


def said_in_each(durable: str, patience: str) -> bytes:
    """Statements for the beginning of each transaction, empty for none.

    Args:
        durable, patience: what `LOOK` found.
    """
    wanted = [*([DURABLE] if needs_durability(durable, "FULL") else []), *([PATIENCE] if patience == "0" else [])]
    return b"; ".join(b"SET LOCAL" + statement.removeprefix(b"SET") for statement in wanted)


def saying(raw: Any, terms: bytes) -> PQGen[None]:
    """For a psycopg connection's `wait`: begin its transaction as the driver would, and say the terms, in one trip.

    Raises:
        psycopg.Error: what the server says against it.
    """
    if raw.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        terms = b"%s; %s" % (raw._get_tx_start_command(), terms)
    raw.pgconn.send_query(terms)
    for result in (yield from generators.execute(raw.pgconn)):
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise error_from_result(result)


def terms_of(raw: Any, look: tuple[str, str, int]) -> bytes:
    """What `said_in_each` says for a connection of psycopg's.

    If there is a pooler in between, which makes up the process id that it tells, nothing is prepared on that connection from now on:
    another session may be asked for it.
    """
    durable, patience, pid = look
    if pid != raw.info.backend_pid:
        raw.prepare_threshold = None
    return said_in_each(durable, patience)
