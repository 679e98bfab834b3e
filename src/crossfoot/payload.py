"""Typed payloads: `message.data` as the type a handler declared, and what to say when it does not fit.

A declared type is anything msgspec converts to (its structs, dataclasses, typed dictionaries, plain types) or anything
built on pydantic. Payloads are secrets: an error says where the fault is and what was expected there, and repeats
nothing of the payload, neither its values nor names that only the payload knows (keys of dictionaries).
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

from crossfoot.errors import PayloadInvalid, UsageError

_PATH = re.compile(r" - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_INDEX = re.compile(r"\[\d+\]")
_COUNTED = re.compile(r", (?:got|not) \d+$")  # how many there were: true of one payload, not of the fault
_MISSING = re.compile(r"Object missing required field `([^`]+)`$")

Step = str | int
"""A field's name, an index, or `...` for the key of a dictionary."""
ANY_KEY = "..."

# What pydantic's messages quote: those of an error whose context has other things in it (the value, another error's
# text) are not shown.
_EXPECTATIONS = frozenset(
    (
        *("class", "class_name", "expected", "expected_schemes", "expected_version", "pattern", "encoding"),
        *("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "actual_length", "field_type"),
        *("max_digits", "decimal_places", "whole_digits", "discriminator"),
    )
)
_WORDED_BY_THE_USER = frozenset(("value_error", "assertion_error"))


class Payload:
    """Converts payloads to one declared type. Made once per handler.

    Args:
        declared: the type; `None` or `Any` leave the data as it is.

    Raises:
        UsageError: nothing can be converted to that type.
    """

    def __init__(self, declared: Any = None) -> None:
        self.declared = declared
        self.convert: Callable[[Any], Any] = _converter(declared)
        """Returns the data as the declared type. Raises `PayloadInvalid` where it does not fit."""

    def __repr__(self) -> str:
        return f"Payload({_name(self.declared)})"
