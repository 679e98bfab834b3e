"""NATS JetStream as the queue, a pull consumer on a durable, through the official client (the extra `nats`).

What JetStream promises and what it does not, and how each answer of it is read, is told in `queue.py` (the port),
`connection.py` and `answers.py` (what an error proves), `settling.py` (leases), `given_up.py` (what it drops without a word) and `dead.py`
(dead letters).
"""

from crossfoot.queues.nats.ensure import ensure
from crossfoot.queues.nats.queue import NatsQueue

__all__ = ["NatsQueue", "ensure"]
