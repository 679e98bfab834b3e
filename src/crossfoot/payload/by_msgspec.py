"""Payloads converted by msgspec."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from crossfoot.errors import PayloadInvalid, UsageError
from crossfoot.payload.annotation import name_of
from crossfoot.payload.schema import ANY_KEY, Schema, Step, lowered, path_of, without_count

_PLACE = re.compile(r" - at (`key` in )?`\$([^`]*)`$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_MISSING = re.compile(r"Object missing required field `([^`]+)`$")


def converter(declared: Any) -> Callable[[Any], Any]:
    """What converts data to the type. Raises `UsageError` if nothing can be."""
    try:
        schema = Schema(msgspec.json.schema(declared, schema_hook=_schema_of_object))
    except (TypeError, NameError) as error:
        raise UsageError(f"{name_of(declared)} cannot be a payload's type: {str(error).splitlines()[-1]}") from None

    def convert(data: Any) -> Any:
        try:
            return msgspec.convert(data, declared, str_keys=True)
        except msgspec.ValidationError as error:
            found = _explained(error, schema)
        except RecursionError:
            found = PayloadInvalid("$", "is nested too deeply")
        raise found

    return convert


def _schema_of_object(cls: type) -> dict[str, Any]:
    if cls is object:
        return {"description": "anything"}
    raise NotImplementedError


def _explained(error: msgspec.ValidationError, schema: Schema) -> PayloadInvalid:
    text = str(error)
    place = _PLACE.search(text)
    steps: list[Step] = []
    if place is not None:
        text = text[: place.start()]
        steps = [name or (key if key == ANY_KEY else int(key)) for name, key in _STEP.findall(place[2])]
        if not schema.knows(steps):  # not a place of the type: then it is part of what the payload says
            steps = []
    if error.__cause__ is not None:  # worded by the user, perhaps with the value
        reason = f"is refused by the type's own check ({type(error.__cause__).__name__})"
        return PayloadInvalid(path_of(steps), reason)
    if missing := _MISSING.match(text):
        return PayloadInvalid(path_of([*steps, missing[1]]), "is required, and missing")
    reason = _reason(text, schema, steps)
    if place is not None and place[1]:
        return PayloadInvalid(path_of([*steps, ANY_KEY]), f"as a key: {reason}")
    return PayloadInvalid(path_of(steps), reason)


def _reason(text: str, schema: Schema, steps: Sequence[Step]) -> str:
    if text.startswith(("Invalid enum value ", "Invalid value ")):
        return f"is not one of {schema.choices(steps)}"
    if text.startswith("Object contains unknown field"):
        return "has a field that the type does not know"
    return lowered(without_count(text))
