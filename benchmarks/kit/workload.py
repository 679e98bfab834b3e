"""The job that every variant does: take each message once and insert one row for it.

The database is a file on disk with synchronous=FULL. All messages are there before the clock starts; afterwards there
must be exactly one row per message, and nothing left in the queue.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.kit.load import Meter

SERVICE = "billing"
TYPE = "case.released"

EFFECT_TABLE = "CREATE TABLE invoices (case_id TEXT, amount INTEGER)"
EFFECT = "INSERT INTO invoices (case_id, amount) VALUES (?, ?)"


def subject(number: int) -> str:
    return f"case-{number:07d}"


def create_effect_table(path: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(EFFECT_TABLE)
    connection.commit()
    connection.close()


def check_effects(path: str, messages: int) -> str:
    """`ok`, or what is wrong with the effects."""
    connection = sqlite3.connect(path)
    try:
        rows, cases = connection.execute("SELECT count(*), count(DISTINCT case_id) FROM invoices").fetchone()
    finally:
        connection.close()
    return "ok" if rows == cases == messages else f"{rows} effects of {cases} cases for {messages} messages"


@dataclass(frozen=True)
class Variant:
    """One way to do the job.

    Attributes:
        mode: what it may be compared with: `plain` (one transaction a message), `batch` (one per hundred), `peer`.
        guarantee: what a killed worker means for the effects, in a few words.
        run: does the job with so many messages in that folder; the `Meter` is to run while messages are worked only.
            Returns `ok`, or what was wrong.
        share: of the messages asked for, where fewer do for a slow variant.
    """

    name: str
    mode: str
    guarantee: str
    run: Callable[[str, int, Meter], str]
    share: float = 1.0


def by_name(variants: Sequence[Variant]) -> dict[str, Variant]:
    return {variant.name: variant for variant in variants}


Json = dict[str, Any]
