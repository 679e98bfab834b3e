"""Whether a book can know that nobody takes up what waits in a queue. Pure.

A publisher may have a book of its own, and whoever receives another one: then nothing of what happens to a message comes into the
publisher's, and that it is still *queued* there says nothing. Only who has taken from a queue himself misses what is not taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from crossfoot.books.balance import QueueBalance
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate

WAITS = (Fate.QUEUED, Fate.RETRYING, Fate.STRANDED)


def taken_here(queue: QueueBalance, *, local: bool = False) -> bool:
    """Whether what becomes of this queue's messages comes into this book: its workers have received from it, or it lies in its own file.

    Args:
        local: whether it does, by other evidence than its own counts.
    """
    return local or queue.queue is not None or bool(queue.boundaries.get(Kind.RECEIVED.label))


def untaken(queue: QueueBalance, *, here: bool, held: int | None) -> bool | None:
    """Whether what has waited there for too long is still there, and may be called stranded; `None` where nobody can know that from here.

    Args:
        here: as of `taken_here`.
        held: how many messages the queue holds, as it was asked; `None` where it was not. One that holds as many as this book ever sent
            there has not been taken from, and an empty one keeps nobody waiting. What lies between, others may have sent.
    """
    if here:
        return True
    if held is None:
        return None
    if held == 0:
        return False
    return True if held >= sum(queue.fates.get(fate.label, 0) for fate in WAITS) else None


def from_afar(queues: Mapping[str, QueueBalance]) -> Iterator[str]:
    """What is to be said of messages that are called stranded in a queue from which this book never received, queue by queue."""
    for name, queue in queues.items():
        if (count := queue.fates.get(Fate.STRANDED.label, 0)) and not taken_here(queue):
            yield (
                f"queue {name}: this book never received from it, so the {count:,} that it calls stranded were not taken up, or went into "
                "the book of those who do receive: `crossfoot check` asks the queue"
            )
