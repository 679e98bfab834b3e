"""What the book's statements are in PostgreSQL: written once, in SQLite's words, and translated once each.

Only spellings are translated: how parameters are marked, and the hints that SQLite's planner takes. The one that has it look for
what is not settled is a view in PostgreSQL, which has the fates in a table of their own. Where a statement really differs, both are
written side by side with `differs`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

_TOKEN = re.compile(
    r"""(?P<kept>'(?:[^']|'')*'|"(?:[^"]|"")*"|::)
    |--[^\n]*
    |\bcrossfoot_messages(?P<unsettled>\s+(?:m\s+)?)INDEXED\s+BY\s+crossfoot_messages_unsettled\b
    |(?P<hint>\s+(?:NOT\s+INDEXED|INDEXED\s+BY\s+\w+)\b)
    |(?P<cross>\bCROSS\s+JOIN\b)
    |:(?P<name>[a-z_]\w*)
    |(?P<mark>\?)
    |(?P<percent>%)""",
    re.VERBOSE,
)

_differing: dict[str, str] = {}

Gather = Callable[[Sequence[Sequence[Any]]], tuple[Any, ...]]
_for_all: dict[str, tuple[str, Gather]] = {}


def differs(sqlite: str, *, postgres: str) -> str:
    """A statement that is another one in PostgreSQL, with the same parameters. Returns SQLite's, which stands for both."""
    _differing[sqlite] = postgres
    return sqlite


def also_for_all(each: str, postgres: str, gather: Gather) -> str:
    """A statement of which PostgreSQL has another one that does the same for many rows of parameters at once. Returns `each`.

    Args:
        gather: makes that one's parameters of the rows: columns, as lists.
    """
    _for_all[each] = postgres, gather
    return each


def for_all(each: str, rows: Sequence[Sequence[Any]]) -> tuple[str, tuple[Any, ...]] | None:
    """The statement that does for all rows what `each` does for one, with its parameters; `None` where there is none."""
    statement, gather = _for_all.get(each, (None, None))
    return None if statement is None or gather is None else (statement, gather(rows))


@lru_cache(maxsize=1024)
def translate(statement: str) -> bytes:
    """The statement as psycopg takes it, with `%s` and `%(name)s` for its parameters."""
    return _TOKEN.sub(_translated, _differing.get(statement, statement)).encode()


@lru_cache(maxsize=1024)
def numbered(statement: str) -> str:
    """The statement as asyncpg takes it, with `$1` and so on for its parameters, all of which are marks."""
    numbers = itertools.count(1)

    def spelt(token: re.Match[str]) -> str:
        if token["mark"]:
            return f"${next(numbers)}"
        return token[0] if token["kept"] or token["percent"] else _translated(token)

    return _TOKEN.sub(spelt, _differing.get(statement, statement))


def _translated(token: re.Match[str]) -> str:
    if token["mark"]:
        return "%s"
    if token["name"]:
        return f"%({token['name']})s"
    if token["percent"]:
        return "%%"
    if token["unsettled"]:
        return "crossfoot_unsettled" + token["unsettled"].rstrip()
    if token["cross"]:  # SQLite is told to begin with the left side; PostgreSQL knows, and wants no condition there
        return "JOIN"
    return token["kept"].replace("%", "%%") if token["kept"] else ""
