"""The tables for queues, made if they are not there: for development, tests and deployment scripts.

In production tables belong to whoever owns the database; `PostgresQueue.open` only checks.
"""

from __future__ import annotations

import anyio
import psycopg

from crossfoot.connection import shown
from crossfoot.errors import DatabaseUnavailable, QueueUnavailable
from crossfoot.postgres import ALONE, connect_async, explain
from crossfoot.queues.postgres import sql
from crossfoot.queues.postgres.address import address_of
from crossfoot.queues.postgres.tables import creation


async def ensure(queue: str, *, url: str | None = None) -> str:
    """Make sure that the database has the tables for queues. Any number of queues share them.

    Args:
        queue: its name; or a URL with it, as `postgresql://host/database?queue=billing`.
        url: the database, if `queue` does not say.

    Returns:
        The queue's name, as books and balances show it.

    Raises:
        UsageError: it is no address.
        QueueUnavailable: the database cannot be reached, or refuses us.
    """
    address = address_of(queue, url)
    try:
        raw = await connect_async(psycopg.AsyncConnection, address.url)
    except DatabaseUnavailable as error:
        raise QueueUnavailable(f"the tables of queue {address.name} could not be made: {error}") from error
    try:
        async with raw.transaction():
            await raw.execute(ALONE, ("makes the queues' tables",))
            there = await (await raw.execute(sql.OPENED.encode())).fetchone()
            for statement in () if there and there[0] else creation():
                await raw.execute(statement.encode())
    except psycopg.Error as error:
        known = explain(error, shown(address.url))
        raise QueueUnavailable(f"the tables of queue {address.name} could not be made: {known}") from error
    finally:
        with anyio.CancelScope(shield=True):
            await raw.close()
    return address.name
