"""The envelope: the attributes of a message and their rules.

A message is checked when it is made, so that every message there is can be sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, cast

import msgspec

from crossfoot.clock import Micros
from crossfoot.errors import EnvelopeInvalid
from crossfoot.message.ids import new_id

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)  # `Message` alone is `Message[Any]`
else:
    from typing import TypeVar

    T = TypeVar("T")

JSON = "application/json"

LONGEST_SHOWN = 40
"""Characters of a foreign name or version that an error repeats."""

REQUIRED = ("type", "source", "id")
TEXTS = (
    *(*REQUIRED, "subject", "dataschema", "correlationid", "causationid"),
    *("partitionkey", "operation", "traceparent", "tracestate"),
)
TIMES = ("time", "expirytime")
NUMBERS = ("sequence", "predecessor")
KNOWN = frozenset((*TEXTS, *TIMES, *NUMBERS, "datacontenttype", "specversion"))

FIRST_TIME: Micros = -62_135_596_800_000_000  # 0001-01-01T00:00:00Z
LAST_TIME: Micros = 253_402_300_799_999_999  # 9999-12-31T23:59:59.999999Z
INT32 = range(-(2**31), 2**31)
"""CloudEvents' Integer."""
INT64 = range(-(2**63), 2**63)
"""What a database's column holds."""

# CloudEvents forbids control characters, surrogates and noncharacters in every text.
_FORBIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)
# RFC 3986's characters, in any order. Those beyond ASCII (IRIs) pass: to refuse them would cost messages for nothing.
_URI_CHARACTER = r"""[^\x00-\x20\x7f-\xa0\s"<>\\^`{|}%]"""
_URI = re.compile(rf"{_URI_CHARACTER}*(?:%[0-9A-Fa-f]{{2}}{_URI_CHARACTER}*)*")
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_TYPE = re.compile(rf"{_WORD}/({_WORD})[ \t]*(?:;[\t\x20-\x7e]*)?")
_ATTRIBUTE_NAME = re.compile("[a-z0-9]+")
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.DOTALL
)

_SELDOM = (None,) * 4
_encode = msgspec.json.Encoder().encode


