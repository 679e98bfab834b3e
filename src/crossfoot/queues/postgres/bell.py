"""Waking receives that wait, in this process and in others.

A NOTIFY in a transaction has its commit stand in line with every other such commit of the whole server. So nothing is told
in the transaction that publishes, which may be the user's, but afterwards in one of its own, which writes nothing to disk;
and at most once in a while, because whoever is woken looks again soon. What nobody is told of is found by polling.
"""

from __future__ import annotations

import hashlib
import logging
import time

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.embedded.doorbell import Listener, ring
from crossfoot.queues.postgres.answers import NoAnswer, Rejected
from crossfoot.queues.postgres.client import Client

QUIET = 0.01
"""Seconds between two calls of one process."""

_log = logging.getLogger("crossfoot.queues.postgres")


class Bell:
    """The bell of one queue."""

    def __init__(self, client: Client) -> None:
        self._client = client
        address = client.address
        self._place = (address.url, address.name)
        self._channel = f"crossfoot_queue_{hashlib.sha256(address.name.encode()).hexdigest()[:16]}"
        self._rung = 0.0

    def waiting(self) -> Listener:
        """A wait that calls end."""
        return Listener(self._place)

    def ring_here(self) -> None:
        """Wake whoever waits in this process. From any thread."""
        ring(self._place)

    def ring_soon(self) -> None:
        """Wake whoever waits in this process now, and those elsewhere soon, if there is a connection for it. From any
        thread."""
        ring(self._place)
        self._client.soon(self.ring)

    async def ring(self) -> None:
        """Wake whoever waits, here and elsewhere."""
        ring(self._place)
        now = time.monotonic()
        if now - self._rung < QUIET:
            return
        self._rung = now
        try:
            await self._client.ask("SELECT FROM pg_notify(%(channel)s, '')", {"channel": self._channel})
        except (QueueUnavailable, NoAnswer, Rejected) as error:
            _log.info(
                "queue %s: nobody was told of a message, it is found by polling: %s", self._client.address.name, error
            )

    async def listen(self) -> None:
        """Hear those elsewhere, if that is possible: a pooler or a lack of connections leaves the polling."""
        try:
            await self._client.listen(self._channel, self.ring_here)
        except QueueUnavailable as error:
            _log.info("queue %s: messages are found by polling only: %s", self._client.address.name, error)
