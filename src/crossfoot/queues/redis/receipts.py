"""Receipts: an entry's id, and the token of the receive that delivered it. Pure."""

from __future__ import annotations

import re

_RECEIPT = re.compile(r"(\d+-\d+)/([0-9a-f]+)", re.ASCII)


def receipt_of(entry_id: str, token: str) -> str:
    return f"{entry_id}/{token}"


def parts_of(receipt: str) -> tuple[str, str] | None:
    """Entry id and token; `None` when nobody gave such a receipt."""
    found = _RECEIPT.fullmatch(receipt)
    return (found[1], found[2]) if found else None
