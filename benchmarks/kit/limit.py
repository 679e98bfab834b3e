"""The limit: the same job on the same tables, written by hand as one loop in one thread.

It does what keeps the effect once and the books full: claims messages in groups and writes that they were received
(one transaction per group), then per message the operation key, the effect, the entries *committed* and *acked*, and
the removal from the queue, in one transaction per message (plain) or per hundred (batch); at the end the fates and
tallies are posted by the package's own statements, inside the measured time, as they are for the worker.

It does not: call a handler, check an envelope or a payload, ask for proof, keep a savepoint per message (one bad
message would undo its ninety-nine neighbours), retry, give up, write down failures, hold or extend leases, watch
deadlines, answer a stop, drain an outbox, notice messages that expired or vanished, or let a second worker take part.
A program that did only this could not be left alone; it is here as what a careful hand gets out of these tables.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import msgspec

from benchmarks.kit.workload import EFFECT

CLAIM = """
UPDATE crossfoot_queue SET attempts = attempts + 1, token = ?, visible_at = ?, changed_at = ?
WHERE key IN (
  SELECT key FROM crossfoot_queue INDEXED BY crossfoot_queue_claim
  WHERE queue = ? AND state = 0 AND visible_at <= ? ORDER BY visible_at, key LIMIT ?)
RETURNING key, attempts, body
"""
FIND = "SELECT key FROM crossfoot_messages WHERE id = ? AND source = ? AND queue = ?"
# Only the columns that are not empty: to bind a None costs Python's sqlite3 more than any other value.
RECEIVE = """
INSERT INTO crossfoot_entries (message, kind, attempt, delivery, at, due, worker) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
COMMIT = """
INSERT INTO crossfoot_entries (message, kind, attempt, delivery, at, worker, details) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
ACK = "INSERT INTO crossfoot_entries (message, kind, attempt, delivery, at, worker) VALUES (?, ?, ?, ?, ?, ?)"
COMMIT_AND_ACK = COMMIT + ", (?, ?, ?, ?, ?, ?, NULL)"
OPERATION = (
    "INSERT INTO crossfoot_operations (key, message, kind, at) VALUES (?, ?, 23, ?) ON CONFLICT (key) DO NOTHING"
)
REMOVE = "DELETE FROM crossfoot_queue WHERE key = ? AND token = ?"

RECEIVED, ACKED, COMMITTED = 6, 12, 23
TOKEN = "by-hand-------------"  # noqa: S105 - a lease token of the queue, not a secret
LEASE = 30_000_000
PROOF = '{"rows":1}'

Taken = tuple[int, int, int, int, dict[str, Any]]
"""Queue key, message key, attempt, delivery, event."""


def work(path: str, queue: str, *, batch: int, group: int = 100) -> int:
    """Empty the queue. Returns the number of messages worked."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    decode = msgspec.json.Decoder().decode
    apply = _together if batch > 1 else _one_by_one
    done = 0
    while taken := _claim(connection, queue, max(batch, group), done, decode):
        for first in range(0, len(taken), max(batch, group)):
            apply(connection, taken[first : first + max(batch, group)])
        done += len(taken)
    connection.close()
    return done


def _claim(connection: sqlite3.Connection, queue: str, limit: int, done: int, decode: Any) -> list[Taken]:
    execute = connection.execute
    execute("BEGIN IMMEDIATE")
    now = _now()
    rows = execute(CLAIM, (TOKEN, now + LEASE, now, queue, now, limit)).fetchall()
    rows.sort()
    taken, received = [], []
    for delivery, (key, attempt, body) in enumerate(rows, done):
        event = decode(body)
        message = execute(FIND, (event["id"], event["source"], queue)).fetchone()[0]
        received.append((message, RECEIVED, attempt, delivery, now, now + LEASE, 1))
        taken.append((key, message, attempt, delivery, event))
    connection.executemany(RECEIVE, received)
    execute("COMMIT")
    return taken


def _one_by_one(connection: sqlite3.Connection, taken: list[Taken]) -> None:
    execute = connection.execute
    for key, message, attempt, delivery, event in taken:
        execute("BEGIN IMMEDIATE")
        now = _now()
        if execute(OPERATION, (f"bill:{event['subject']}", message, now)).rowcount:
            execute(EFFECT, (event["subject"], event["data"]["amount"]))
            execute(COMMIT_AND_ACK, (
                message, COMMITTED, attempt, delivery, now, 1, PROOF, message, ACKED, attempt, delivery, now, 1,
            ))  # fmt: skip
        if not execute(REMOVE, (key, TOKEN)).rowcount:
            raise RuntimeError(f"message {message} was taken by somebody else")
        execute("COMMIT")


def _together(connection: sqlite3.Connection, taken: list[Taken]) -> None:
    execute = connection.execute
    execute("BEGIN IMMEDIATE")
    now = _now()
    committed, acked = [], []
    for _, message, attempt, delivery, event in taken:
        if execute(OPERATION, (f"bill:{event['subject']}", message, now)).rowcount:
            execute(EFFECT, (event["subject"], event["data"]["amount"]))
            committed.append((message, COMMITTED, attempt, delivery, now, 1, PROOF))
            acked.append((message, ACKED, attempt, delivery, now, 1))
    connection.executemany(COMMIT, committed)
    connection.executemany(ACK, acked)
    removed = connection.executemany(REMOVE, [(key, TOKEN) for key, *_ in taken]).rowcount
    if removed != len(taken):
        raise RuntimeError(f"{len(taken) - removed} messages were taken by somebody else")
    execute("COMMIT")


def _now() -> int:
    return time.time_ns() // 1_000
