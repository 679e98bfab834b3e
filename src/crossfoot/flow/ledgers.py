"""The books of requests: whatever arrives ends in exactly one fate, and the fates sum to the arrivals. Beside them, work that was for
nothing, by cause.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from crossfoot.flow.fates import Fate

Kind = Literal["request", "branch", "call"]

OTHERS = "(others)"
"""The account of names beyond those a ledger keeps apart."""


class Waste(StrEnum):
    """Why work was for nothing."""

    EXPIRED = "its deadline passed"
    REQUIRED = "a required branch failed"
    LEFT = "its caller left"
    THREAD = "its caller left, and a thread cannot be stopped"
    RETRIED = "it failed, and was tried again"


@dataclass(frozen=True, slots=True)
class Account:
    """What became of everything of one name, at one moment.

    Attributes:
        under_way: arrived, and not ended.
    """

    kind: Kind
    name: str
    arrivals: int
    under_way: int
    fates: dict[Fate, int]

    @property
    def balances(self) -> bool:
        """Whether arrivals are the sum of fates and of what is under way."""
        return self.arrivals == self.under_way + sum(self.fates.values())


@dataclass(slots=True)
class _Open:
    arrivals: int = 0
    under_way: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)


class Ledger:
    """Counts arrivals and fates by name; may be used in any thread.

    Args:
        most: names that are kept apart; what comes under a further one is counted under `OTHERS`.
    """

    def __init__(self, *, most: int = 1000) -> None:
        self._most = most
        self._accounts: dict[tuple[Kind, str], _Open] = {}
        self._wasted: dict[Waste, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def arrive(self, kind: Kind, name: str) -> Arrival:
        """Something begins, or asks to."""
        with self._lock:
            account = self._accounts.get((kind, name))
            if account is None:
                if len(self._accounts) >= self._most:
                    name = OTHERS
                account = self._accounts.setdefault((kind, name), _Open())
            account.arrivals += 1
            account.under_way += 1
        return Arrival(self, account)

    def waste(self, cause: Waste, seconds: float) -> None:
        """Work was for nothing."""
        with self._lock:
            count, total = self._wasted.get(cause, (0, 0.0))
            self._wasted[cause] = count + 1, total + seconds

    @property
    def accounts(self) -> list[Account]:
        """Every name's account, as of one moment."""
        with self._lock:
            return [
                Account(kind, name, one.arrivals, one.under_way, dict(one.fates))
                for (kind, name), one in self._accounts.items()
            ]

    @property
    def wasted(self) -> dict[Waste, tuple[int, float]]:
        """How often, and how many seconds in all, by cause."""
        with self._lock:
            return dict(self._wasted)


class Arrival:
    """Something that has arrived, and ends once."""

    __slots__ = ("_account", "_ledger", "fate")

    def __init__(self, ledger: Ledger, account: _Open) -> None:
        self._ledger = ledger
        self._account = account
        self.fate: Fate | None = None

    def end(self, fate: Fate) -> bool:
        """It ended so. Whether this is its fate: the first one is, and no later one changes it."""
        with self._ledger._lock:
            if self.fate is not None:
                return False
            self.fate = fate
            self._account.under_way -= 1
            self._account.fates[fate] += 1
            return True


LEDGER = Ledger()
"""The ledger of those who name none."""
