"""How a service's expectations and invariants stand, in one document."""

from __future__ import annotations

import msgspec

from crossfoot.books.fate import Fate
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.outcomes.evaluating import Report, reports
from crossfoot.outcomes.invariant import Statement, statements


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """All of them, at one moment."""

    as_of: Micros
    expectations: tuple[Report, ...]
    invariants: tuple[Statement, ...]

    @property
    def breached(self) -> list[str]:
        """Names of those that are not kept, or of which it cannot be told."""
        broken = [one.name for one in self.invariants if one.result is not None and one.result.holds is not True]
        return [one.name for one in self.expectations if one.breached] + broken

    @property
    def kept(self) -> bool:
        return not self.breached


def summarize(connection: Connection, now: Micros, *, limit: int = 100, fate: Fate | None = None) -> Summary:
    """As of the last evaluation and the last check, in one snapshot.

    Args:
        connection: on the book, in no transaction.
        limit: messages that are named of each kind.
        fate: only messages of this one are named.
    """
    with connection.snapshot():
        return Summary(
            as_of=now, expectations=tuple(reports(connection, now, limit=limit, fate=fate)), invariants=tuple(statements(connection))
        )  # fmt: skip
