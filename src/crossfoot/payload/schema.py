"""Places in a payload, and what a declared type knows of them, read from its JSON schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

Step = str | int
"""A field's name, an index, or `ANY_KEY`."""
ANY_KEY = "..."
"""Any key of a dictionary: keys are the payload's own, and not shown."""

_INDEX = re.compile(r"\[\d+\]")
_COUNT = re.compile(r", (?:got|not) \d+$")


def schema_path(path: str) -> str:
    """A path without its indexes: `$.items[3].price` is `$.items[].price` for every item."""
    return _INDEX.sub("[]", path)


class Schema:
    """The JSON schema of a declared type: the names it knows, and what it expects at a place."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._root = schema
        self._definitions: dict[str, Any] = schema.get("$defs", {})
        self.names = frozenset(_names(schema))

    def knows(self, steps: Sequence[Step]) -> bool:
        return all(isinstance(step, int) or step == ANY_KEY or step in self.names for step in steps)

    def choices(self, steps: Sequence[Step]) -> str:
        """What may stand at a place of an enumeration."""
        enums = [node for node in self._at(self._root, steps) if "enum" in node]
        if titles := sorted({node["title"] for node in enums if "title" in node}):
            return f"the values of {' or '.join(titles)}"
        return ", ".join(repr(value) for node in enums for value in node["enum"]) or "the values its type allows"

    def _at(self, node: dict[str, Any], steps: Sequence[Step]) -> Iterator[dict[str, Any]]:
        if "$ref" in node:
            node = self._definitions[node["$ref"].rpartition("/")[2]]
        if "anyOf" in node:
            for branch in node["anyOf"]:
                yield from self._at(branch, steps)
            return
        if not steps:
            yield node
            return
        step, *rest = steps
        if isinstance(step, int):
            fixed = node.get("prefixItems", ())
            below = fixed[step] if step < len(fixed) else node.get("items")
        else:
            below = node.get("additionalProperties") if step == ANY_KEY else node.get("properties", {}).get(step)
        if isinstance(below, dict):
            yield from self._at(below, rest)


def _names(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(properties := schema.get("properties"), dict):
            yield from properties
        for node in schema.values():
            yield from _names(node)
    elif isinstance(schema, list):
        for node in schema:
            yield from _names(node)


def path_of(steps: Sequence[Step]) -> str:
    """As `$.items[3].price`."""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) or step == ANY_KEY else f".{step}" for step in steps)


def without_count(text: str) -> str:
    """A wording without how many there were: that is one payload's, while the fault is that of many."""
    return _COUNT.sub("", text)


def lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
