"""Queues by their names, which is how books and handlers tell them apart."""

from __future__ import annotations

from collections.abc import Iterable

from crossfoot.errors import UsageError
from crossfoot.queues.queue import Queue


def by_name(queue: Queue, others: Iterable[Queue]) -> dict[str, Queue]:
    """A service's own queue and those it sends to.

    Raises:
        UsageError: two have one name, wherever each may be: what is meant for one would go to the other, and count as its own.
    """
    found = {queue.name: queue}
    for one in others:
        if one.name in found:
            raise UsageError(
                f"two queues of this service are called {one.name!r}: its book and its handlers tell queues apart by their names, so "
                "give one of them another name"
            )
        found[one.name] = one
    return found