class Message(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One CloudEvents 1.0 event. `Message[Invoice]` is one whose `data` is an `Invoice`.

    Raises:
        EnvelopeInvalid: an attribute breaks a rule of CloudEvents, or one stated here.
    """

    type: str
    source: str
    """Who sent it: a URI reference. `|` is no character of one, which is what makes `key` unambiguous."""
    id: str = msgspec.field(default_factory=new_id)
    subject: str | None = None
    """The entity it concerns."""
    time: Micros | None = None
    """When it happened. The publisher sets it where the sender did not."""
    data: T = cast("Any", None)
    """A value JSON can express; bytes where `datacontenttype` is not JSON."""
    datacontenttype: str = JSON
    dataschema: str | None = None
    correlationid: str | None = None
    """The flow it belongs to."""
    causationid: str | None = None
    """The id of the message that caused it."""
    partitionkey: str | None = None
    traceparent: str | None = None
    """Carried as it came: ask `valid_traceparent` before using it."""
    tracestate: str | None = None
    operation: str | None = None
    """The operation key: names the business action it asks for."""
    sequence: int | None = None
    """Its order within the subject; bigger is later. 64 bits."""
    predecessor: int | None = None
    """The sequence of the message of the same subject that must be applied before this one, if known."""
    expirytime: Micros | None = None
    """From when on it is of no use."""
    extensions: dict[str, str | int | bool] = {}
    """Further extension attributes. Binary mode knows only text: there, numbers and booleans arrive as text."""

    def __post_init__(self) -> None:
        try:
            plain = self._is_plain()
        except (TypeError, ValueError):  # something is not text at all
            plain = False
        if not plain:
            _check(self)
        if self.extensions:
            _check_extensions(self.extensions)

    def _is_plain(self) -> bool:
        """A quick yes for nearly every message that is sound. A no is not a fault yet."""
        texts = (
            self.type, self.id, self.subject, self.correlationid, self.causationid, self.partitionkey, self.operation,
            self.traceparent, self.tracestate,
        )  # fmt: skip
        given = tuple(filter(None, texts))
        text = "".join(given)
        time = self.time
        return (
            # JSON escapes control characters and turns whatever is not ASCII into several bytes: if the text has grown
            # by its two quotes only, it has neither. This is three times as fast as asking `isprintable` of all.
            ((len(_encode(text)) == len(text) + 2 and "\x7f" not in text) or text.isprintable())
            and len(given) + texts.count(None) == len(texts)
            and None not in texts[:2]
            and is_uri(self.source)
            and (self.datacontenttype == JSON or is_media_type(self.datacontenttype))
            and (time is None or (type(time) is int and FIRST_TIME <= time <= LAST_TIME))
            and (
                (self.sequence, self.predecessor, self.expirytime, self.dataschema) == _SELDOM or self._rest_is_plain()
            )
            and type(self.extensions) is dict
        )

    def _rest_is_plain(self) -> bool:
        """Of the attributes that most messages do not have."""
        return (
            (self.sequence is None or _is_int64(self.sequence))
            and (self.predecessor is None or _is_int64(self.predecessor))
            and (self.expirytime is None or _is_time(self.expirytime))
            and (self.dataschema is None or is_uri(self.dataschema))
        )

    @property
    def key(self) -> str:
        """The identity, `source|id`. No two pairs of them share one, since a source holds no `|`."""
        return f"{self.source}|{self.id}"

    def __repr__(self) -> str:
        return f"<Message {self.type} {self.key}>"  # reprs end in logs, and payloads are secrets

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("type", self.type), ("key", self.key)]


def _check(message: Message[Any]) -> None:
    """Every rule, one by one: raises for the first that is broken."""
    for name in TEXTS:
        value = getattr(message, name)
        if value is not None or name in REQUIRED:
            _check_text(name, value)
    if not is_uri(message.source):
        raise invalid("source", "is not a URI reference: percent-encode spaces, |, quotes and brackets")
    if message.dataschema is not None and not is_uri(message.dataschema):
        raise invalid("dataschema", "is not a URI: percent-encode spaces, |, quotes and brackets")
    content_type: Any = message.datacontenttype
    if not isinstance(content_type, str) or not is_media_type(content_type):
        raise invalid("datacontenttype", f"is not a media type such as {JSON}")
    for name in TIMES:
        if (value := getattr(message, name)) is not None and not _is_time(value):
            raise invalid(name, "is not a whole number of microseconds since the epoch, within the years 1 to 9999")
    for name in NUMBERS:
        if (value := getattr(message, name)) is not None and not _is_int64(value):
            raise invalid(name, "is not a whole number of 64 bits")
    extensions: Any = message.extensions
    if not isinstance(extensions, dict):
        raise invalid("extensions", "is not a dictionary of attribute names and values")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise invalid(name, f"must be text, and is {_kind(value)}")
    if not value:
        raise invalid(name, "is empty: give it a value" + ("" if name in REQUIRED else ", or leave it out"))
    _check_characters(name, value)


def _check_characters(name: str, value: str) -> None:
    if not value.isprintable() and (found := _FORBIDDEN.search(value)):
        raise invalid(name, f"has the character U+{ord(found[0]):04X}, which CloudEvents forbids")


def _check_extensions(extensions: Mapping[Any, Any]) -> None:
    for name, value in extensions.items():
        if not isinstance(name, str) or not _ATTRIBUTE_NAME.fullmatch(name):
            raise EnvelopeInvalid(f"an attribute is named {shortened(name)}: only lower-case letters and digits may be")
        if name in KNOWN or name == "data":
            raise invalid(name, "is no name for an extension: the envelope has it already")
        if isinstance(value, str):
            _check_characters(name, value)
        elif not isinstance(value, int):
            raise invalid(name, f"must be text, a whole number or a boolean, and is {_kind(value)}")
        elif value not in INT32:
            raise invalid(name, "is over 32 bits, the limit of CloudEvents' integers: send it as text")


def invalid(name: str, why: str) -> EnvelopeInvalid:
    """The error for attribute `name`; `why` goes on from the name."""
    return EnvelopeInvalid(f"{name[:LONGEST_SHOWN]} {why}")


def _kind(value: object) -> str:
    return "missing" if value is None else f"{type(value).__name__}"


def shortened(name: object) -> str:
    text = ascii(name)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def _is_time(value: object) -> bool:
    return type(value) is int and FIRST_TIME <= value <= LAST_TIME


def _is_int64(value: object) -> bool:
    return type(value) is int and value in INT64


def identity(source: str | None, id: str | None) -> str | None:
    """The key that a message of this source and id has; `None` where there can be no such message."""
    if not source or not id or not is_uri(source):
        return None
    key = f"{source}|{id}"
    return key if key.isprintable() or not _FORBIDDEN.search(key) else None


@lru_cache(128)
def is_uri(text: str) -> bool:
    """Whether it is a URI reference, by its characters, and not empty."""
    return bool(text) and _URI.fullmatch(text) is not None and not _FORBIDDEN.search(text)


@lru_cache(128)
def is_media_type(text: str) -> bool:
    """Whether it is written as RFC 2046 says, type/subtype and parameters."""
    return _MEDIA_TYPE.fullmatch(text) is not None


@lru_cache(128)
def is_json(content_type: str) -> bool:
    """Whether data of that media type is JSON: its subtype is `json` or ends with `+json`."""
    match = _MEDIA_TYPE.fullmatch(content_type)
    subtype = match[1].lower() if match else ""
    return subtype == "json" or subtype.endswith("+json")


def valid_traceparent(text: str) -> bool:
    """Whether a `traceparent` can be used, by W3C Trace Context: version 00, or a later one that begins like it."""
    match = _TRACEPARENT.fullmatch(text)
    return match is not None and (match[1] != "00" or match[2] is None)


def child(parent: Message[Any], *, type: str, source: str, **attributes: Any) -> Message[Any]:
    """A message that `parent` caused: of the same flow (`correlationid`) and trace, with the parent as its cause.

    Args:
        source: the service that sends it; a parent's source is its own sender's.
        attributes: any further field of `Message`; stated ones win over inherited ones.
    """
    inherited = {
        "correlationid": parent.correlationid or parent.id,
        "causationid": parent.id,
        "traceparent": parent.traceparent,
        "tracestate": parent.tracestate,
    }
    return Message(type=type, source=source, **{**inherited, **attributes})
