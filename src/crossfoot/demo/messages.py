"""Events as messages: whole, damaged as the plan says, and corrected."""

from __future__ import annotations

from typing import Any

import msgspec

from crossfoot.demo.log import Event
from crossfoot.demo.plan import Act
from crossfoot.message import Message

SOURCE = "hospital"
"""Who sends the events: the hospital's information system."""


def id_of(event: Event) -> str:
    return f"event-{event.sequence}"


def message_of(event: Event) -> Message:
    """The message of an event."""
    data: dict[str, Any] = {"activity": event.activity, "at": event.timestamp}
    for name in ("state", "closecode", "speciality"):
        if getattr(event, name):
            data[name] = getattr(event, name)
    return Message(
        id=id_of(event), source=SOURCE, type=type_of(event.activity), subject=event.case, sequence=event.sequence,
        predecessor=event.predecessor or None, correlationid=f"case-{event.case}", data=data,
    )  # fmt: skip


def type_of(activity: str) -> str:
    """`CODE OK` is `billing.code-ok`."""
    return "billing." + activity.lower().replace(" ", "-")


def damaged(message: Message, act: Act, max_bytes: int) -> Message:
    """The message as it is published when the plan has an act that damages it."""
    data = dict(message.data)
    if act is Act.MALFORM:
        data["activity"] = [data["activity"]]
    elif act is Act.UNKNOWN_ENUM:
        data["activity"] += " V2"  # what a newer version of the sender would know
    elif act is Act.UNKNOWN_TYPE:
        return msgspec.structs.replace(message, type=message.type.replace("billing.", "biling."))
    elif act is Act.REFUSE_FOR_GOOD:
        data["attachment"] = "x" * max_bytes
    return msgspec.structs.replace(message, data=data)


def copied(message: Message) -> Message:
    """The same business action asked for by another message."""
    return msgspec.structs.replace(message, id=f"{message.id}-copy")


def corrected(event: Event, *, instead_of: str) -> Message:
    """The event once more, as it should have been, caused by the message that died."""
    return msgspec.structs.replace(message_of(event), id=f"{id_of(event)}-corrected", causationid=instead_of)
