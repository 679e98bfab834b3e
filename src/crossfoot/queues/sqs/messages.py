"""What a message must be for SQS to take it, and how a list of them is cut into requests. Pure.

The rules are those of the service's SendMessageBatch: text of certain characters, ten attributes at most, body and
attributes together within the queue's limit, a request of ten entries at most and of a limited size in all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from crossfoot.queues.queue import Accepted, Delivery, Doubtful, NotDone, Outgoing, PublishAnswer, Refused
from crossfoot.queues.sqs.client import plain_code

BATCH = 10
"""Entries per request, for sending, deleting and changing visibility."""

MAX_ATTRIBUTES = 10

MAX_DELAY = 900.0
"""Seconds."""

MAX_LEASE = 43_200.0
"""Seconds: twelve hours, counted from the receive."""

DEDUP_WINDOW = 300.0
"""Seconds for which a FIFO queue drops a second message of the same deduplication id."""

REQUEST_BYTES = 262_144
"""What one batch carried in all until 2025; since then 1 MiB, as a queue whose own limit is that high shows."""

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ATTRIBUTE_NAME = re.compile(r"(?!(?i:aws|amazon)\.)(?!\.)[A-Za-z0-9_.-]{1,256}(?<!\.)")
_GROUP = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,./:;<=>?@\[\\\]^_`{|}~-]{1,128}")

_NEVER = {
    "BatchRequestTooLong",
    "InvalidAttributeValue",
    "InvalidMessageContents",
    "InvalidParameterCombination",
    "InvalidParameterValue",
    "MissingParameter",
    "MissingRequiredParameterException",
    "ParamValidation",
    "UnsupportedOperation",
}
"""Refusals that the same bytes will meet again."""

_VOID = {"InvalidReceiptHandle", "MessageNotInflight", "ReceiptHandleIsInvalid"}

Attributes = Mapping[str, Any]
"""Message attributes as the service's JSON has them."""


class SqsDelivery(Delivery, kw_only=True):
    """A delivery with what a move to the dead letters must keep."""

    native: Attributes = msgspec.field(default_factory=dict)
    """The attributes with their types: other producers may use numbers and bytes."""
    group: str = ""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a batch."""

    key: str
    """What the answer is matched by."""
    request: dict[str, Any]
    size: int
    group: str = ""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What one queue takes."""

    queue: str
    fifo: bool
    max_bytes: int

    @property
    def request_bytes(self) -> int:
        """The most one request may carry."""
        return max(REQUEST_BYTES, self.max_bytes)


def entry_of(message: Outgoing, rules: Rules) -> Entry | Refused:
    """The message as an entry, or why it can never be one."""
    reason, text = _text_of(message.body)
    reason = reason or _attributes_wrong(message.attributes) or _delay_wrong(message.delay, rules)
    attributes = {name: {"DataType": "String", "StringValue": value} for name, value in message.attributes.items()}
    size = len(message.body) + size_of(attributes)
    if not reason and size > rules.max_bytes:
        reason = f"MessageTooLarge: {size} bytes, attributes included; queue {rules.queue} takes {rules.max_bytes}"
    if reason:
        return Refused(message.key, reason, permanent=True)
    group = group_of(message.partition or message.key) if rules.fifo else ""
    request = request_of(text, attributes, group=group, deduplication=message.deduplication or message.key)
    if message.delay > 0:
        request["DelaySeconds"] = math.ceil(message.delay)
    return Entry(key=message.key, request=request, size=size, group=group)


def request_of(text: str, attributes: Attributes, *, group: str, deduplication: str) -> dict[str, Any]:
    """What a batch entry says, but for its number."""
    request: dict[str, Any] = {"MessageBody": text}
    if attributes:
        request["MessageAttributes"] = attributes
    if group:
        request["MessageGroupId"] = group
        request["MessageDeduplicationId"] = sha256(deduplication.encode()).hexdigest()
    return request


