"""What a handler that takes a list declares for the payload of each message."""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Annotated, Any

import msgspec
import pytest

from crossfoot.errors import UsageError
from crossfoot.message import Message
from crossfoot.payload.annotation import payload_type_of


class Invoice(msgspec.Struct):
    amount: int


def of(annotation: Any) -> Callable[..., Any]:
    """A handler with that annotation."""

    def bill(messages: Any, tx: Any) -> None: ...

    bill.__annotations__["messages"] = annotation
    return bill


LISTS = [
    list[Message[Invoice]], Sequence[Message[Invoice]], Collection[Message[Invoice]], Iterable[Message[Invoice]],
    list[Annotated[Message[Invoice], "of today"]], Annotated[list[Message[Invoice]], "of today"], "list[Message[Invoice]]",
]  # fmt: skip


@pytest.mark.parametrize("annotation", LISTS, ids=repr)
def test_the_payload_of_a_list_is_that_of_its_messages(annotation: Any) -> None:
    assert payload_type_of(of(annotation), many=True) is Invoice


@pytest.mark.parametrize("annotation", [list[Message], list[Any], list, typing.List, Any, None], ids=repr)  # noqa: UP006 - as users may
def test_a_list_may_declare_none(annotation: Any) -> None:
    assert payload_type_of(of(annotation), many=True) is None


@pytest.mark.parametrize(
    "annotation",
    [
        Message, Message[Invoice], Invoice, set[Message[Invoice]], tuple[Message[Invoice], ...],
        list[Message[Invoice]] | None, dict[str, Message],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_list_is_refused(annotation: Any) -> None:
    with pytest.raises(UsageError, match=r"is handed a list: write `list\[Message\]`"):
        payload_type_of(of(annotation), many=True)


def test_a_list_of_payloads_is_told_what_it_is_handed() -> None:
    with pytest.raises(UsageError, match=r"write `messages: list\[Message\[Invoice\]\]`"):
        payload_type_of(of(list[Invoice]), many=True)


@pytest.mark.parametrize("annotation", [list[Message], Sequence[Message[Invoice]], list], ids=repr)
def test_a_handler_of_one_message_that_declares_a_list_is_refused(annotation: Any) -> None:
    with pytest.raises(UsageError, match="many=True"):
        payload_type_of(of(annotation))
