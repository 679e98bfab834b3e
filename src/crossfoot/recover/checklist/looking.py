"""What the checklist looks up of single messages, the newest of those that may matter: what they carried, their ways, their lines."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from crossfoot.books import queries
from crossfoot.books.failures import Standing
from crossfoot.books.lately import Done
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection
from crossfoot.errors import EnvelopeInvalid
from crossfoot.message import Message, decode
from crossfoot.message.priority import priority_of
from crossfoot.recover.checklist.overtaken import Overtaken, Trail, trail

TRIED = 3
"""Failed deliveries after which a message is said to fail again and again, and to hold up those behind it: one or two are what retries
are for."""


HOUR = 3_600 * SECOND


def alike(done: Sequence[Done]) -> list[list[Done]]:
    """Messages that may ask for the same business action under several ids: of one type and subject, each an operation of its own or
    one that is named after the message, within an hour of each other."""
    groups: dict[tuple[str, str, str], list[Done]] = {}
    for one in done:
        if one.subject and (one.of_itself or one.id in one.operation):
            groups.setdefault((one.queue, one.type, one.subject), []).append(one)
    near = [_near(group) for group in groups.values() if len(group) > 1]
    return [group for group in near if len(group) > 1]


def _near(group: list[Done]) -> list[Done]:
    """Those that have another one within an hour."""
    times = sorted(one.at for one in group)

    def has_another(at: Micros) -> bool:
        place = bisect_left(times, at)
        others = times[max(place - 1, 0) : place + 2]
        return sum(abs(at - other) <= HOUR for other in others) > 1

    return [one for one in group if has_another(one.at)]


MOST_COMPARED = 2_000
"""Payloads that are compared with each other."""


def compared(connection: Connection, groups: list[list[Done]]) -> dict[int, bytes]:
    """A digest of what those carried: by key; not of those whose payload the book does not keep."""
    found: dict[int, bytes] = {}
    for one in [one for group in groups for one in group][-MOST_COMPARED:]:
        message, _ = _message(connection, one.key)
        if message is None:
            continue
        carried = msgspec.json.encode((message.data, message.sequence), enc_hook=str, order="sorted")
        found[one.key] = blake2b(carried, digest_size=16).digest()
    return found


MOST_FOLLOWED = 600
"""Messages whose way is looked at, of those that took effect after later ones or before earlier ones."""


def trails(connection: Connection, behind: list[Overtaken]) -> dict[int, Trail]:
    """The ways of events that took effect after later ones, and of these, by key: of the newest."""
    keys = dict.fromkeys(one.key for pair in reversed(behind) for one in (pair.event, *pair.by))
    found: dict[int, Trail] = {}
    for key in list(keys)[:MOST_FOLLOWED]:
        message, body = _message(connection, key)
        found[key] = trail(
            queries.entries_of(connection, key),
            causes=_causes(connection, key),
            priority=priority_of(body) if body is not None else 0,
            predecessor=message.predecessor if message is not None else None,
        )
    return found


DEEPEST = 5
"""Causes of a message that are followed, one before the other."""


def _causes(connection: Connection, key: int) -> list[int]:
    """The first entry of each message that caused it, the first cause first, as far as this book knows them."""
    row = queries.rows_of(connection, [key]).get(key)
    found: list[int] = []
    while row is not None and row.causation and len(found) < DEEPEST:
        row = next(iter(queries.named(connection, "message id", row.causation, 1)), None)
        entries = queries.entries_of(connection, row.key) if row is not None else []
        if not entries:
            break
        found.insert(0, entries[0].number)
    return found


MOST_FAILING = 200
"""Messages that fail again and again of which it is asked whether they have a partition key."""

MOST_IN_LINE = 1_000
"""Messages of which it is asked whether they stand behind one that fails, by a partition key."""


def partitions(connection: Connection, waiting: Sequence[Standing]) -> dict[int, str]:
    """Nothing of most books: partition keys are seldom, and matter where one of them fails again and again."""
    found: dict[int, str] = {}
    failing = [one for one in waiting if one.failed is not None and one.attempts >= TRIED][:MOST_FAILING]
    for one in failing:
        message, _ = _message(connection, one.key)
        if message is not None and message.partitionkey:
            found[one.key] = message.partitionkey
    first = {one.queue: one.key for one in reversed(failing) if one.key in found}
    behind = [one for one in waiting if one.key > first.get(one.queue, one.key) and one.key not in found]
    for one in behind[:MOST_IN_LINE]:
        message, _ = _message(connection, one.key)
        if message is not None and message.partitionkey:
            found[one.key] = message.partitionkey
    return found


def _message(connection: Connection, key: int) -> tuple[Message[Any] | None, bytes | None]:
    """What the book keeps of it: `None` for the message where it keeps nothing, or the program has it stored in another form."""
    body = queries.body_of(connection, key)
    try:
        return (decode(body) if body is not None else None), body
    except EnvelopeInvalid:
        return None, body
