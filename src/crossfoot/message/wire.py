"""What both modes share: attributes and data between their written forms and their values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import msgspec

from crossfoot.clock import SECOND, Micros
from crossfoot.errors import EnvelopeInvalid
from crossfoot.message.envelope import INT32, NUMBERS, REQUIRED, TEXTS, TIMES, Message, invalid, is_json, shortened

VERSION: Final = "1.0"

Timestamp = Annotated[datetime, msgspec.Meta(tz=True)]
"""RFC 3339, with an offset."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = 86_400
_LEAP_SECOND = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:)60(.*)")
_NUMERAL = re.compile("-?[0-9]{1,30}")

read_json = msgspec.json.Decoder().decode


def assemble(attributes: Mapping[str, Any], data: Any) -> Message:
    """The message with these attributes, under their wire names, as JSON values or header texts; `None` is unset."""
    check_version(attributes.get("specversion"))
    fields: dict[str, Any] = {}
    extensions: dict[str, Any] = {}
    for name, value in attributes.items():
        if value is None or name == "specversion" or (value == "" and name in ("traceparent", "tracestate")):
            continue  # W3C Trace Context: an empty header says nothing, and is no fault
        if name in TIMES:
            fields[name] = micros_of(name, value)
        elif name in NUMBERS:
            fields[name] = number_of(name, value)
        elif name in TEXTS or name == "datacontenttype":
            fields[name] = value
        else:
            extensions[name] = value
    for name in REQUIRED:
        if name not in fields:
            raise invalid(name, "is missing")
    return Message(**fields, data=data, extensions=extensions)


def check_version(given: object) -> None:
    if given is None:
        raise invalid("specversion", "is missing: this is no CloudEvents event")
    if given != VERSION:
        raise invalid("specversion", f"is {shortened(given)}; only {VERSION!r} is understood here")


def micros_of(name: str, value: object) -> Micros:
    """The instant that an RFC 3339 text names; finer than a microsecond is rounded."""
    if isinstance(value, str):
        for text, seconds_after in ((value, 0), (_LEAP_SECOND.sub(r"\g<1>59\g<2>", value), 1)):
            try:
                return micros(msgspec.convert(text, Timestamp)) + seconds_after * SECOND
            except msgspec.ValidationError:
                continue
    raise invalid(name, "is no RFC 3339 time with an offset, such as 2018-04-05T17:31:00Z")


def micros(instant: datetime) -> Micros:
    since = instant - _EPOCH
    return (since.days * _DAY + since.seconds) * SECOND + since.microseconds


def instant(micros: Micros) -> datetime:
    seconds, rest = divmod(micros, SECOND)
    return _EPOCH + timedelta(0, seconds, rest)


def number_of(name: str, value: object) -> int:
    """A whole number, as such or as text: CloudEvents' `sequence` is a text, and ours may need more than 32 bits."""
    if type(value) is int:
        return value
    if isinstance(value, str) and _NUMERAL.fullmatch(value):
        return int(value)
    raise invalid(name, "is no whole number, and crossfoot orders by nothing else")


def numeral(value: int | None) -> int | str | None:
    """How a number is written: as text where it does not fit CloudEvents' 32 bits."""
    return value if value is None or value in INT32 else str(value)


def check_data(message: Message) -> bool:
    """Whether the message's data is JSON. Raises if it is of the wrong kind for its content type."""
    is_bytes = isinstance(message.data, (bytes, bytearray, memoryview))
    if is_json(message.datacontenttype):
        if is_bytes:
            raise invalid("data", "is bytes, but datacontenttype says JSON: say what they are, or decode them first")
        return True
    if message.data is not None and not is_bytes:
        raise invalid("data", f"must be bytes where datacontenttype is {message.datacontenttype}")
    return False


def write_json(value: object, data: object) -> bytes:
    """`value` as JSON. It holds `data`, the one part that may turn out not to be expressible."""
    try:
        text = _encode(value)
        if b"null" in text:  # NaN and the infinities become null without a word; where there is a null, ask again
            _refuse_nan(data)
    except _Inexpressible as error:
        raise invalid("data", f"holds something of type {error}, which has no JSON form") from None
    except UnicodeEncodeError:
        raise invalid("data", "holds a text with half a character (a lone surrogate)") from None
    except RecursionError:
        raise invalid("data", "is nested too deeply, or contains itself") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid("data", f"cannot be written as JSON ({type(error).__name__})") from None
    return text


def _refuse_nan(data: object) -> None:
    plain = msgspec.to_builtins(data, str_keys=True, enc_hook=_plain)
    try:
        json.dumps(plain, allow_nan=False)
    except ValueError:
        raise invalid("data", "holds NaN or an infinity, which JSON cannot express") from None


class _Inexpressible(Exception):
    """Of a type with no JSON form; its text is the type's name."""


def _plain(value: object) -> object:
    """What msgspec does not know: pydantic models can say themselves what they are in JSON."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json", by_alias=True)
    if isinstance(value, msgspec.Raw):
        return None  # JSON already
    raise _Inexpressible(type(value).__name__)


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


def why_unreadable(error: Exception) -> str:
    """Why JSON could not be read, without a word of it."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error).partition(" - at ")[0]


def read_data(body: bytes) -> Any:
    """The value of a JSON document that came as bytes."""
    try:
        return read_json(body)
    except (ValueError, RecursionError) as error:
        raise EnvelopeInvalid(f"data is not the JSON that datacontenttype says: {why_unreadable(error)}") from None


def refused(key: str | None, why: EnvelopeInvalid) -> EnvelopeInvalid:
    """The error for the whole event, named by its key where that can be read."""
    name = f"event {key[:200]}" if key else "an event without a readable identity"
    return EnvelopeInvalid(f"{name} cannot be read: {why}. Its sender must mend it")
