"""What stands in a broker's own log, read from its beginning and by nobody's group."""

from __future__ import annotations

from contextlib import closing

from confluent_kafka import Consumer, TopicPartition

from crossfoot.errors import EnvelopeInvalid
from crossfoot.message import decode
from crossfoot.queues.kafka.address import address_of
from crossfoot.queues.kafka.messages import came_of

QUIET_SECONDS = 60.0


def ids_in_log(queue: str, endpoint: str) -> set[str]:
    """The ids of all messages in the log of a topic of Kafka's.

    Raises:
        TimeoutError: it could not be read to its end.
    """
    place = address_of(queue, servers=endpoint)
    settings = {
        "bootstrap.servers": place.servers,
        "group.id": "who-looks-on",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    }
    found: set[str] = set()
    with closing(Consumer(settings)) as client:
        left = set(client.list_topics(place.topic, timeout=QUIET_SECONDS).topics[place.topic].partitions)
        client.assign([TopicPartition(place.topic, partition, 0) for partition in left])
        while left:
            message = client.poll(QUIET_SECONDS)
            if message is None:
                raise TimeoutError(f"topic {place.topic}: its log could not be read to its end")
            if message.error() is None:
                try:
                    found.add(decode(came_of(message).event).id)
                except EnvelopeInvalid:
                    continue  # the publisher makes none; whatever it is, it is none of these
            elif (error := message.error()) is not None and error.name() == "_PARTITION_EOF":
                left.discard(message.partition())
    return found