def group_of(partition: str) -> str:
    """A partition key as a message group: itself where the service takes it, else its hash."""
    return partition if _GROUP.fullmatch(partition) else sha256(partition.encode()).hexdigest()


def size_of(attributes: Attributes) -> int:
    """Bytes of names, types and values, as the service counts them."""
    return sum(
        len(name.encode())
        + len(attribute["DataType"].encode())
        + len(attribute.get("StringValue", "").encode())
        + len(attribute.get("BinaryValue", b""))
        for name, attribute in attributes.items()
    )


def legal(text: str) -> str:
    """The text with `?` for every character the service does not take."""
    return _ILLEGAL.sub("?", text)


def batches(entries: Iterable[Entry], max_bytes: int) -> Iterator[list[Entry]]:
    """The entries in their order, ten at most per request and `max_bytes` at most in all."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if batch and (len(batch) == BATCH or size + entry.size > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry.size
    if batch:
        yield batch


def numbered(requests: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The entries of one request, each under its number."""
    return [{"Id": str(number), **request} for number, request in enumerate(requests)]


def published(batch: Sequence[Entry], response: Mapping[str, Any]) -> list[PublishAnswer]:
    """One answer per entry. An entry the response does not speak of is in doubt."""
    accepted = {one["Id"]: one for one in response.get("Successful", ())}
    failed = {one["Id"]: one for one in response.get("Failed", ())}
    answers: list[PublishAnswer] = []
    for number, entry in enumerate(batch):
        if (one := accepted.get(str(number))) is not None:
            answers.append(Accepted(entry.key, one.get("MessageId", "")))
        elif (one := failed.get(str(number))) is not None:
            answers.append(refused(entry.key, one.get("Code", ""), one.get("Message", "")))
        else:
            answers.append(Doubtful(entry.key, "the answer named this entry neither as sent nor as failed"))
    return answers


def refused(key: str, code: str, text: str) -> Refused:
    """A refusal by the service, permanent where the code says that the bytes are at fault."""
    code = plain_code(code)
    return Refused(key, f"{code}: {text}", permanent=code in _NEVER)


def not_done(receipt: str, code: str, text: str) -> NotDone:
    """A refusal of one receipt, lost where the service says that the receipt is void."""
    code = plain_code(code)
    void = code in _VOID or (code == "InvalidParameterValue" and "ReceiptHandle" in text)
    return NotDone(receipt, f"{code}: {_without_handle(text, receipt)}", lost=void)


def _without_handle(text: str, receipt: str) -> str:
    return text.replace(receipt, "…")


def _text_of(body: bytes) -> tuple[str, str]:
    """Why the body cannot be sent (empty: it can), and the body as text."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        return f"SQS takes text only, and byte {error.start} of the body is not UTF-8", ""
    if not text:
        return "SQS takes no empty body", ""
    if found := _ILLEGAL.search(text):
        return f"SQS does not take the character U+{ord(found.group()):04X}, at {found.start()} of the body", ""
    return "", text


def _attributes_wrong(attributes: Mapping[str, str]) -> str:
    if len(attributes) > MAX_ATTRIBUTES:
        return f"{len(attributes)} attributes; SQS takes {MAX_ATTRIBUTES}"
    for name, value in attributes.items():
        if not _ATTRIBUTE_NAME.fullmatch(name) or ".." in name:
            return f"SQS does not take an attribute named {name!r}"
        if not value:
            return f"SQS takes no empty attribute, and {name!r} is"
        if found := _ILLEGAL.search(value):
            return f"SQS does not take the character U+{ord(found.group()):04X}, in attribute {name!r}"
    return ""


def _delay_wrong(delay: float, rules: Rules) -> str:
    if delay > 0 and rules.fifo:
        return f"queue {rules.queue} is FIFO and cannot delay one message ({delay:g} s asked)"
    if delay > MAX_DELAY:
        return f"a delay of {delay:g} s; SQS delays by {MAX_DELAY:g} s at most"
    return ""
