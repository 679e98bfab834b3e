"""The queue of a service whose book is in PostgreSQL, unless it names another one: it makes its own table, as the book does."""

from __future__ import annotations

from crossfoot.queues.postgres.ensure import ensure
from crossfoot.queues.postgres.queue import PostgresQueue


class QueueBesideTheBook(PostgresQueue):
    """A queue in the book's database."""

    async def open(self) -> None:
        """Make the table if it is not there; otherwise as `PostgresQueue.open`.

        Raises:
            QueueUnavailable: the database cannot be reached, refuses us, or has a table of another version.
        """
        if not self._open:
            await ensure(self.name, url=self._address.url)
        await super().open()
