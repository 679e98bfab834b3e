"""What a message wishes of the queue: an extension attribute `priority` of 0 to 9."""

from __future__ import annotations

from typing import Any

import msgspec

HIGHEST = 9


class _Wish(msgspec.Struct):
    priority: Any = 0


_read = msgspec.json.Decoder(_Wish).decode


def priority_of(body: bytes) -> int:
    """The priority that an encoded message states; 0 when it states none, or what others may mean by the word."""
    if b'"priority"' not in body:
        return 0
    try:
        stated = _read(body).priority
    except msgspec.DecodeError:
        return 0
    return stated if isinstance(stated, int) and not isinstance(stated, bool) and 0 <= stated <= HIGHEST else 0
