"""One connection, as requests want it: a wait that is given up leaves nothing half read."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.waiting import wait_async


class Link(psycopg.AsyncConnection[Any]):
    """A connection of one queue's, for one event loop."""

    async def wait(
        self,
        gen: PQGen[RV],
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's signature
    ) -> RV:
        """Whoever gives up closes the connection. psycopg would ask the server to cancel, and wait for that: a server that
        does not answer does not answer that either."""
        more = {} if timeout is None else {"timeout": timeout}
        try:
            return await wait_async(gen, self.pgconn.socket, interval=interval, **more)
        except BaseException:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise

    @property
    def alive(self) -> bool:
        """Whether the server has not closed it, as far as can be seen without asking."""
        if self.closed:
            return False
        try:
            self.pgconn.consume_input()
            self.pgconn.consume_input()  # the first may have read no more than its farewell
        except psycopg.OperationalError:
            return False
        return self.pgconn.status == ConnStatus.OK
