"""Kafka as the queue: a topic, and a consumer group on it, through the official client (the extra `kafka`).

Kafka has offsets where other brokers have acks. What follows from that is told in `shelf.py` and `track.py` (what is in hand, and
how far the offset may go), `member.py` (the group, and what a rebalance takes away) and `committing.py` (what a commit proves).
"""

from crossfoot.queues.kafka.ensure import ensure
from crossfoot.queues.kafka.queue import KafkaQueue

__all__ = ["KafkaQueue", "ensure"]
