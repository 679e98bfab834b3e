"""A stream of Redis or Valkey as the queue, through the official client (the extra `redis`).

A stream with one consumer group delivers, counts deliveries and remembers what is not acked. It knows no leases, no delays
and no dead letters; these lie beside it, in keys of the same hash slot, and every step that touches several keys is one
script. What an answer proves is told in `answers.py`, what each script does in `scripts/`.
"""

from crossfoot.queues.redis.ensure import ensure
from crossfoot.queues.redis.queue import RedisQueue

__all__ = ["RedisQueue", "ensure"]
