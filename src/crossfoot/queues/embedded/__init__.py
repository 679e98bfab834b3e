"""The embedded queue: a table in a SQLite file, normally the one that also holds the book and the business tables.

`queue.py` is the port, `store.py` the same without async, `sql.py` the statements (and those that ride in a caller's
own transaction), `tables.py` what a migration creates, `file.py` the connection and its failures, `steps.py` what a
clock that is set back does to waits, `doorbell.py` the wake-up.
"""

from crossfoot.queues.embedded.queue import EmbeddedQueue
from crossfoot.queues.embedded.store import Counts, EmbeddedStore

__all__ = ["Counts", "EmbeddedQueue", "EmbeddedStore"]
