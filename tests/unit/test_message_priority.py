"""The priority that a message states."""

from __future__ import annotations

from typing import Any

import pytest

from crossfoot.message import Message, encode
from crossfoot.message.priority import priority_of


@pytest.mark.parametrize("priority", [0, 1, 9])
def test_it_is_an_extension_attribute(priority: int) -> None:
    message: Message[Any] = Message(type="case.released", source="billing", data={}, extensions={"priority": priority})
    assert priority_of(encode(message)) == priority


@pytest.mark.parametrize("stated", ["high", True, 10, -1])
def test_what_others_mean_by_the_word_is_no_wish_of_the_queue(stated: Any) -> None:
    message: Message[Any] = Message(type="case.released", source="billing", extensions={"priority": stated})
    assert priority_of(encode(message)) == 0


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"data": {"priority": 9}}', b'"priority"', b'{"priority": 1', b'\xff"priority"']
)
def test_a_message_without_one_has_none(body: bytes) -> None:
    assert priority_of(body) == 0
