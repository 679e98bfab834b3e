"""Messages: CloudEvents 1.0 events, and their two forms on the wire.

    ids.py          UUIDv7
    envelope.py     `Message`: the attributes and their rules
    structured.py   one JSON object: `encode`, `decode`, `key_of`
    binary.py       headers and a body: `to_binary`, `from_binary`

Sources: CloudEvents 1.0.2 (core, JSON format, HTTP protocol binding) and its extensions correlation, sequence,
partitioning, expirytime and distributed tracing; W3C Trace Context; RFC 3339 (times); RFC 9562 (ids).
Errors name the attribute and the rule it breaks, never a value of the payload.
"""

from crossfoot.message.binary import from_binary, to_binary
from crossfoot.message.envelope import Message, child, valid_traceparent
from crossfoot.message.ids import new_id
from crossfoot.message.structured import CONTENT_TYPE, decode, encode, key_of

__all__ = [
    "CONTENT_TYPE",
    "Message",
    "child",
    "decode",
    "encode",
    "from_binary",
    "key_of",
    "new_id",
    "to_binary",
    "valid_traceparent",
]
