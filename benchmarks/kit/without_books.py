"""The same worker with its books reduced to the operation key: what remains is the effect, once.

Only for measuring what the books cost. Left out: the received entries and their transaction, the entries *committed*
and *acked*, and all posting. Kept: the operation key, the ack in the effect's transaction, leases and everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from crossfoot.books.record import Record
from crossfoot.books.store import Book, completed, find_or_add_all
from crossfoot.effects import perform
from crossfoot.effects.work import Work
from crossfoot.worker import reconcile, worker
from crossfoot.worker.held import Held
from crossfoot.worker.intake import Intake


@contextmanager
def switched_off() -> Iterator[None]:
    """Within this block no worker of this process writes entries or posts. Fails if those places are gone."""
    with ExitStack() as stack:
        for place, name, instead in (
            (Intake, "_write", _take_without_entries),
            (perform, "write", _write_nothing),
            (worker, "post", _post_nothing),
            (reconcile, "post_all", _post_nothing),
        ):
            stack.enter_context(patch.object(place, name, instead))
        yield


def _take_without_entries(self: Any, helds: Sequence[Held], records: Sequence[Record], now: int) -> None:
    works = [held.work for held in helds if held.work is not None]
    with self._book.reading() as connection:  # the messages were published here, so nothing is added
        for held, known in zip(helds, find_or_add_all(connection, records), strict=True):
            assert held.hold is not None
            held.hold.key = known.key
        done = completed(connection, [work.operation for work in works])
    for work in works:
        work.eager |= work.operation in done


def _write_nothing(works: Sequence[Work]) -> Iterator[Any]:
    return iter(())


def _post_nothing(book: Book) -> int:
    return 0
