"""What is read but may not pass: each is refused by the name of the attribute, and without its payload."""

from __future__ import annotations

from typing import Any

import pytest

from crossfoot.errors import EnvelopeInvalid
from crossfoot.message import decode, from_binary, key_of
from tests.unit.message_rig import event


def refusal(body: bytes) -> str:
    with pytest.raises(EnvelopeInvalid) as caught:
        decode(body)
    return str(caught.value)


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
