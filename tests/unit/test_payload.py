"""Typed payloads: what they become, and what is said, and not said, when they do not fit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from crossfoot.errors import PayloadInvalid, UsageError
from crossfoot.payload import Payload, schema_path

SECRET = "4111-1111"


class Activity(Enum):
    BILLED = "BILLED"
    STORNO = "STORNO"


class Item(msgspec.Struct):
    price: Decimal
    activity: Activity = Activity.BILLED
    tags: dict[str, int] = {}


class Order(msgspec.Struct, forbid_unknown_fields=True):
    id: UUID
    items: list[Item]
    due: date | None = None
    unit: Literal["kg", "piece"] = "piece"
    amounts: dict[int, Item] = {}
    discount: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0

    def __post_init__(self) -> None:
        if self.discount == 13:
            raise ValueError(f"{SECRET} must not have 13")


class ByCard(msgspec.Struct, tag="card"):
    number: str


class ByCash(msgspec.Struct, tag="cash"):
    given: int


@dataclass
class Point:
    x: int
    at: datetime | None = None


class Box(TypedDict):
    size: int


class Tree(msgspec.Struct):
    leaf: Activity
    branches: list[Tree] = []


class Line(pydantic.BaseModel):
    price: Decimal
    activity: Activity = Activity.BILLED
    tags: dict[str, int] = {}


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    name: str


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    age: int


class Invoice(pydantic.BaseModel, extra="forbid"):
    number: int
    lines: list[Line] = []
    few: list[int] = pydantic.Field(default=[], max_length=1)
    net: int = pydantic.Field(default=0, alias="netAmount", ge=0)
    when: datetime | None = None
    guest: UUID | None = None
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")] | None = None
    either: Cat | Dog | None = None

    @pydantic.field_validator("number")
    @classmethod
    def not_unlucky(cls, value: int) -> int:
        if value == 13:
            raise ValueError(f"{SECRET} is unlucky")
        if value == 17:
            raise PydanticCustomError("unlucky", f"{SECRET} is unlucky")
        if value == 23:
            raise PydanticCustomError("value_error", f"{SECRET} is unlucky")
        assert value != 19, f"{SECRET} is unlucky"
        return value


class Strict(pydantic.BaseModel, strict=True):
    when: datetime
    count: int


GOOD_ID = "5f0c1a1e-0000-4000-8000-000000000000"

# ---- what fits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "data", "converted"),
    [
        (None, {"a": [1]}, {"a": [1]}),
        (Any, b"\xff", b"\xff"),
        (bytes, b"\xff", b"\xff"),
        (
            Order,
            {"id": GOOD_ID, "items": [{"price": "1.50"}], "due": "2026-11-01", "amounts": {"7": {"price": "2"}}},
            Order(UUID(GOOD_ID), [Item(Decimal("1.50"))], date(2026, 11, 1), amounts={7: Item(Decimal(2))}),
        ),
        (Point, {"x": 1, "at": "2018-04-05T17:31:00Z"}, Point(1, datetime(2018, 4, 5, 17, 31, tzinfo=UTC))),
        (Box, {"size": 3}, {"size": 3}),
        (list[Point], [{"x": 1}], [Point(1)]),
        (ByCard | ByCash, {"type": "cash", "given": 5}, ByCash(5)),
        (dict[str, object], {"a": 1}, {"a": 1}),
        (int | str, "seven", "seven"),
        (Invoice, {"number": 1, "netAmount": 3}, Invoice(number=1, netAmount=3)),
        (list[Invoice], [{"number": 1}], [Invoice(number=1)]),
        (Invoice | None, None, None),
        (Strict, {"when": "2018-04-05T17:31:00Z", "count": 1}, Strict(when=datetime(2018, 4, 5, 17, 31, tzinfo=UTC), count=1)),
    ],
)  # fmt: skip
def test_a_payload_that_fits_becomes_what_was_declared(declared: Any, data: Any, converted: Any) -> None:
    assert Payload(declared).convert(data) == converted


# ---- what does not ---------------------------------------------------------------------------------------------------


def order(**fields: Any) -> dict[str, Any]:
    return {"id": GOOD_ID, "items": [], **fields}


@pytest.mark.parametrize(
    ("declared", "data", "path", "reason"),
    [
        (Order, SECRET, "$", "expected `object`, got `str`"),
        (Order, b"\xff", "$", "expected `object`, got `bytes`"),
        (Order, {"items": []}, "$.id", "is required, and missing"),
        (Order, order(id=SECRET), "$.id", "invalid UUID"),
        (Order, order(items=[{"price": "1"}] * 3 + [{"price": SECRET}]), "$.items[3].price", "invalid decimal string"),
        (Order, order(items=[{}]), "$.items[0].price", "is required, and missing"),
        (Order, order(items=[{"price": "1", "activity": SECRET}]), "$.items[0].activity", "is not one of the values of Activity"),
        (Order, order(items=[{"price": "1", "tags": {SECRET: "x"}}]), "$.items[0].tags[...]", "expected `int`, got `str`"),
        (Order, order(due=SECRET), "$.due", "invalid RFC3339 encoded date"),
        (Order, order(unit=SECRET), "$.unit", "is not one of 'kg', 'piece'"),
        (Order, order(amounts={SECRET: {}}), "$.amounts[...]", "as a key: expected `int`, got `str`"),
        (Order, order(amounts={"7": SECRET}), "$.amounts[...]", "expected `object`, got `str`"),
        (Order, order(discount=101), "$.discount", "expected `int` <= 100"),
        (Order, order(discount=13), "$", "is refused by the type's own check (ValueError)"),
        (Order, order(**{SECRET: 1}), "$", "has a field that the type does not know"),
        (Order, order(**{f"x` - at `$.{SECRET}": 1}), "$", "has a field that the type does not know"),
        (list[Order], [order(discount=13)], "$[0]", "is refused by the type's own check (ValueError)"),
        (tuple[int, int], [1, 2, 3], "$", "expected `array` of length 2"),
        (ByCard | ByCash, {"type": SECRET}, "$.type", "is not one of 'card', 'cash'"),
        (ByCard | ByCash, {"type": "card"}, "$.number", "is required, and missing"),
        (Tree, {"leaf": "BILLED", "branches": [{"leaf": SECRET}]}, "$.branches[0].leaf", "is not one of the values of Activity"),
        (Point, {"x": SECRET}, "$.x", "expected `int`, got `str`"),
        (Box, {}, "$.size", "is required, and missing"),
        (dict[Activity, int], {SECRET: 1}, "$[...]", "as a key: is not one of the values its type allows"),
        (Activity, f"{SECRET} - at `$.x`", "$", "is not one of the values of Activity"),
        (Invoice, SECRET, "$", "input should be an object"),
        (Invoice, {}, "$.number", "is required, and missing"),
        (Invoice, {"number": SECRET}, "$.number", "input should be a valid integer, unable to parse string as an integer"),
        (Invoice, {"number": 13}, "$.number", "is refused by the model (value_error)"),
        (Invoice, {"number": 17}, "$.number", "is refused by the model (unlucky)"),
        (Invoice, {"number": 23}, "$.number", "is refused by the model (value_error)"),
        (Invoice, {"number": 19}, "$.number", "is refused by the model (assertion_error)"),
        (Invoice, {"number": 1, SECRET: 1}, "$", "has a field that the type does not know"),
        (Invoice, {"number": 1, "lines": [{"price": "1"}, {}]}, "$.lines[1].price", "is required, and missing"),
        (Invoice, {"number": 1, "lines": [{"price": "1", "activity": SECRET}]}, "$.lines[0].activity",
         "is not one of the values of Activity"),
        (Invoice, {"number": 1, "lines": [{"price": "1", "tags": {SECRET: "x"}}]}, "$.lines[0].tags[...]",
         "input should be a valid integer, unable to parse string as an integer"),
        (Invoice, {"number": 1, "few": [1, 2, 3]}, "$.few", "list should have at most 1 item after validation"),
        (Invoice, {"number": 1, "netAmount": -1}, "$.netAmount", "input should be greater than or equal to 0"),
        (Invoice, {"number": 1, "when": SECRET}, "$.when", "is refused by the model (datetime_from_date_parsing)"),
        (Invoice, {"number": 1, "guest": SECRET}, "$.guest", "is refused by the model (uuid_parsing)"),
        (Invoice, {"number": 1, "pet": {"kind": SECRET}}, "$.pet", "is refused by the model (union_tag_invalid)"),
        (Invoice, {"number": 1, "pet": {"kind": "dog"}}, "$.pet.age", "is required, and missing"),
        (Invoice, {"number": 1, "either": {"kind": "dog", "age": SECRET}}, "$.either.kind", "input should be 'cat'"),
        (list[Invoice], [{"number": 1}, {}], "$[1].number", "is required, and missing"),
        (Strict, {"when": "2018-04-05T17:31:00Z", "count": SECRET}, "$.count", "input should be a valid integer"),
    ],
)  # fmt: skip
def test_a_payload_that_does_not_fit_is_refused_with_place_and_reason(
    declared: Any, data: Any, path: str, reason: str
) -> None:
    with pytest.raises(PayloadInvalid) as caught:
        Payload(declared).convert(data)

    assert (caught.value.path, caught.value.reason) == (path, reason)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None, "the chained error would show the payload"


secrets = st.just("s3cr3t") | st.just("x` - at `$.s3cr3t") | st.just("s3cr3t - at `$.items[0].price`")
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from((GOOD_ID, "BILLED", "dog", "1")) | secrets
)
keys = st.sampled_from(
    ("id", "items", "price", "activity", "tags", "lines", "number", "pet", "kind", "either", "amounts")
)
payloads = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | secrets, inner, max_size=4),
    max_leaves=10,
)


@given(
    st.sampled_from((Order, list[Order], ByCard | ByCash, Tree, Point, Box, Invoice, Strict)), payloads | st.binary()
)
def test_whatever_the_payload_it_fits_or_is_refused_without_a_word_of_it(declared: Any, data: Any) -> None:
    refusal = None
    try:
        Payload(declared).convert(data)
    except PayloadInvalid as error:
        refusal = error

    assert refusal is None or refusal.path.startswith("$")
    assert "s3cr3t" not in str(refusal)


def test_a_payload_nested_too_deeply_is_refused() -> None:
    data: dict[str, Any] = {"leaf": "BILLED"}
    for _ in range(sys.getrecursionlimit() * 20):
        data = {"leaf": "BILLED", "branches": [data]}

    with pytest.raises(PayloadInvalid, match=r"\$: is nested too deeply"):
        Payload(Tree).convert(data)


def test_a_path_without_indexes_is_the_same_for_every_item() -> None:
    assert schema_path("$.items[3].price") == schema_path("$.items[14].price") == "$.items[].price"
    assert schema_path("$.tags[...]") == "$.tags[...]"


class Unknown:
    pass


class Later(pydantic.BaseModel):
    value: Nowhere  # type: ignore[name-defined]  # noqa: F821 - the point of the test


@pytest.mark.parametrize("declared", [Unknown, complex, "Order", list[Unknown], int | Item | Order, Later, list[Later]])
def test_a_type_nothing_can_be_converted_to_is_refused_at_once(declared: Any) -> None:
    with pytest.raises(UsageError, match="cannot be a payload's type: "):
        Payload(declared)


def test_pydantic_is_imported_only_for_its_own_types() -> None:
    program = (
        "import sys; from crossfoot.payload import Payload; Payload(list[int]); sys.exit('pydantic' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0
