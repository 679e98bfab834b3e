"""Publishing to a queue in the same database: the message, its entry and the queue's row in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from crossfoot.books.entry import Entry, Kind
from crossfoot.books.identity import find_or_publish
from crossfoot.books.record import Record
from crossfoot.books.store import Book, write_entries
from crossfoot.connection import Connection
from crossfoot.effects.outbox import BASE_ATTRIBUTE
from crossfoot.errors import IdentityTaken, MessageTooLarge, UsageError
from crossfoot.queues.queue import Accepted, LocalQueue, Outgoing, PublishAnswer, Refused


def _from(base: int, outgoing: Outgoing) -> Outgoing:
    """The same, which goes on counting its deliveries from where they were."""
    return (
        msgspec.structs.replace(outgoing, attributes={**outgoing.attributes, BASE_ATTRIBUTE: str(base)})
        if base
        else outgoing
    )


def publish_locally(book: Book, queue: LocalQueue, pairs: Sequence[tuple[Record, Outgoing]]) -> list[PublishAnswer]:
    """Publish what the queue can take; book what it cannot as refused."""
    now = book.clock.now()

    def publish(connection: Connection) -> list[PublishAnswer]:
        answers: list[PublishAnswer] = []
        entries = []
        to_queue: dict[str, list[Sequence[Any]]] = {}
        found = find_or_publish(connection, [record for record, _ in pairs])
        for (_, outgoing), place in zip(pairs, found, strict=True):
            if isinstance(place, IdentityTaken):
                answers.append(Refused(outgoing.key, str(place), permanent=True))
                continue
            key, base = place
            try:
                for statement, parameters in queue.publish_statements([_from(base, outgoing)], now):
                    to_queue.setdefault(statement, []).append(parameters)
            except (MessageTooLarge, UsageError) as error:
                answers.append(Refused(outgoing.key, str(error), permanent=True))
                details = msgspec.json.encode({"reason": str(error)}).decode()
                entries.append(Entry(message=key, kind=Kind.REFUSED, at=now, details=details))
            else:
                answers.append(Accepted(outgoing.key))
                entries.append(Entry(message=key, kind=Kind.PUBLISHED, at=now, attempt=base, due=now))
        for statement, rows in to_queue.items():
            connection.executemany(statement, rows)
        write_entries(connection, entries)
        return answers

    answers = book.write(publish)
    queue.wake()
    return answers
