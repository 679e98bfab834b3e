"""What the client is given of a message's properties: those that it can read.

Whoever publishes may write what AMQP allows and the client has no form for: a time in microseconds, where seconds are meant, lies behind
the year 9999; a name may be no text. The client takes such a message for a broken connection, and ends it with all that is held by it;
the message comes again, and so one stops its queue for everybody. What cannot be read of a message is left out here, before the
client sees it.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Iterator
from typing import Any

_HEADER, _FRAME_END = b"\x02", b"\xce"
_BEFORE_FLAGS = 12
"""Bytes of a header frame: class, weight, and the size of the body."""

_MORE_FLAGS = 1
_SIZES = {
    **dict.fromkeys(b"V", 0), **dict.fromkeys(b"tbB", 1), **dict.fromkeys(b"su", 2), **dict.fromkeys(b"Iif", 4),
    **dict.fromkeys(b"D", 5), **dict.fromkeys(b"lLdT", 8),
}  # fmt: skip
"""Bytes of a header's value, by its type; of the others the first four tell."""

_log = logging.getLogger("crossfoot.queues.rabbitmq")


class Reader:
    """The client's reader of one connection. Of each frame the client reads its kind, six bytes more, and the rest.

    Args:
        label: the queue's name, for the log.
    """

    def __init__(self, reader: asyncio.StreamReader, label: str) -> None:
        self._reader = reader
        self._label = label
        self._kind = b""

    async def readexactly(self, count: int) -> bytes:
        data = await self._reader.readexactly(count)
        if count == 1:
            self._kind = data
        elif self._kind == _HEADER and count > _BEFORE_FLAGS and not _can_be_read(data[:-1]):
            data, without = readable(data[:-1])
            _log.warning(
                "queue %s: a message comes without what cannot be read of it: %s", self._label, ", ".join(without)
            )
            return data + _FRAME_END
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


def readable(frame: bytes) -> tuple[bytes, list[str]]:
    """A header frame without what the client cannot read, as long as it was; and what is missing."""
    (flags,) = struct.unpack_from(">H", frame, _BEFORE_FLAGS)
    kept, without = _kept(flags, frame[_BEFORE_FLAGS + 2 :])
    mended = (frame[:_BEFORE_FLAGS] + kept).ljust(len(frame), b"\0")
    if flags & _MORE_FLAGS or len(mended) > len(frame) or not _can_be_read(mended):
        return frame[:_BEFORE_FLAGS].ljust(len(frame), b"\0"), ["all its properties"]
    return mended, without


def _kept(flags: int, rest: bytes) -> tuple[bytes, list[str]]:
    """Flags and properties that can be read; and what cannot."""
    from pamqp.commands import Basic

    kept, without = b"", []
    for name, flag in Basic.Properties.flags.items():
        if not flags & flag:
            continue
        kind = getattr(Basic.Properties, f"_{name}")
        size = {"octet": 1, "timestamp": 8, "shortstr": 1 + int.from_bytes(rest[:1])}.get(kind) or _long(rest)
        value, rest = rest[:size], rest[size:]
        if _is_value(value, kind):
            kept += value
        elif kind == "table":
            fields = list(_fields(value[4:]))
            good = b"".join(field for field, is_good in fields if is_good)
            kept += struct.pack(">I", len(good)) + good
            without.append(f"{sum(not is_good for _, is_good in fields)} of its headers")
        else:
            flags &= ~flag
            without.append(name)
    return struct.pack(">H", flags) + kept, without


def _fields(table: bytes) -> Iterator[tuple[bytes, bool]]:
    """The fields of a table, and whether each can be read. Nothing is behind one of a type that AMQP does not have."""
    while table:
        value = 1 + table[0]
        kind = table[value] if value < len(table) else 0
        size = _SIZES.get(kind)
        if size is None:
            size = _long(table[value + 1 :]) if kind in b"SAFx" else len(table)
        field, table = table[: value + 1 + size], table[value + 1 + size :]
        yield field, _is_value(struct.pack(">I", len(field)) + field, "table")


def _long(value: bytes) -> int:
    """Bytes of a value that tells its length itself."""
    return 4 + int.from_bytes(value[:4])


def _is_value(value: bytes, kind: str) -> bool:
    from pamqp import decode

    try:
        decode.by_type(value, kind)
    except Exception:  # noqa: BLE001 - whatever the client stumbles over
        return False
    return True


def _can_be_read(frame: bytes) -> bool:
    from pamqp.header import ContentHeader

    try:
        ContentHeader().unmarshal(frame)
    except Exception:  # noqa: BLE001 - as above
        return False
    return True
