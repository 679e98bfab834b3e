"""The two forms of a message: what survives them, and reading what others wrote."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crossfoot.errors import EnvelopeInvalid
from crossfoot.message import Message, decode, encode, from_binary, key_of, to_binary
from tests.unit.message_rig import event, json_values, messages

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
