"""Reading the dead letters, which AMQP can only do by taking them: all are taken, and handed back before they are shown.

While somebody reads them, others do not see them; their count says then that there are more than were shown (`watching.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import anyio
from anyio import CancelScope

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Held
from crossfoot.queues.rabbitmq.answers import NoAnswer, Rejected
from crossfoot.queues.rabbitmq.connection import Connection
from crossfoot.queues.rabbitmq.link import Link
from crossfoot.queues.rabbitmq.messages import came_of

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage
    from aiormq.channel import Channel

QUIET_SECONDS = 1.0
"""After which no more are expected, though the queue counted more: others have taken them."""

AT_ONCE = 60_000
"""Dead letters that are looked at; AMQP counts no further."""


async def read(connection: Connection, queue: str, count: int) -> list[Held]:
    """Up to `count` dead letters, left where they are.

    Raises:
        QueueUnavailable: they cannot be read.
    """
    if not count:
        return []
    link = await connection.receiving()
    try:
        async with link.aside() as channel:
            return [held_of(message) for message in await _taken(link, channel, queue, min(count, AT_ONCE))]
    except (Rejected, NoAnswer) as error:
        raise QueueUnavailable(
            f"queue {connection.label}: its dead letters, {queue}, cannot be read: {error}"
        ) from error


async def forget(connection: Connection, queue: str, count: int, broker_ids: Collection[str]) -> int:
    """Take those away that are called so; the others are handed back. How many were still there.

    Raises:
        QueueUnavailable: they cannot be read, or it is not known whether they were taken away.
    """
    if not count:
        return 0
    link = await connection.receiving()
    try:
        async with link.aside() as channel:
            taken = await _taken(link, channel, queue, min(count, AT_ONCE), broker_ids)
            return sum(held_of(message).broker_id in broker_ids for message in taken)
    except (Rejected, NoAnswer) as error:
        raise QueueUnavailable(
            f"queue {connection.label}: its dead letters, {queue}, cannot be taken away: {error}. Try again"
        ) from error


async def _taken(
    link: Link, channel: Channel, queue: str, wanted: int, forget: Collection[str] = ()
) -> list[DeliveredMessage]:
    """All of them, handed back but for those that are to be forgotten."""
    came: list[DeliveredMessage] = []
    more = anyio.Event()

    async def take(message: DeliveredMessage) -> None:
        nonlocal more
        came.append(message)
        more.set()
        more = anyio.Event()

    await link.ask(lambda: channel.basic_qos(prefetch_count=wanted))
    consuming = await link.ask(lambda: channel.basic_consume(queue, take))
    try:
        while len(came) < wanted:
            waiting, before = more, len(came)
            with anyio.move_on_after(QUIET_SECONDS):
                await waiting.wait()
            if len(came) == before:
                break
    finally:
        with CancelScope(shield=True):
            await link.ask(lambda: channel.basic_cancel(str(consuming.consumer_tag)))
            others = []
            for message in came:
                if forget and held_of(message).broker_id in forget:
                    await link.ask(lambda: _ack(channel, _tag(message)))  # noqa: B023 - awaited here
                else:
                    others.append(message)
            if others:  # up to the last of them: of one that is acked the broker knows no more, and closes the channel
                await link.ask(lambda: _give_back(channel, _tag(others[-1])))
                await _until_back(link, channel, queue, len(others))
    return came


def _tag(message: DeliveredMessage) -> int:
    return int(message.delivery.delivery_tag or 0)  # type: ignore[union-attr] # it was delivered


async def _ack(channel: Channel, tag: int) -> None:
    await channel.basic_ack(tag)


async def _give_back(channel: Channel, last: int) -> None:
    await channel.basic_nack(last, multiple=True)


async def _until_back(link: Link, channel: Channel, queue: str, count: int) -> None:
    """A quorum queue takes a moment to have them back, and who counts them meanwhile would find too few."""
    with anyio.move_on_after(QUIET_SECONDS):
        back = 0
        while back < count:
            await anyio.sleep(0.002)
            back = int((await link.ask(lambda: channel.queue_declare(queue, passive=True))).message_count or 0)


def held_of(message: DeliveredMessage) -> Held:
    """A dead letter as it is seen."""
    came = came_of(message)
    return Held(
        body=came.body,
        attempt=came.died_after,
        enqueued_at=came.at,
        broker_id=came.broker_id,
        attributes=came.attributes,
        dead=True,
        reason=came.reason,
    )
