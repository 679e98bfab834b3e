"""Statements about a group of messages, which are named by one parameter: a JSON list of their keys."""

from __future__ import annotations

import json
from collections.abc import Iterable

from crossfoot.dialect import differs


def grouped(statement: str, *, postgres: str | None = None) -> str:
    """A statement with `IN {keys}` for the group, and `{messages}` for messages without what is posted of them.

    Args:
        postgres: the same in PostgreSQL's words, where these are others.
    """
    sqlite = statement.replace("{keys}", "(SELECT value FROM json_each(:keys))").replace(
        "{messages}", "crossfoot_messages"
    )
    # An array is looked up by index; of a set of rows PostgreSQL guesses a hundred, and joins thousands one by one.
    replaced = (
        (postgres or statement)
        .replace(
            "IN {keys}", "= ANY(ARRAY(SELECT v::bigint FROM jsonb_array_elements_text(CAST(:keys AS jsonb)) AS v))"
        )
        .replace("{messages}", "crossfoot_records")
    )
    return differs(sqlite, postgres=replaced)


def keys_text(keys: Iterable[int]) -> str:
    """Keys as such a statement takes them."""
    return json.dumps(list(keys))
