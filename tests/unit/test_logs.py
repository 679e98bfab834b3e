"""Log records as JSON: every record a line, every line an object, whatever is in it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from crossfoot.worker.logs import InHand, JsonLines


def told(text: object = "it rained", *arguments: object, **more: Any) -> dict[str, Any]:
    """One record, written and read again."""
    record = logging.getLogger("billing").makeRecord("billing", logging.INFO, "billing.py", 7, text, arguments, **more)
    assert InHand("billing-host-1").filter(record)
    line = JsonLines().format(record)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_record_has_its_time_level_logger_message_and_worker() -> None:
    found = told("it rained %d mm", 12, exc_info=None)

    assert found.pop("time").endswith("Z")
    assert found == {"level": "INFO", "logger": "billing", "message": "it rained 12 mm", "worker": "billing-host-1"}


def test_what_the_program_gives_beside_the_text_is_told_apart() -> None:
    found = told(exc_info=None, extra={"invoice": 4711, "when": {1, 2}})

    assert found["extra"] == {"invoice": 4711, "when": [1, 2]}


def test_an_exception_is_told_whole_in_one_line() -> None:
    try:
        raise ValueError("of two\nlines")
    except ValueError as error:
        found = told("oh", exc_info=(ValueError, error, error.__traceback__))

    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith("ValueError: of two\nlines")


@pytest.mark.parametrize(
    "given", ["theirs", ["a"], {"level": "LOUD", "message": "shouted"}, {"n": 2**70, None: 1, "\ud800": 2}]
)
def test_what_a_program_calls_crossfoot_takes_the_place_of_nothing(given: Any) -> None:
    found = told("it rained", exc_info=None, extra={"crossfoot": given})
    assert (found["level"], found["message"], found["worker"]) == ("INFO", "it rained", "billing-host-1")

    record = logging.getLogger("billing").makeRecord(
        "billing", logging.INFO, "", 7, "it rained", (), None, extra={"crossfoot": given}
    )
    bare = json.loads(JsonLines().format(record))  # on a handler that nobody gave the filter
    assert (bare["level"], bare["message"]) == ("INFO", "it rained")


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("I will not say")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("text", "arguments", "extra"),
    [
        ("%d", ("twelve",), {}),
        ("%s %s", ("one",), {}),
        ("%s", (Unspeakable(),), {}),
        ("half a character: \ud800", (), {}),
        ("fine", (), {"what": Unspeakable()}),
        ("fine", (), {"what": float("nan")}),
        ("fine", (), {"what": 2**70}),
        ("fine", (), {"what": {Unspeakable: 1}}),
        ("fine", (), {"\ud800": "odd"}),
        (Unspeakable(), (), {}),
    ],
)
def test_whatever_is_in_a_record_it_is_a_line_of_json(
    text: object, arguments: tuple[object, ...], extra: dict[str, Any]
) -> None:
    found = told(text, *arguments, exc_info=None, extra=extra)

    assert (found["logger"], found["level"]) == ("billing", "INFO")
    assert "message" in found
