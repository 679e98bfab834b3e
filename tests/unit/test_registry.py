"""Which handler takes which message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crossfoot import Crossfoot
from crossfoot.effects.handler import Handler
from crossfoot.effects.operation import operation_key
from crossfoot.effects.sequence import InOrder
from crossfoot.errors import HandlerConflict, UsageError
from crossfoot.worker.registry import Registry


def handler(type_: str, name: str | None = None) -> Handler:
    name = name or f"handle_{type_}"
    return Handler(
        name=name, service="billing", type=type_, function=print, operation=operation_key(None, handler=name)
    )


def registry(*types: str) -> Registry:
    made = Registry()
    for type_ in types:
        made.add(handler(type_))
    return made


def found(made: Registry, type_: str) -> str | None:
    taker = made.find(type_)
    return taker.type if taker is not None else None


def test_a_handler_takes_its_type_and_no_other() -> None:
    made = registry("case.released", "case.billed")

    assert found(made, "case.released") == "case.released"
    assert found(made, "case.releasedx") is None
    assert found(made, "") is None


@pytest.mark.parametrize(
    ("pattern", "takes", "leaves"),
    [
        ("case.*", ["case.released", "case.", "case.a.b"], ["order.case.x", "case", "Case.released"]),
        ("*.released", ["case.released", "a.b.released"], ["case.released.twice"]),
        ("case.?", ["case.a"], ["case.ab", "case."]),
        ("case.[ab]", ["case.a", "case.b"], ["case.c"]),
        ("*", ["anything", "", "two\nlines"], []),
    ],
)
def test_a_pattern_takes_what_fits_from_end_to_end(pattern: str, takes: list[str], leaves: list[str]) -> None:
    made = registry(pattern)

    assert [found(made, type_) for type_ in takes] == [pattern] * len(takes)
    assert [found(made, type_) for type_ in leaves] == [None] * len(leaves)


def test_an_exact_type_goes_before_any_pattern_and_a_longer_pattern_before_a_shorter() -> None:
    made = registry("*", "case.*", "case.released", "case.rel*")

    assert found(made, "case.released") == "case.released"
    assert found(made, "case.relapsed") == "case.rel*"
    assert found(made, "case.billed") == "case.*"
    assert found(made, "order.placed") == "*"


def test_of_two_patterns_as_long_the_first_registered_goes_first() -> None:
    assert found(registry("case.*", "*.paid"), "case.paid") == "case.*"
    assert found(registry("*.paid", "case.*"), "case.paid") == "*.paid"


def test_a_handler_that_comes_later_is_found_also_for_types_seen_before() -> None:
    made = registry("case.*")
    assert found(made, "order.placed") is None
    made.add(handler("order.*"))

    assert found(made, "order.placed") == "order.*"


def test_two_handlers_for_one_type_are_refused_by_name() -> None:
    made = registry("case.released")

    with pytest.raises(HandlerConflict, match=r"handlers handle_case.released and bill both take 'case.released'"):
        made.add(handler("case.released", "bill"))
    assert len(made) == 1


def test_two_handlers_of_one_name_are_refused_because_operations_go_by_it() -> None:
    made = Registry()
    made.add(handler("case.released", "bill"))

    with pytest.raises(HandlerConflict, match=r"two handlers are called bill .*give one of them name="):
        made.add(handler("case.*", "bill"))


def test_a_flood_of_unknown_types_does_not_fill_the_memory() -> None:
    made = registry("case.*")
    for number in range(25_000):
        assert made.find(f"unknown.{number}") is None

    assert len(made._found) <= 10_001
    assert found(made, "case.released") == "case.*"


def test_a_registry_lists_its_handlers() -> None:
    made = registry("case.released", "order.*")

    assert len(made) == 2
    assert {one.type for one in made} == {"case.released", "order.*"}


@pytest.mark.parametrize("value", [InOrder, 5, "sequence", None])
def test_an_order_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="in_order is True, or an InOrder"):
        Crossfoot("billing").handler("case.released", in_order=value)


def swapped(tx: Any, message: Any) -> None: ...


def alone(tx: Any) -> None: ...


def late(event: Any, message: Any) -> None: ...


async def generated(message: Any, tx: Any) -> Any:
    yield message


def steps(message: Any, tx: Any) -> Any:
    yield message


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (swapped, r"swapped takes \(tx, message\): the message comes first"),
        (alone, r"alone takes \(tx\): the message comes first"),
        (late, r"late takes \(event, message\): the message comes first"),
        (steps, "steps has a `yield` in it, so a call of it runs nothing"),
        (generated, "generated has a `yield` in it"),
    ],
)
def test_a_handler_that_cannot_work_is_refused_when_it_is_registered(function: Any, says: str, tmp_path: Path) -> None:
    app = Crossfoot("billing", database=tmp_path / "billing.db")
    with pytest.raises(UsageError, match=says):
        app.handler("case.released")(function)


def test_what_the_parameters_are_called_is_otherwise_free(tmp_path: Path) -> None:
    app = Crossfoot("billing", database=tmp_path / "billing.db")

    @app.handler("case.released")
    def bill(event: Any, session: Any) -> None: ...

    assert app.registry.find("case.released") is not None
