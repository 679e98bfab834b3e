"""Payloads validated by pydantic, which is imported only if a type was made with it."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from crossfoot.errors import PayloadInvalid, UsageError
from crossfoot.payload.annotation import name_of
from crossfoot.payload.schema import ANY_KEY, Schema, Step, lowered, path_of, without_count

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# What pydantic's wordings may quote. One that quotes anything else (the value, the text of another error) is not shown.
_EXPECTATIONS = frozenset(
    (
        *("class", "class_name", "expected", "expected_plural", "expected_schemes", "expected_version", "pattern"),
        *("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "actual_length", "field_type"),
        *("max_digits", "decimal_places", "whole_digits", "discriminator"),
    )
)
_WORDED_BY_THE_MODEL = frozenset(("value_error", "assertion_error"))


def made(declared: Any) -> bool:
    """Whether pydantic made the type or one of its arguments, as in `list[Invoice]`. Asked without importing it."""
    return hasattr(declared, "__pydantic_validator__") or any(map(made, typing.get_args(declared)))


def converter(declared: Any) -> Callable[[Any], Any]:
    """What converts data to the type. Raises `UsageError` if nothing can be."""
    from pydantic import PydanticUserError, TypeAdapter, ValidationError

    schema = Schema({})
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(declared)
        schema = Schema(adapter.json_schema())
    except PydanticUserError as error:
        if error.code != "invalid-for-json-schema":  # that one only costs the names in paths
            raise UsageError(f"{name_of(declared)} cannot be a payload's type: {error.message}") from None
    except NameError as error:
        raise UsageError(f"{name_of(declared)} cannot be a payload's type: {error}") from None

    def convert(data: Any) -> Any:
        try:
            return adapter.validate_python(data)
        except ValidationError as error:
            found = error
        # Strict models take dates and the like as texts from JSON only, and JSON is where the data came from.
        try:
            return adapter.validate_json(msgspec.json.encode(data))
        except ValidationError as error:
            found = error
        except (TypeError, ValueError, RecursionError):
            pass  # no JSON: then the first answer stands
        raise _worded(found.errors(include_url=False, include_input=False)[0], data, schema)

    return convert


def _worded(error: ErrorDetails, data: Any, schema: Schema) -> PayloadInvalid:
    from pydantic_core import core_schema

    kind = error["type"]
    steps = list(_steps(error["loc"], data, schema))
    if kind == "missing":
        return PayloadInvalid(path_of(steps), "is required, and missing")
    if kind == "extra_forbidden":
        return PayloadInvalid(path_of(steps[:-1]), "has a field that the type does not know")
    if kind == "enum":
        return PayloadInvalid(path_of(steps), f"is not one of {schema.choices(steps)}")
    is_pydantics = kind in typing.get_args(core_schema.ErrorType) and kind not in _WORDED_BY_THE_MODEL
    if is_pydantics and _EXPECTATIONS.issuperset(error.get("ctx", ())):
        return PayloadInvalid(path_of(steps), lowered(without_count(error["msg"])))
    return PayloadInvalid(path_of(steps), f"is refused by the model ({kind})")


def _steps(location: Sequence[Step], data: Any, schema: Schema) -> Iterator[Step]:
    """The place in the data, without what pydantic's locations add (branches of a union) or reveal (keys)."""
    for step in location:
        if isinstance(data, list):
            if isinstance(step, int) and step < len(data):
                yield step
                data = data[step]
        elif isinstance(data, dict) and (step in data or isinstance(step, int)):
            yield step if step in schema.names else ANY_KEY
            data = data.get(step)
        elif step in schema.names:
            yield step
            data = None
