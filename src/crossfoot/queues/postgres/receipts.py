"""A receipt: the message's key, and the token of the one delivery that may settle it."""

from __future__ import annotations

import re

_RECEIPT = re.compile(r"([0-9]{1,18})\.([0-9a-f]{16})", re.ASCII)

NOBODY_S = (-1, -1)
"""What no row has."""


def receipt_of(key: int, token: int) -> str:
    return f"{key}.{token:016x}"


def parts_of(receipt: str) -> tuple[int, int]:
    """Key and token; of what is no receipt of ours those that no row has."""
    found = _RECEIPT.fullmatch(receipt)
    token = int(found[2], 16) if found else -1
    return (int(found[1]), token) if found and token < 2**63 else NOBODY_S
