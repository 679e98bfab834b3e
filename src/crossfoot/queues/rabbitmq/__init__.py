"""RabbitMQ as the queue, a quorum queue or a classic one, over AMQP 0-9-1 through aiormq (the extra `rabbitmq`).

What RabbitMQ promises and what it does not is told in `queue.py` (the port), `link.py` (what an answer proves), `holding.py`
(leases), `delays.py` (how a message waits), `probing.py` (settings nobody tells), `watching.py` (what can be counted) and `dead.py`.
"""

from crossfoot.queues.rabbitmq.ensure import ensure
from crossfoot.queues.rabbitmq.queue import RabbitQueue

__all__ = ["RabbitQueue", "ensure"]
