"""Which payload a handler declares, by its message's annotation."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import msgspec
import pydantic
import pytest

from crossfoot.errors import UsageError
from crossfoot.message import Message
from crossfoot.payload import payload_type_of

if TYPE_CHECKING:
    from somewhere import Session  # type: ignore[import-not-found]  # stands for what is there for checkers only


class Order(msgspec.Struct):
    amount: int


class Invoice(pydantic.BaseModel):
    number: int


@dataclass
class Point:
    x: int


class Box(TypedDict):
    size: int


def typed(message: Message[Order], tx: Any) -> None: ...


def plain(message: Message, tx: Any) -> None: ...


def of_anything(message: Message[Any], tx: Any) -> None: ...


def of_some(message: Message[list[Order]], tx: Session) -> None: ...


def annotated(message: Annotated[Message[Order], "documented"], tx: Any) -> None: ...


def bare(message, tx): ...  # type: ignore[no-untyped-def]  # as most handlers are written


def nothing() -> None: ...


def for_checkers_only(message: Session, tx: Any) -> None: ...


async def in_async(message: Message[Invoice]) -> None: ...


@functools.wraps(typed)
def wrapped(*args: Any) -> None:
    typed(*args)


class Handlers:
    def method(self, message: Message[Order], tx: Any) -> None: ...

    @staticmethod
    def static(message: Message[Order], tx: Any) -> None: ...

    def __call__(self, message: Message[Order], tx: Any) -> None: ...


def typed_in_place() -> Callable[..., Any]:
    def handler(message, tx): ...  # type: ignore[no-untyped-def]  # annotated below, without its text

    handler.__annotations__["message"] = Message[Order]
    return handler


@pytest.mark.parametrize(
    ("handler", "declared"),
    [
        (typed, Order),
        (plain, None),
        (of_anything, None),
        (of_some, list[Order]),
        (annotated, Order),
        (bare, None),
        (nothing, None),
        (for_checkers_only, None),
        (in_async, Invoice),
        (wrapped, Order),
        (Handlers().method, Order),
        (Handlers.static, Order),
        (Handlers(), Order),
        (functools.partial(typed, tx=None), Order),
        (typed_in_place(), Order),
    ],
)
def test_a_handler_declares_its_payload_by_its_messages_annotation(handler: Callable[..., Any], declared: Any) -> None:
    assert payload_type_of(handler) == declared


def test_a_type_of_an_enclosing_function_is_found_if_the_handler_uses_it() -> None:
    class Local(msgspec.Struct):
        a: int

    def uses(message: Message[Local], tx: Any) -> object:
        return Local(1)

    def names_only(message: Message[Local], tx: Any) -> None: ...

    assert payload_type_of(uses) is Local
    with pytest.raises(UsageError, match=r"declares `message: Message\[Local\]`, which cannot be resolved .*payload="):
        payload_type_of(names_only)


def takes_struct(message: Order, tx: Any) -> None: ...


def takes_model(message: Invoice, tx: Any) -> None: ...


def takes_dataclass(message: Point, tx: Any) -> None: ...


def takes_dictionary(message: Box, tx: Any) -> None: ...


@pytest.mark.parametrize("handler", [takes_struct, takes_model, takes_dataclass, takes_dictionary])
def test_a_handler_that_takes_the_payload_for_the_message_is_told(handler: Callable[..., Any]) -> None:
    declared = typing.get_type_hints(handler)["message"].__name__

    with pytest.raises(UsageError, match=rf"write `message: Message\[{declared}\]`"):
        payload_type_of(handler)


def test_a_payloads_type_in_the_messages_place_is_refused_though_it_has_no_fields() -> None:
    def untyped(message: dict, tx: Any) -> None: ...  # type: ignore[type-arg]  # as a newcomer writes it

    def told(message: dict[str, int], tx: Any) -> None: ...

    with pytest.raises(UsageError, match=r"is handed the message, .*write `message: Message\[dict\]`"):
        payload_type_of(untyped)
    with pytest.raises(UsageError, match=r"write `message: Message\[dict\[str, int\]\]`"):
        payload_type_of(told)
