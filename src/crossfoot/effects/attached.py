"""The queues of a service, as its book notes them."""

from __future__ import annotations

from collections.abc import Iterable

from crossfoot.books.store import Book
from crossfoot.books.whereabouts import BESIDE, note
from crossfoot.queues.queue import LocalQueue, Queue, system_of


def note_queues(book: Book, queues: Iterable[Queue]) -> None:
    """Have the book note where the service's queues lie. Looks at the disk, or asks the database."""
    note(book, {queue.name: _place_of(queue, book.path) for queue in queues})


def _place_of(queue: Queue, path: str) -> str:
    return BESIDE if isinstance(queue, LocalQueue) and queue.is_in(path) else system_of(queue)
