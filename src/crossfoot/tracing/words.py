"""The names that spans, attributes and events have. The guide on observability lists the same; a test compares them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Span(StrEnum):
    """The operation of a span, which is named `OPERATION QUEUE`."""

    CREATE = "create"
    SEND = "send"
    PROCESS = "process"
    PROCESS_BATCH = "process_batch"
    ACK = "ack"
    RELEASE = "release"
    DEAD_LETTER = "dead_letter"

    @property
    def type(self) -> str:
        """What kind of operation it is to OpenTelemetry."""
        if self is Span.PROCESS_BATCH:
            return "process"
        return "settle" if self in (Span.ACK, Span.RELEASE, Span.DEAD_LETTER) else self.value


class Event(StrEnum):
    """What happened to a delivery beside its beginning and its end, or to one message of several."""

    BEGUN_AGAIN = "crossfoot.begun_again"
    RETRY = "crossfoot.retry"
    DEAD_LETTER = "crossfoot.dead_letter"
    DUPLICATE = "crossfoot.duplicate"
    SUPERSEDED = "crossfoot.superseded"
    PARKED = "crossfoot.parked"
    HANDED_BACK = "crossfoot.handed_back"
    NOT_ACCEPTED = "crossfoot.not_accepted"


SYSTEM: Final = "messaging.system"
DESTINATION: Final = "messaging.destination.name"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGE_ID: Final = "messaging.message.id"
CONVERSATION: Final = "messaging.message.conversation_id"
ENVELOPE_SIZE: Final = "messaging.message.envelope.size"
MESSAGE_COUNT: Final = "messaging.batch.message_count"
CLIENT: Final = "messaging.client.id"
ERROR: Final = "error.type"
EVENT_TYPE: Final = "cloudevents.event_type"
EVENT_SOURCE: Final = "cloudevents.event_source"
EVENT_SUBJECT: Final = "cloudevents.event_subject"
FATE: Final = "crossfoot.fate"
OPERATION: Final = "crossfoot.operation"
HANDLER: Final = "crossfoot.handler"
ATTEMPT: Final = "crossfoot.attempt"
CAUSE: Final = "crossfoot.cause"
PAUSE: Final = "crossfoot.pause"

ATTRIBUTES: Final = (
    SYSTEM, DESTINATION, OPERATION_NAME, OPERATION_TYPE, MESSAGE_ID, CONVERSATION, ENVELOPE_SIZE, MESSAGE_COUNT, CLIENT, ERROR,
    EVENT_TYPE, EVENT_SOURCE, EVENT_SUBJECT, FATE, OPERATION, HANDLER, ATTEMPT, CAUSE, PAUSE,
)  # fmt: skip
