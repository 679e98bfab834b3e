"""The dead letters: a topic of their own, which is read and never taken from."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.queues.attempts import attempts_told
from crossfoot.queues.kafka.looking import Looker
from crossfoot.queues.kafka.messages import DELIVERIES, OFFSET, PARTITION, REASON, TOPIC, Came, number_in
from crossfoot.queues.queue import Held


def count(looker: Looker, topic: str) -> int:
    """How many there are."""
    return sum(stand.high - stand.low for stand in looker.stands(topic))


def reading(looker: Looker, topic: str) -> Iterator[tuple[int, Came]]:
    """All of them, from the beginning of each partition."""
    return looker.read(topic, {stand.partition: stand.low for stand in looker.stands(topic)})


def held_of(topic: str, partition: int, came: Came, *, dead: bool = False) -> Held:
    """A message as it is seen. A dead letter bears the broker's id of the message that died."""
    where = f"{topic}/{partition}/{came.offset}"
    if dead and came.header(TOPIC):
        where = f"{came.header(TOPIC)}/{number_in(came, PARTITION)}/{number_in(came, OFFSET)}"
    return Held(
        body=came.event,
        attempt=attempts_told(came.header(DELIVERIES), 0) if dead else 0,
        enqueued_at=came.at,
        broker_id=where,
        attributes=came.attributes,
        dead=dead,
        reason=came.header(REASON) if dead else "",
    )
