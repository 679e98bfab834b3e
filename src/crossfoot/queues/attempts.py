"""How often a message was delivered, where that is told by an attribute that anybody may have set."""

from __future__ import annotations

MOST_DIGITS = 6
"""No message is delivered a million times; a number of any size would not fit into the books."""


def attempts_told(text: str | None, otherwise: int) -> int:
    """The number that `text` tells; `otherwise`, if it tells none."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else otherwise
