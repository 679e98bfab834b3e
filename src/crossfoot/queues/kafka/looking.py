"""Looking at a topic without being of the group: what is there, how far the group is, and reading without taking.

A client that never subscribes may ask for the group's offsets, and read partitions that it names itself; nothing of that is seen
by the group. All calls block, and are made in a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple, TypeVar

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.kafka.address import Address
from crossfoot.queues.kafka.answers import import_client
from crossfoot.queues.kafka.messages import Came, came_of

T = TypeVar("T")

QUIET_SECONDS = 10.0
"""After which reading is given up, although the partition has not ended."""


class Stand(NamedTuple):
    """One partition."""

    partition: int
    low: int
    """Where its log begins."""
    high: int
    """Where it ends."""
    committed: int
    """From where on the group has not settled everything; its beginning, if the group has none or an earlier one."""


class Looker:
    """Looks at one cluster.

    Args:
        settings: the client's: servers and credentials.
    """

    def __init__(self, place: Address, settings: dict[str, Any], *, timeout: float) -> None:
        self._place = place
        self._settings = {
            **settings,
            "group.id": place.group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
        }
        self._timeout = timeout
        self._using = threading.Lock()
        self._client: Any = None

    def partitions(self, topic: str) -> list[int] | None:
        """A topic's partitions; `None` when it does not exist.

        Raises:
            QueueUnavailable: nobody answers, or we are not let in.
        """

        def ask(client: Any) -> list[int] | None:
            found = client.list_topics(topic, timeout=self._timeout).topics.get(topic)
            if found is None or (found.error is not None and found.error.name() == "UNKNOWN_TOPIC_OR_PART"):
                return None
            if found.error is not None:
                raise QueueUnavailable(f"queue {self._place.name}: topic {topic} cannot be used: {found.error.str()}")
            return sorted(found.partitions)

        return self._asked(ask)

    def settings_of(self, topic: str) -> dict[str, str]:
        """A topic's settings; none where they may not be read, or the broker has none to show. Never raises for that."""
        kafka = import_client()
        client = kafka.admin.AdminClient(self._settings_without_group)
        resource = kafka.admin.ConfigResource(kafka.admin.ResourceType.TOPIC, topic)
        try:
            (answer,) = client.describe_configs([resource], request_timeout=self._timeout).values()
            return {name: str(entry.value) for name, entry in answer.result().items()}
        except kafka.KafkaException:
            return {}

    def stands(self, topic: str) -> list[Stand]:
        """How far the group is with a topic.

        Raises:
            QueueUnavailable: it cannot be learned, or there is no such topic; one that is gone for a moment has lost nothing.
        """
        kafka = import_client()
        if (partitions := self.partitions(topic)) is None:
            raise QueueUnavailable(f"queue {self._place.name}: topic {topic} does not exist at {self._place.servers}")
        places = [kafka.TopicPartition(topic, partition) for partition in partitions]

        def ask(client: Any) -> list[Stand]:
            found = []
            for place in client.committed(places, timeout=self._timeout) if places else ():
                if place.error is not None:
                    raise kafka.KafkaException(place.error)
                low, high = client.get_watermark_offsets(place, timeout=self._timeout)
                found.append(Stand(place.partition, low, high, max(low, place.offset)))
            return found

        return self._asked(ask)

    def read(self, topic: str, starts: dict[int, int], *, heads: bool = False) -> Iterator[tuple[int, Came]]:
        """All there is from these offsets on, as it is now, each with its partition.

        Args:
            heads: only the first of each partition.

        Raises:
            QueueUnavailable: it cannot be read.
        """
        kafka = import_client()
        settings = {
            **self._settings,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 100,
            "auto.offset.reset": "earliest",
        }
        left = set(starts)
        with closing(kafka.Consumer(settings)) as client:
            client.assign([kafka.TopicPartition(topic, partition, offset) for partition, offset in starts.items()])
            until = time.monotonic() + QUIET_SECONDS
            while left:
                message = client.poll(0.2)
                if message is None:
                    if time.monotonic() > until:
                        raise QueueUnavailable(
                            f"queue {self._place.name}: topic {topic} could not be read to its end. Try again"
                        )
                    continue
                until = time.monotonic() + QUIET_SECONDS
                if message.error() is None:
                    if message.partition() in left:
                        yield message.partition(), came_of(message)
                        if heads:
                            left.discard(message.partition())
                elif message.error().name() == "_PARTITION_EOF":
                    left.discard(message.partition())
                elif message.error().name() != "_AUTO_OFFSET_RESET":
                    raise QueueUnavailable(
                        f"queue {self._place.name}: topic {topic} cannot be read: {message.error().str()}"
                    )

    def close(self) -> None:
        with self._using:
            client, self._client = self._client, None
            if client is not None:
                client.close()

    # ---- parts -------------------------------------------------------------------------------------------------------

    @property
    def _settings_without_group(self) -> dict[str, Any]:
        ours = ("group.id", "enable.auto.commit", "auto.offset.reset")
        return {name: value for name, value in self._settings.items() if name not in ours}

    def _asked(self, ask: Callable[[Any], T]) -> T:
        kafka = import_client()
        with self._using:
            try:
                if self._client is None:
                    self._client = kafka.Consumer(self._settings)
                return ask(self._client)
            except kafka.KafkaException as error:
                raise QueueUnavailable(
                    f"queue {self._place.name} cannot be looked at, at {self._place.servers}: {error}. Check the address, and whether "
                    "the server runs"
                ) from error
