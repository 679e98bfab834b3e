"""What becomes of delays and leases when the machine's clock is set back.

Waits are wall time, because processes come and go. Each row says when its wait was set (`changed_at`). A row that was
set later than *now* proves that the clock has stepped back since: its wait then begins anew, at its full length, from
the moment a consumer notices. It notices at its first look, whenever its own clock reads less than it did before, and
by looking once a minute. So a step back never cuts a lease short, and strands nothing for longer than its own wait.

A step forward ends leases early, which costs a redelivery. Retention that seems over because of it deletes nothing by
itself: such messages are set aside until somebody purges them.
"""

from __future__ import annotations

from crossfoot.clock import Clock, Micros
from crossfoot.queues.embedded import sql
from crossfoot.sqlite import Connection

CHECK_SECONDS = 60.0
"""How often a consumer looks for waits from before a step that it could not notice itself."""


class StepWatch:
    """One consumer's eye on the clock."""

    def __init__(self, queue: str, clock: Clock) -> None:
        self._queue = queue
        self._clock = clock
        self._latest: Micros = 0
        self._next_check: float | None = None
        self._suspicious = False

    def suspects(self, connection: Connection, now: Micros) -> bool:
        """Whether there may be waits that were set by a clock ahead of today's. Reads only."""
        if now < self._latest:
            self._suspicious = True
        self._latest = now
        monotonic = self._clock.monotonic()
        if self._next_check is None or monotonic >= self._next_check:
            self._next_check = monotonic + CHECK_SECONDS
            found = connection.execute(sql.AHEAD_OF_TIME, (self._queue, now, now)).fetchall()
            self._suspicious = self._suspicious or bool(found)
        return self._suspicious

    def mend(self, connection: Connection, now: Micros) -> None:
        """Begin such waits anew, in the caller's write transaction."""
        connection.execute(sql.BEGIN_WAITS_ANEW, (now, now, self._queue, now, now))

    def rest(self) -> None:
        """The transaction that mended has been committed."""
        self._suspicious = False
