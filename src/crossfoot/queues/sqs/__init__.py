"""Amazon SQS as the queue, standard and FIFO, through the official client (the extra `sqs`).

What SQS promises and what it does not, and how each answer of it is read, is told in `queue.py` (the port),
`client.py` (errors), `messages.py` (limits) and `dead.py` (dead letters).
"""

from crossfoot.queues.sqs.ensure import ensure
from crossfoot.queues.sqs.queue import SqsQueue

__all__ = ["SqsQueue", "ensure"]
