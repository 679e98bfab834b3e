"""Which type a handler declares for its payload, by the annotation of its first parameter."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from crossfoot.errors import UsageError


def payload_type_of(handler: Callable[..., Any], *, many: bool = False) -> Any:
    """The `Invoice` of a handler `def bill(message: Message[Invoice], tx)`; `None` if it declares none.

    Args:
        handler: the function.
        many: whether it takes a list of messages, as in `def bill(messages: list[Message[Invoice]], tx)`.

    Raises:
        UsageError: the annotation cannot be resolved, or names the payload instead of the message, or one message instead of a
            list.
    """
    name, annotation = _first_annotation(handler)
    if isinstance(annotation, str):
        annotation = _resolved(handler, name, annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if many:
        annotation = _one_of(handler, name, annotation)
    elif (typing.get_origin(annotation) or annotation) in LISTS:
        raise UsageError(
            f"handler {name_of(handler)} declares `{name}: {name_of(annotation)}`, but is handed one message: write `Message`, "
            "or register it with many=True"
        )
    if _is_envelope(typing.get_origin(annotation)):
        (declared,) = typing.get_args(annotation)
        return None if declared is Any or isinstance(declared, typing.TypeVar) else declared
    bare = typing.get_origin(annotation) or annotation
    if (_has_fields(annotation) or bare in PLAIN) and not _is_envelope(annotation):
        handed, wanted = ("messages", "list[Message[{}]]") if many else ("the message", "Message[{}]")
        raise UsageError(
            f"handler {name_of(handler)} declares `{name}: {name_of(annotation)}`, but is handed {handed}, "
            f"of which that is the data: write `{name}: {wanted.format(name_of(annotation))}`"
        )
    return None


LISTS = (list, Sequence, Collection, Iterable)
PLAIN = (dict, Mapping, str, bytes, int, float, bool, tuple, set)
"""Types that payloads are of, and messages are not."""


def _one_of(handler: Callable[..., Any], name: str, annotation: Any) -> Any:
    """What a list's annotation says of one of it; `None` if it says nothing.

    Raises:
        UsageError: the annotation is of something else.
    """
    if annotation in (None, Any, *LISTS):
        return None
    if typing.get_origin(annotation) not in LISTS:
        raise UsageError(
            f"handler {name_of(handler)} declares `{name}: {name_of(annotation)}`, but is handed a list: write `list[Message]`"
        )
    one = next(iter(typing.get_args(annotation)), None)
    return typing.get_args(one)[0] if typing.get_origin(one) is typing.Annotated else one


def _first_annotation(handler: Callable[..., Any]) -> tuple[str, Any]:
    for parameter in inspect.signature(handler).parameters.values():
        return parameter.name, None if parameter.annotation is parameter.empty else parameter.annotation
    return "", None


def _resolved(handler: Callable[..., Any], name: str, annotation: str) -> Any:
    """The type that the annotation's text names where the handler was written.

    Of this one parameter only: the others' may well name what is imported for type checkers alone.
    """
    function = _function(handler)
    nonlocals = _closed_over(function) if inspect.isfunction(function) else {}
    written = SimpleNamespace(__annotations__={name: annotation})
    try:
        hints = typing.get_type_hints(written, getattr(function, "__globals__", {}), {**nonlocals}, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        if "[" not in annotation:
            return None  # whatever it is, it declares no payload
        raise UsageError(
            f"handler {name_of(handler)} declares `{name}: {annotation}`, which cannot be resolved ({error}): "
            "define or import the type at the top of the module, or name it with payload=..."
        ) from None
    return hints[name]


def _function(handler: Any) -> Any:
    """The function in which a handler's annotations were written."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = inspect.unwrap(handler)
    if not inspect.isroutine(handler):
        handler = type(handler).__call__
    return getattr(handler, "__func__", handler)


def _is_envelope(cls: Any) -> bool:
    # By its fields: this room does not import the one beside it.
    return {"source", "id", "data"} <= set(getattr(cls, "__struct_fields__", ()))


def _has_fields(cls: Any) -> bool:
    kinds = ("__struct_fields__", "__dataclass_fields__", "__pydantic_fields__", "__required_keys__")
    return isinstance(cls, type) and any(hasattr(cls, kind) for kind in kinds)


def name_of(thing: Any) -> str:
    """How an error calls a type or a handler."""
    return repr(thing) if typing.get_origin(thing) else getattr(thing, "__qualname__", repr(thing))


def _closed_over(function: Any) -> dict[str, Any]:
    """The names of the functions around it that it uses; one that is defined further down has no value yet."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):
            found[name] = cell.cell_contents
    return found
