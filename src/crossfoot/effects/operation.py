"""Operation keys: names for business actions, built from the message by a template.

    operation="bill:{subject}:{sequence}"          fields of the envelope
    operation="charge:{data.order_id}"             fields of the payload

One operation is completed once, whoever asks for it and however often. A message that states its own `operation` is
taken at its word; without template or statement the message itself is the operation, once on each queue.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from crossfoot.errors import PayloadInvalid, UsageError
from crossfoot.message import Message

FIELDS = ("id", "source", "type", "subject", "sequence", "correlationid", "causationid", "partitionkey")

OperationKey = Callable[[Message], str]


def of_itself(message: Message, scope: str) -> str:
    """The operation of a message that nobody named one for."""
    return f"{scope}|{message.key}"


def operation_key(template: str | None, *, handler: str, scope: str = "") -> OperationKey:
    """The function that names a message's operation.

    Args:
        handler: for the errors.
        scope: the queue's name, which makes a message on two queues two operations where no template names them.

    Raises:
        UsageError: the template names a field that messages do not have, or two fields that nothing tells apart.
    """
    if template is None:
        return lambda message: message.operation or of_itself(message, scope or handler)
    parts = _parsed(template, handler)
    if not any(field is not None for _, field in parts):
        raise UsageError(
            f"handler {handler}: operation={template!r} names the same operation for every message; put a field in it, "
            "such as {subject}"
        )
    _check_that_fields_are_apart(parts, template, handler)
    readers = [(literal, _reader(field, template, handler) if field is not None else None) for literal, field in parts]
    several = sum(field is not None for _, field in parts) > 1
    escape = _escape("".join(literal for literal, _ in parts)) if several else str

    def key(message: Message) -> str:
        stated = message.operation
        if stated is not None:
            return stated
        name = ""
        for literal, read in readers:
            name += literal + escape(read(message)) if read else literal
        return name

    return key


def _check_that_fields_are_apart(parts: list[tuple[str, str | None]], template: str, handler: str) -> None:
    before, between = "", ""
    for literal, field in parts:
        between += literal
        if field is None:
            continue
        if before and all(sign.isalnum() for sign in between):
            raise UsageError(
                f"handler {handler}: operation={template!r} has nothing between {{{before}}} and {{{field}}} that could not be part "
                f"of a value, so that two messages may have one key: separate them, as in {{{before}}}:{{{field}}}"
            )
        before, between = field, ""


def _escape(literals: str) -> Callable[[str], str]:
    """Percent-encode in values what the template itself is made of, so that no two pairs of values give one key."""
    table = str.maketrans({sign: f"%{ord(sign):02X}" for sign in {*literals, "%"} if not sign.isalnum()})
    return lambda value: value.translate(table)


def _parsed(template: str, handler: str) -> list[tuple[str, str | None]]:
    """The template's literals, each with the field that follows it."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(
            f"handler {handler}: operation={template!r} cannot be read ({error}): fields are written {{subject}}, and braces "
            "of the key itself are doubled"
        ) from error
    for _, field, form, conversion in parts:
        if form or conversion:
            raise UsageError(
                f"handler {handler}: operation={template!r} formats {{{field}}}, and keys are made of values as they are: "
                f"write {{{field}}} alone"
            )
    return [(literal, field) for literal, field, _, _ in parts]


def _reader(field: str, template: str, handler: str) -> Callable[[Message], str]:
    name, _, path = field.partition(".")
    if name == "data" and path:
        return lambda message: _text(_dig(message.data, path.split(".")), "$." + path, handler)
    if field not in FIELDS:
        near = get_close_matches(field, FIELDS, 1)
        hint = f"did you mean {{{near[0]}}}?" if near else "payload fields are written {data.NAME}"
        raise UsageError(f"handler {handler}: operation={template!r} names {{{field}}}, which no message has: {hint}")

    def read(message: Message) -> str:
        value = getattr(message, field)
        return value if value and type(value) is str else _text(value, field, handler)

    return read


def _dig(data: Any, path: list[str]) -> Any:
    for name in path:
        data = data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)
    return data


def _text(value: Any, path: str, handler: str) -> str:
    if value is None or value == "" or isinstance(value, (dict, list)) or callable(value):
        raise PayloadInvalid(path, f"the operation key of handler {handler} needs it, and it is missing")
    return str(value)
