"""What the tests of messages share: whatever CloudEvents allows, and events as others write them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from crossfoot.message import Message
from crossfoot.message.envelope import FIRST_TIME, KNOWN, LAST_TIME

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
