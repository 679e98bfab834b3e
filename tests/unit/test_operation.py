"""Operation keys: what they are made of, and what they refuse to be made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from crossfoot.effects.operation import FIELDS, operation_key
from crossfoot.errors import PayloadInvalid, UsageError
from crossfoot.message import Message


def message(data: Any = None, **attributes: Any) -> Message:
    return Message(**{"type": "case.released", "source": "tests", "id": "m-1", "data": data} | attributes)


def key(template: str | None, of: Message) -> str:
    return operation_key(template, handler="bill")(of)


def test_a_template_is_filled_from_the_envelope_and_the_payload() -> None:
    case = message({"amount": {"currency": "EUR"}, "number": 17}, subject="case-4711", sequence=3)

    assert key("bill:{subject}:{sequence}", case) == "bill:case-4711:3"
    assert key("charge:{data.number}", case) == "charge:17"
    assert key("{data.amount.currency}/{id}", case) == "EUR/m-1"


def test_a_typed_payload_is_read_by_attribute() -> None:
    @dataclass
    class Order:
        number: int

    assert key("order:{data.number}", message(Order(17))) == "order:17"


def test_zero_and_false_are_values() -> None:
    assert key("{data.a}:{data.b}", message({"a": 0, "b": False})) == "0:False"


def test_doubled_braces_are_braces() -> None:
    assert key("{{{subject}}}", message(subject="case")) == "{case}"


def test_a_message_that_states_its_operation_is_taken_at_its_word() -> None:
    stated = message(operation="bill:case-1:1")

    assert key("bill:{subject}:{sequence}", stated) == "bill:case-1:1"
    assert key(None, stated) == "bill:case-1:1"


def test_without_a_template_the_message_is_the_operation_for_each_handler() -> None:
    one = message()

    assert key(None, one) == f"bill|{one.key}"
    assert operation_key(None, handler="mail")(one) != key(None, one)


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_the_envelope_can_be_named(field: str) -> None:
    value: Any = 5 if field == "sequence" else "value"

    assert key(f"x:{{{field}}}", message(**{field: value})) == f"x:{value}"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("bill:{subjekt}", r"names \{subjekt\}, which no message has: did you mean \{subject\}\?"),
        ("bill:{number}", r"names \{number\}, which no message has: payload fields are written \{data\.NAME\}"),
        ("bill:{data}", r"names \{data\}, which no message has"),
        ("bill:{}", r"names \{\}, which no message has"),
        ("bill", "names the same operation for every message; put a field in it"),
        ("", "names the same operation for every message; put a field in it"),
        ("bill:{subject", "cannot be read .*: fields are written {subject}"),
        ("bill:subject}", "cannot be read .*: fields are written {subject}"),
        ("bill:{sequence:06d}", r"formats \{sequence\}, and keys are made of values as they are"),
        ("bill:{subject!r}", r"formats \{subject\}, and keys are made of values as they are"),
        (
            "bill:{subject}{sequence}",
            r"has nothing between \{subject\} and \{sequence\} that could not be part of a value",
        ),
        ("bill:{subject}v{id}", r"two messages may have one key: separate them, as in \{subject\}:\{id\}"),
    ],
)
def test_a_template_that_cannot_work_is_refused_when_the_handler_is_registered(template: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"handler bill: .*{says}"):
        operation_key(template, handler="bill")


@pytest.mark.parametrize(
    "data",
    [
        *(None, {}, {"order": None}, {"order": {}}, {"order": {"id": None}}, {"order": {"id": ""}}),
        *({"order": {"id": []}}, {"order": {"id": {"a": 1}}}, [], "text", 5),
    ],
)
def test_a_payload_without_the_field_is_named_and_not_guessed(data: object) -> None:
    with pytest.raises(PayloadInvalid, match="operation key of handler bill needs it") as caught:
        key("charge:{data.order.id}", message(data))
    assert caught.value.path == "$.order.id"


def test_a_method_that_happens_to_have_the_name_is_no_value() -> None:
    """Its text holds an address, so no two processes would agree on the operation."""
    with pytest.raises(PayloadInvalid):
        key("{data.title}", message("a text has a method of that name"))


@pytest.mark.parametrize("field", ["subject", "sequence", "correlationid"])
def test_an_envelope_without_the_field_is_named_too(field: str) -> None:
    with pytest.raises(PayloadInvalid, match=f"at {field}: the operation key of handler bill needs it"):
        key(f"{{{field}}}", message())
