"""Typed payloads: `message.data` as the type a handler declared, and what to say when it does not fit.

    annotation.py    which type a handler declares
    by_msgspec.py    msgspec's structs, dataclasses, typed dictionaries, plain types
    by_pydantic.py   what is built on pydantic
    schema.py        places in a payload, and the names a type knows

Payloads are secrets: an error says where the fault is and what was expected there. It repeats nothing that stands in
the payload alone, neither values nor the keys of dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crossfoot.payload import by_msgspec, by_pydantic
from crossfoot.payload.annotation import name_of, payload_type_of
from crossfoot.payload.schema import schema_path

__all__ = ["Payload", "payload_type_of", "schema_path"]


class Payload:
    """Converts payloads to one declared type; made once per handler.

    Args:
        declared: the type; `None` and `Any` leave the data as it is.

    Raises:
        UsageError: nothing can be converted to that type.
    """

    def __init__(self, declared: Any = None) -> None:
        self.declared = declared
        self._convert: Callable[[Any], Any] | None = None
        if declared is not None and declared is not Any:
            made_by = by_pydantic if by_pydantic.made(declared) else by_msgspec
            self._convert = made_by.converter(declared)

    def convert(self, data: Any) -> Any:
        """The data as the declared type.

        Raises:
            PayloadInvalid: it does not fit. What the type's own checks raise, other than ValueError and TypeError,
                passes through.
        """
        return data if self._convert is None else self._convert(data)

    def __repr__(self) -> str:
        return f"Payload({name_of(self.declared)})"
