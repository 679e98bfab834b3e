"""The envelope: what can be made into a message, and what a message can do."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from crossfoot.errors import EnvelopeInvalid
from crossfoot.message import Message, child, decode, encode, envelope, from_binary, to_binary, valid_traceparent
from crossfoot.message.envelope import LAST_TIME
from tests.unit.message_rig import event, sources, texts

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@given(sources, texts, sources, texts)
@example("/a", "b|c", "/a", "b")
def test_no_two_identities_share_a_key(source: str, id: str, other_source: str, other_id: str) -> None:
    assume((source, id) != (other_source, other_id))

    assert Message(type="t", source=source, id=id).key != Message(type="t", source=other_source, id=other_id).key


def test_a_message_does_not_show_its_payload() -> None:
    message = Message(type="t", source="/s", id="1", data={"pin": "secret"}, extensions={"tenant": "secret"})

    assert repr(message) == "<Message t /s|1>"
    assert "secret" not in str(message.__rich_repr__())


def test_a_generic_message_is_a_message() -> None:
    message = Message[Invoice](type="t", source="/s", id="1", data=Invoice(1.0))

    assert message == Message(type="t", source="/s", id="1", data=Invoice(1.0))
    assert message.data.amount == 1.0


def test_a_child_belongs_to_its_parents_flow_and_trace() -> None:
    parent = Message(type="p", source="/a", id="1", traceparent=TRACEPARENT, tracestate="a=1", subject="case-1")

    first = child(parent, type="c", source="/b", subject="invoice-1")
    second = child(first, type="d", source="/c", causationid="other")

    assert (first.correlationid, first.causationid, first.traceparent, first.tracestate) == (
        "1",
        "1",
        TRACEPARENT,
        "a=1",
    )
    assert (first.source, first.subject) == ("/b", "invoice-1")
    assert (second.correlationid, second.causationid) == ("1", "other")
    assert first.id != parent.id


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (TRACEPARENT, True),
        (TRACEPARENT.upper(), False),
        (TRACEPARENT + "-more", False),
        ("cc" + TRACEPARENT[2:], True),
        ("cc" + TRACEPARENT[2:] + "-more", True),
        ("cc" + TRACEPARENT[2:] + "more", False),
        ("ff" + TRACEPARENT[2:], False),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", False),
        (TRACEPARENT + "\n", False),
        (TRACEPARENT[:-1], False),
        ("", False),
    ],
)
def test_a_traceparent_is_judged_by_the_rules_of_w3c(text: str, valid: bool) -> None:
    assert valid_traceparent(text) is valid


def test_an_unusable_traceparent_is_carried_as_it_came() -> None:
    assert decode(encode(decode(event(traceparent="nonsense")))).traceparent == "nonsense"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"source": "/a|b"}, "source is not a URI reference"),
        ({"type": None}, "type must be text, and is missing"),
        ({"id": None}, "id must be text, and is missing"),
        ({"subject": 4711}, "subject must be text, and is int"),
        ({"subject": 0}, "subject must be text, and is int"),
        ({"subject": "\ud800"}, "subject has the character U+D800"),
        ({"time": 1_522_949_460.5}, "time is not a whole number of microseconds"),
        ({"time": LAST_TIME + 1}, "time is not a whole number of microseconds"),
        ({"sequence": "7"}, "sequence is not a whole number of 64 bits"),
        ({"sequence": -(2**63) - 1}, "sequence is not a whole number of 64 bits"),
        ({"datacontenttype": None}, "datacontenttype is not a media type"),
        ({"extensions": None}, "extensions is not a dictionary"),
        ({"extensions": {"subject": "x"}}, "subject is no name for an extension"),
        ({"extensions": {"data": "x"}}, "data is no name for an extension"),
        ({"extensions": {7: "x"}}, "an attribute is named 7"),
        ({"extensions": {"tenant": None}}, "tenant must be text, a whole number or a boolean, and is missing"),
        ({"extensions": {"tenant": "\n"}}, "tenant has the character U+000A"),
    ],
)
def test_a_message_that_could_not_be_sent_cannot_be_made(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=re.escape(complaint)):
        Message(**{"type": "t", "source": "/s", **fields})


anything = st.none() | st.text(max_size=4) | st.sampled_from(("", "\x7f", "\x85", "\ud800", "a|b", 0, 7, b"x"))


@given(anything, anything, anything, anything, anything)
def test_the_quick_yes_never_lets_pass_what_the_rules_refuse(
    type: Any, source: Any, id: Any, subject: Any, operation: Any
) -> None:
    try:
        message = Message(type=type, source=source, id=id, subject=subject, operation=operation)
    except EnvelopeInvalid:
        return
    envelope._check(message)


class Model(pydantic.BaseModel):
    amount: float = pydantic.Field(alias="theAmount")


class Invoice(msgspec.Struct):
    amount: float


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (float("nan"), "NaN or an infinity"),
        ({"a": [None, float("-inf")]}, "NaN or an infinity"),
        (Invoice(float("nan")), "NaN or an infinity"),
        (Model(theAmount=float("inf")), "NaN or an infinity"),
        ({"a": object()}, "something of type object"),
        ({(1, 2): 3}, "something of type tuple"),
        (["\ud800"], "lone surrogate"),
        (b"{}", "data is bytes, but datacontenttype says JSON"),
    ],
)
def test_data_that_json_cannot_express_is_refused_in_both_modes(data: object, complaint: str) -> None:
    message = Message(type="t", source="/s", data=data)

    for write in (encode, to_binary):
        with pytest.raises(EnvelopeInvalid, match=complaint):
            write(message)


def test_data_that_contains_itself_is_refused() -> None:
    data: list[Any] = []
    data.append(data)

    with pytest.raises(EnvelopeInvalid, match="contains itself"):
        encode(Message(type="t", source="/s", data=data))


def test_text_is_no_data_where_the_content_type_is_not_json() -> None:
    message = Message(type="t", source="/s", data="<a/>", datacontenttype="text/xml")

    with pytest.raises(EnvelopeInvalid, match="data must be bytes where datacontenttype is text/xml"):
        encode(message)


@pytest.mark.parametrize(
    ("data", "written"),
    [
        (Invoice(12.5), {"amount": 12.5}),
        (Model(theAmount=12.5), {"theAmount": 12.5}),
        ({"at": datetime(2018, 4, 5, tzinfo=UTC)}, {"at": "2018-04-05T00:00:00Z"}),
        ({"nothing": None}, {"nothing": None}),
        (msgspec.Raw(b'{"nothing": null}'), {"nothing": None}),
    ],
)
def test_typed_data_is_written_as_its_json(data: object, written: object) -> None:
    message = Message(type="t", source="/s", data=data)

    assert decode(encode(message)).data == written
    assert from_binary(*to_binary(message)).data == written
