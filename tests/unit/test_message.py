"""The envelope, its two forms on the wire, and what may not pass."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from crossfoot.clock import ManualClock
from crossfoot.errors import EnvelopeInvalid
from crossfoot.message import (
    Message,
    child,
    decode,
    encode,
    envelope,
    from_binary,
    key_of,
    new_id,
    to_binary,
    valid_traceparent,
)
from crossfoot.message.envelope import FIRST_TIME, KNOWN, LAST_TIME
from crossfoot.message.ids import Ids

UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

# ---- whatever CloudEvents allows -------------------------------------------------------------------------------------

NONCHARACTERS = [chr(c) for c in range(0xFDD0, 0xFDF0)] + [
    chr(p << 16 | c) for p in range(17) for c in (0xFFFE, 0xFFFF)
]
characters = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=NONCHARACTERS)
texts = st.text(characters, min_size=1, max_size=20)
sources = st.one_of(
    st.sampled_from(
        ("/billing", "https://example.com/a?b=c#d", "urn:uuid:6e8bc430", "mailto:a@example.com", "1-555", "/%7C")
    ),
    st.text("abcXYZ019-._~:/?#[]@!$&'()*+,;=éß日", min_size=1, max_size=20),
)
times = st.integers(FIRST_TIME, LAST_TIME)
int64 = st.integers(-(2**63), 2**63 - 1)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20).filter(
    lambda n: n not in KNOWN | {"data"}
)
extension_values = st.one_of(st.text(characters, max_size=20), st.integers(-(2**31), 2**31 - 1), st.booleans())
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(characters, max_size=8), inner, max_size=4),
    max_leaves=12,
)
json_types = st.sampled_from(
    ("application/json", "application/json; charset=utf-8", "text/JSON", "application/vnd.x+json")
)
other_types = st.sampled_from(
    ("application/xml", "text/plain;charset=iso-8859-1", "application/octet-stream", "a/jsonx")
)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    is_json = draw(st.booleans())
    optional: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(("subject", "correlationid", "causationid", "partitionkey"), texts),
        **dict.fromkeys(("traceparent", "tracestate", "operation"), texts),
        **dict.fromkeys(("time", "expirytime"), times),
        **dict.fromkeys(("sequence", "predecessor"), int64),
        "dataschema": sources,
        "extensions": st.dictionaries(names, extension_values, max_size=3),
    }
    stated: dict[str, Any] = draw(st.fixed_dictionaries({}, optional=optional))
    return Message(
        type=draw(texts),
        source=draw(sources),
        id=draw(texts),
        datacontenttype=draw(json_types if is_json else other_types),
        data=draw(json_values if is_json else st.none() | st.binary(max_size=20)),
        **stated,
    )


def event(**attributes: Any) -> bytes:
    """An event as JSON, as somebody else may write it; `None` leaves an attribute out."""
    everything = {"specversion": "1.0", "type": "case.released", "source": "/wards", "id": "1", **attributes}
    return json.dumps({name: value for name, value in everything.items() if value is not None}).encode()


def refusal(body: bytes) -> str:
    with pytest.raises(EnvelopeInvalid) as caught:
        decode(body)
    return str(caught.value)


# ---- round trips -----------------------------------------------------------------------------------------------------


@given(messages())
def test_a_message_survives_structured_mode(message: Message) -> None:
    assert decode(encode(message)) == message


@given(messages())
def test_a_message_survives_binary_mode_but_for_what_headers_cannot_say(message: Message) -> None:
    headers, body = to_binary(message)

    as_text = {name: str(v).lower() if isinstance(v, bool) else str(v) for name, v in message.extensions.items()}
    data = None if message.data == b"" else message.data
    assert from_binary(headers, body) == msgspec.structs.replace(message, extensions=as_text, data=data)


@given(messages())
def test_headers_are_printable_ascii_without_spaces_and_quotes(message: Message) -> None:
    headers, _ = to_binary(message)

    for name, value in headers.items():
        assert value.isascii()
        assert value.isprintable()
        assert name == "content-type" or not set(value) & set(' "')


@given(messages())
def test_the_key_of_an_encoded_event_is_the_key_of_the_message(message: Message) -> None:
    assert key_of(encode(message)) == message.key


@given(messages())
def test_what_is_encoded_is_what_the_json_format_asks_for(message: Message) -> None:
    written = json.loads(encode(message))

    assert written.pop("specversion") == "1.0"
    assert not {"data", "data_base64"} <= set(written)
    assert None not in [value for name, value in written.items() if name != "data"]
    for name, value in written.items():
        if name not in ("data", "data_base64"):
            assert isinstance(value, str | int)
            assert not isinstance(value, int) or -(2**31) <= value < 2**31


@given(sources, texts, sources, texts)
@example("/a", "b|c", "/a", "b")
def test_no_two_identities_share_a_key(source: str, id: str, other_source: str, other_id: str) -> None:
    assume((source, id) != (other_source, other_id))

    assert Message(type="t", source=source, id=id).key != Message(type="t", source=other_source, id=other_id).key


def test_structured_mode_is_written_in_a_form_that_does_not_change_unnoticed() -> None:
    message = Message(
        type="invoice.issued", source="/billing", id="1", subject="case-4711", time=1_522_949_460_123_456,
        sequence=2**31, predecessor=7, data={"amount": 12.5}, extensions={"tenant": "north", "retry": 3, "test": True},
    )  # fmt: skip

    assert encode(message) == (
        b'{"specversion":"1.0","type":"invoice.issued","source":"/billing","id":"1","subject":"case-4711",'
        b'"time":"2018-04-05T17:31:00.123456Z","datacontenttype":"application/json","sequence":"2147483648",'
        b'"predecessor":7,"data":{"amount":12.5},"tenant":"north","retry":3,"test":true}'
    )


def test_binary_mode_is_written_as_the_http_binding_shows_it() -> None:
    message = Message(type="t", source="/s", id="1", subject="Euro € 😀", time=0, extensions={"test": True}, data=[1])

    assert to_binary(message) == (
        {
            "ce-specversion": "1.0",
            "content-type": "application/json",
            "ce-type": "t",
            "ce-source": "/s",
            "ce-id": "1",
            "ce-subject": "Euro%20%E2%82%AC%20%F0%9F%98%80",
            "ce-time": "1970-01-01T00:00:00Z",
            "ce-test": "true",
        },
        b"[1]",
    )


# ---- reading what others write ---------------------------------------------------------------------------------------


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode(errors="surrogatepass")))
@example(b"[" * 100_000)
@example(b'{"specversion":"1.0","type":"a","source":"/s","id":"1","x":' + b"[" * 100_000)
@example(b'{"specversion":"1.0","type":"a","source":"/s","id":"\\ud800"}')
@example(b'{"specversion":"1.0","type":"a","source":"/s","id":"\xff"}')
@example(b'{"specversion":"1.0","type":"a","source":"/s","id":"1","time":"9999-12-31T23:59:60Z"}')
@example(b'{"specversion":"1.0","type":"a","source":"/s","id":"1","sequence":"' + b"9" * 5_000 + b'"}')
@example(b'{"specversion":"1.0","type":"a","source":"/s","id":"1","sequence":' + b"9" * 5_000 + b"}")
def test_arbitrary_bytes_are_a_message_or_an_invalid_envelope(body: bytes) -> None:
    try:
        message = decode(body)
    except EnvelopeInvalid:
        assert key_of(body) is None or b"source" in body
    else:
        assert key_of(body) == message.key


@given(messages(), st.data())
def test_a_damaged_event_is_a_message_or_an_invalid_envelope(message: Message, data: st.DataObject) -> None:
    body = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

    try:
        decoded = decode(bytes(body))
    except EnvelopeInvalid:
        return
    assert decode(encode(decoded)) == decoded


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            (
                "specversion",
                "type",
                "source",
                "id",
                "time",
                "sequence",
                "datacontenttype",
                "data_base64",
                "tracestate",
                "x",
            ),
            json_values,
        ),
    )
)
def test_any_json_value_in_any_attribute_is_a_message_or_an_invalid_envelope(attributes: dict[str, Any]) -> None:
    try:
        message = decode(event(**attributes))
    except EnvelopeInvalid:
        return
    assert decode(encode(message)) == message


@given(
    st.dictionaries(
        st.sampled_from(
            ("ce-id", "CE-SOURCE", "ce-time", "ce-sequence", "ce-x", "ce-", "ce-Ä", "Content-Type", "host")
        ),
        st.text(max_size=20),
    ),
    st.binary(max_size=20),
)
def test_arbitrary_headers_are_a_message_or_an_invalid_envelope(headers: dict[str, str], body: bytes) -> None:
    required = {"ce-specversion": "1.0", "ce-type": "t", "ce-source": "/s", "ce-id": "1"}
    try:
        message = from_binary({**required, **headers}, body)
    except EnvelopeInvalid:
        return
    assert decode(encode(message)) == message


def test_attributes_nobody_here_knows_are_kept() -> None:
    message = decode(event(tenant="north", retry=3, test=False, unset=None, extensions="odd, but a legal name"))

    assert message.extensions == {"tenant": "north", "retry": 3, "test": False, "extensions": "odd, but a legal name"}
    assert decode(encode(message)) == message


def test_null_is_the_same_as_leaving_an_attribute_out() -> None:
    body = (
        b'{"specversion":"1.0","type":"t","source":"/s","id":"1","subject":null,"time":null,"tenant":null,"data":null}'
    )

    assert decode(body) == Message(type="t", source="/s", id="1")


def test_an_empty_trace_header_says_nothing_and_is_no_fault() -> None:
    assert decode(event(tracestate="", traceparent="")).tracestate is None
    assert decode(event(tracestate="", tenant="north")).tracestate is None


@pytest.mark.parametrize("sequence", [7, "7", "0007"])
def test_a_sequence_may_be_a_number_or_a_text(sequence: int | str) -> None:
    assert decode(event(sequence=sequence)).sequence == 7


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00.5+01:00", 500_000),
        ("1969-12-31t23:59:59.999999z", -1),
        ("2018-04-05T17:31:00.1234567Z", 1_522_949_460_123_457),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
        ("2016-12-31T15:59:60.25-08:00", 1_483_228_800_250_000),
    ],
)
def test_a_time_is_read_to_the_microsecond_leap_seconds_included(text: str, micros: int) -> None:
    assert decode(event(time=text)).time == micros
    assert decode(event(time=text, tenant="north")).time == micros


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_time_python_can_write_is_read_as_that_instant(instant: datetime) -> None:
    since = instant - datetime(1970, 1, 1, tzinfo=UTC)

    assert decode(event(time=instant.isoformat())).time == since // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("attributes", "data"),
    [
        ({"data": {"a": 1}}, {"a": 1}),
        ({"data": "just text"}, "just text"),
        ({"data": {"a": 1}, "datacontenttype": "application/cloudevents+json"}, {"a": 1}),
        ({"data_base64": "eyJhIjoxfQ=="}, {"a": 1}),
        ({"data": "<much wow=\"xml\"/>", "datacontenttype": "application/xml"}, b'<much wow="xml"/>'),
        ({"data": "é", "datacontenttype": "text/plain"}, "é".encode()),
        ({"data": "é", "datacontenttype": "text/plain; charset=ISO-8859-1"}, b"\xe9"),
        ({"data_base64": "/w==", "datacontenttype": "image/png"}, b"\xff"),
        ({"datacontenttype": "image/png"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_data_is_what_its_content_type_says(attributes: dict[str, Any], data: object) -> None:
    assert decode(event(**attributes)).data == data
    assert decode(event(**attributes, tenant="north")).data == data


@pytest.mark.parametrize(
    ("header", "subject"),
    [
        ("Euro%20%E2%82%AC", "Euro €"),
        ("%e2%82%ac", "€"),
        ("%41", "A"),
        ("%2541", "%41"),
        ('"quoted \\"text\\""', 'quoted "text"'),
        ('"%41 b"', "A b"),
        ("  padded\t", "padded"),
        ("100%", "100%"),
    ],
)
def test_header_values_are_unquoted_and_decoded_once(header: str, subject: str) -> None:
    headers = {"CE-SpecVersion": "1.0", "ce-type": "t", "ce-source": "/s", "ce-id": "1", "Ce-Subject": header}

    assert from_binary(headers, b"").subject == subject


def test_headers_of_others_are_left_alone() -> None:
    headers, body = to_binary(Message(type="t", source="/s", id="1", data=1))

    assert from_binary({**headers, "Host": "example.com", "X-Ce-Id": "2"}, body).extensions == {}


def test_a_body_without_a_content_type_is_bytes() -> None:
    headers = {"ce-specversion": "1.0", "ce-type": "t", "ce-source": "/s", "ce-id": "1"}

    message = from_binary(headers, b"{}")

    assert (message.data, message.datacontenttype) == (b"{}", "application/octet-stream")


# ---- what may not pass -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "complaint"),
    [
        ({"specversion": None}, "specversion is missing"),
        ({"specversion": "0.3"}, "specversion is '0.3'; only '1.0' is understood"),
        ({"specversion": 1.0}, "specversion is 1.0; only '1.0' is understood"),
        ({"type": None}, "type is missing"),
        ({"type": ""}, "type is empty"),
        ({"type": 7}, "type must be text, and is int"),
        ({"id": None}, "id is missing"),
        ({"id": ""}, "id is empty"),
        ({"source": None}, "source is missing"),
        ({"source": ""}, "source is empty"),
        ({"source": "/a|b"}, "source is not a URI reference"),
        ({"source": "/a b"}, "source is not a URI reference"),
        ({"source": "/a\u00a0b"}, "source is not a URI reference"),
        ({"source": "/a\n"}, "source has the character U+000A"),
        ({"source": "/100%"}, "source is not a URI reference"),
        ({"subject": ""}, "subject is empty: give it a value, or leave it out"),
        ({"subject": "a\x00b"}, "subject has the character U+0000"),
        ({"subject": "\x1b[2J"}, "subject has the character U+001B"),
        ({"subject": "\x7f"}, "subject has the character U+007F"),
        ({"subject": "\x9f"}, "subject has the character U+009F"),
        ({"subject": "\U0010ffff"}, "subject has the character U+10FFFF"),
        ({"subject": ["secret"]}, "subject must be text, and is list"),
        ({"time": "2018-04-05T17:31:00"}, "time is no RFC 3339 time with an offset"),
        ({"time": "yesterday"}, "time is no RFC 3339 time with an offset"),
        ({"time": 1_522_949_460}, "time is no RFC 3339 time with an offset"),
        ({"expirytime": "9999-12-31T23:59:59-01:00"}, "expirytime is not a whole number of microseconds"),
        ({"sequence": "A17"}, "sequence is no whole number"),
        ({"sequence": 1.5}, "sequence is no whole number"),
        ({"sequence": True}, "sequence is no whole number"),
        ({"predecessor": 2**63}, "predecessor is not a whole number of 64 bits"),
        ({"datacontenttype": "json"}, "datacontenttype is not a media type"),
        ({"datacontenttype": "a/b\r\nx: y"}, "datacontenttype is not a media type"),
        ({"datacontenttype": 3}, "datacontenttype must be text"),
        ({"dataschema": "not a uri"}, "dataschema is not a URI"),
        ({"Tenant": "x"}, "an attribute is named 'Tenant': only lower-case letters and digits may be"),
        ({"tenant_id": "x"}, "an attribute is named 'tenant_id'"),
        ({"": "x"}, "an attribute is named ''"),
        ({"tenant": 1.5}, "tenant must be text, a whole number or a boolean, and is float"),
        ({"tenant": {"a": "secret"}}, "tenant must be text, a whole number or a boolean, and is dict"),
        ({"tenant": 2**31}, "tenant is over 32 bits"),
        ({"data": 1, "data_base64": "MQ=="}, "data and data_base64 are both there"),
        ({"data_base64": "secret!"}, "data_base64 is not base64"),
        ({"data_base64": "c2VjcmV0"}, "data is not the JSON that datacontenttype says"),
        ({"data": {"a": "secret"}, "datacontenttype": "text/plain"}, "data must be text, or in data_base64"),
        ({"data": "secret€", "datacontenttype": "text/plain; charset=iso-8859-1"}, "data has characters outside"),
    ],
)  # fmt: skip
def test_an_event_that_breaks_a_rule_is_refused_by_name(attributes: dict[str, Any], complaint: str) -> None:
    text = refusal(event(**attributes))

    assert complaint in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "no JSON object"),
        (b"[]", "no JSON object: Expected `object`, got `array`"),
        (b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":NaN}', "no JSON object"),
        (b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":1e999}', "Number out of range"),
        (b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":"\xff"}', "it is not UTF-8"),
        (b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":' + b"[" * 99_999, "nested too deeply"),
    ],
)
def test_bytes_that_are_no_json_object_are_refused(body: bytes, complaint: str) -> None:
    assert complaint in refusal(body)


def test_a_refusal_names_the_event_as_far_as_it_can_be_read() -> None:
    assert refusal(event(subject="")).startswith("event /wards|1 cannot be read: subject is empty")
    assert refusal(event(source="/a b")).startswith(
        "an event without a readable identity cannot be read: source is not"
    )
    assert len(refusal(event(id="1" * 10_000, **{"x" * 10_000: 1.5}))) < 500


def test_the_identity_of_a_broken_event_can_still_be_read() -> None:
    assert key_of(event(specversion="0.3", time=7)) == "/wards|1"
    assert key_of(event(source="/a|b")) is None
    assert key_of(event(id="\x00")) is None
    assert key_of(event(id=None)) is None
    assert key_of(b"{") is None


@pytest.mark.parametrize(
    ("headers", "body", "complaint"),
    [
        ({"ce-specversion": "0.3"}, b"", "specversion is '0.3'"),
        ({"ce-subject": "%C0%A0"}, b"", "is not UTF-8 when percent-decoded"),
        ({"ce-subject": "%0A"}, b"", "subject has the character U+000A"),
        ({"ce-subject": "a", "Ce-Subject": "b"}, b"", "is there twice"),
        ({"ce-datacontenttype": "text/plain"}, b"", "ce-datacontenttype is no header of binary mode"),
        ({"ce-data": "secret"}, b"", "ce-data is no header of binary mode"),
        ({"content-type": "application/cloudevents+json"}, b"{}", "structured mode"),
        ({"content-type": "application/json"}, b"secret", "data is not the JSON that datacontenttype says"),
        ({"ce-sequence": "1.0"}, b"", "sequence is no whole number"),
    ],
)  # fmt: skip
def test_headers_that_break_a_rule_are_refused_by_name(headers: dict[str, str], body: bytes, complaint: str) -> None:
    required = {"ce-specversion": "1.0", "ce-type": "t", "ce-source": "/s", "ce-id": "1"}

    with pytest.raises(EnvelopeInvalid) as caught:
        from_binary({**required, **headers}, body)

    assert complaint in str(caught.value)
    assert str(caught.value).startswith("event /s|1 cannot be read: ")
    assert "secret" not in str(caught.value)


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


# ---- the rest --------------------------------------------------------------------------------------------------------


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


def test_ids_are_uuids_of_version_7_that_tell_the_time() -> None:
    clock = ManualClock()

    id = Ids(clock).next()

    assert re.fullmatch(UUID7, id)
    assert int(id.replace("-", "")[:12], 16) == clock.now() // 1_000
    assert UUID(id).version == 7


@given(st.lists(st.floats(-3, 3), max_size=50))
def test_ids_increase_whatever_the_clock_does(steps: list[float]) -> None:
    clock = ManualClock()
    ids = Ids(clock)
    made = [ids.next()]
    for step in steps:
        clock.advance(step)
        made.append(ids.next())

    assert made == sorted(set(made))
    assert all(re.fullmatch(UUID7, id) for id in made)


def test_ids_move_on_to_the_next_millisecond_when_one_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: b"\xff" * count)
    ids = Ids(ManualClock())

    first, second = ids.next(), ids.next()

    assert first < second
    assert re.fullmatch(UUID7, second)
    assert int(second.replace("-", "")[:12], 16) == int(first.replace("-", "")[:12], 16) + 1


def test_threads_never_share_an_id() -> None:
    made: list[list[str]] = [[] for _ in range(8)]
    threads = [threading.Thread(target=lambda own=own: own.extend(new_id() for _ in range(500))) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(own == sorted(own) for own in made)
    assert len({id for own in made for id in own}) == 4_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_makes_ids_of_its_own_even_if_the_lock_was_held() -> None:
    program = """
import os
from crossfoot.message import ids
ids.new_id()
ids._ids._lock.acquire()
for child in range(4):
    if os.fork() == 0:
        os.write(1, "".join(ids.new_id() + chr(10) for _ in range(100)).encode())
        os._exit(0)
for child in range(4):
    os.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)

    made = done.stdout.split()
    assert len(made) == len(set(made)) == 400
