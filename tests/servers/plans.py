"""The plan of a statement that was prepared long ago, whatever its parameters are; as executed, and undone."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

_numbers = itertools.count(1)

Plan = dict[str, Any]


def generic_plan(
    connection: psycopg.Connection[Any], statement: bytes, parameters: Any, mode: str = "force_generic_plan"
) -> Plan:
    """By PREPARE and EXECUTE: where an EXPLAIN has parameters itself, the plan is one for their values, whatever the mode.

    Args:
        connection: with autocommit.
        statement: with psycopg's parameters.
    """
    text, values = _prepared(statement.decode(), parameters)
    name = sql.Identifier(f"plan_{next(_numbers)}")
    with connection.transaction(force_rollback=True):
        connection.execute(f"SET LOCAL plan_cache_mode = {mode}".encode())
        connection.execute(sql.SQL("PREPARE {} AS ").format(name) + sql.SQL(text))
        arguments = sql.SQL(", ").join(map(sql.Literal, values))
        execute = sql.SQL("EXECUTE {}({})").format(name, arguments) if values else sql.SQL("EXECUTE {}").format(name)
        explain = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ")
        row = connection.execute(explain + execute).fetchone()
        connection.execute(sql.SQL("DEALLOCATE {}").format(name))
    assert row is not None
    plan: Plan = (json.loads(row[0]) if isinstance(row[0], str) else row[0])[0]["Plan"]
    return plan


def _prepared(text: str, parameters: Any) -> tuple[str, list[Any]]:
    """With `$1` and so on, and the values in that order."""
    names: dict[str, int] = {}
    marks = itertools.count(1)

    def numbered(found: re.Match[str]) -> str:
        if found["percent"]:
            return "%"
        if found["name"]:
            return f"${names.setdefault(found['name'], len(names) + 1)}"
        return f"${next(marks)}"

    result = re.sub(r"%(?:(?P<percent>%)|\((?P<name>\w+)\)s|s)", numbered, text)
    if isinstance(parameters, Mapping):
        return result, [parameters[name] for name in names]
    assert isinstance(parameters, Sequence)
    return result, list(parameters)


def nodes(plan: Plan) -> Iterator[Plan]:
    """The plan's nodes, the outermost first."""
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def read_as_a_whole(plan: Plan) -> set[str]:
    """Tables that are read from their beginning to their end."""
    return {node["Relation Name"] for node in nodes(plan) if "Seq Scan" in node["Node Type"]}


def rows_read(plan: Plan, aside: Collection[str] = ()) -> int:
    """Rows, or entries of indexes, that were looked at, in tables that are not `aside`."""
    thrown_away = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    return sum(
        round(node["Actual Loops"] * (node["Actual Rows"] + sum(node.get(what, 0) for what in thrown_away)))
        for node in nodes(plan)
        if "Scan" in node["Node Type"] and node.get("Relation Name", aside) not in (aside, *aside)
    )


def rows_sorted(plan: Plan) -> int:
    """Rows that went into the largest sort."""
    sorts = (inner for node in nodes(plan) if "Sort" in node["Node Type"] for inner in node["Plans"])
    return max((round(inner["Actual Rows"] * inner["Actual Loops"]) for inner in sorts), default=0)
