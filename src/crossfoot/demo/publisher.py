"""Publishes the log, in batches, with what the plan does to messages before they reach the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import anyio

from crossfoot.app import Crossfoot
from crossfoot.demo.log import Event
from crossfoot.demo.messages import copied, damaged, id_of, message_of
from crossfoot.demo.plan import FAULT_OF, Act, Fault, Plan
from crossfoot.demo.record import Record
from crossfoot.demo.waiting import until
from crossfoot.message import Message

BATCH = 100

MOST_AHEAD = 1_500
"""Messages the queue may hold before the publisher waits: hospitals do not send a year's events in a second, either."""

_DAMAGE = (Act.MALFORM, Act.UNKNOWN_ENUM, Act.UNKNOWN_TYPE)


class Item(NamedTuple):
    """A message, and the fault that has happened, to whom, when it is published."""

    message: Message
    fault: Fault | None
    id: str


class Publisher:
    """Publishes events in order, except where the plan says otherwise.

    Args:
        app: the service as the hospital's information system sees it, on the main queue.
        late: the same on the queue whose consumer comes too late.
    """

    def __init__(self, app: Crossfoot, late: Crossfoot, plan: Plan, record: Record) -> None:
        self._app = app
        self._late = late
        self._plan = plan
        self._record = record
        self._next: list[Item] = []
        """For the next batch."""
        self._held_back: dict[int, Message] = {}
        """Messages whose successor goes first, by the successor's sequence."""
        self.published = 0
        """Events published so far."""
        self.late_at: list[float] = []
        """When messages went to the late queue, by the event loop's clock."""
        self.done = False

    async def run(self, events: Sequence[Event]) -> None:
        """Publish them all."""
        early = set(self._plan.of(Act.REORDER))
        successors = {event.predecessor: event.sequence for event in events if event.sequence in early}
        for start in range(0, len(events), BATCH):
            batch = events[start : start + BATCH]
            await self._keep_step()
            await self._publish(batch, successors)
            self.published += len(batch)
        await self._publish((), successors)
        self.done = True

    async def _keep_step(self) -> None:
        async def may_go_on() -> bool:
            return (await self._app.queue.depth()).held <= MOST_AHEAD

        await until(may_go_on, every=0.05)

    async def _publish(self, batch: Sequence[Event], successors: Mapping[int, int]) -> None:
        items, self._next = self._next, []
        for event in batch:
            act = self._plan.acts.get(event.sequence)
            message = message_of(event)
            if event.sequence in successors:
                self._held_back[successors[event.sequence]] = message
                continue
            if act is not None:
                self._prepare(event, message, act)
                message = damaged(message, act, self._app.queue.capabilities.max_bytes or 0)
            items.append(Item(message, _done(act), id_of(event)))
        for late, group in groupby(items, lambda item: item.fault is Fault.EXPIRED):  # in order, whichever queue
            await self._send(self._late if late else self._app, list(group))

    def _prepare(self, event: Event, message: Message, act: Act) -> None:
        """What follows in the next batch."""
        if act is Act.PUBLISH_TWICE:
            self._next.append(Item(message, Fault.DUPLICATE, message.id))
        elif act is Act.COPY_OPERATION:
            self._next.append(Item(copied(message), Fault.DUPLICATE, event.operation))
        elif act is Act.REORDER:
            self._next.append(Item(self._held_back.pop(event.sequence), Fault.REORDERED, message.id))

    async def _send(self, app: Crossfoot, items: Sequence[Item]) -> None:
        await app.publish(*(item.message for item in items))
        for item in items:
            if item.fault is not None:
                self._record.note(item.fault, item.id)
        if app is self._late:
            self.late_at += [anyio.current_time()] * len(items)


def _done(act: Act | None) -> Fault | None:
    """The fault that has happened once the message is published."""
    return FAULT_OF[act] if act in (*_DAMAGE, Act.EXPIRE) else None
