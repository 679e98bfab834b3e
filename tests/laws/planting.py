"""How bugs are planted: each is a change of running code, undone when the test that looked for it is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis.strategies import SearchStrategy

from crossfoot.books import posting
from crossfoot.books.fate import Fate

Plant = Callable[[pytest.MonkeyPatch], None]


class SeededBug(NamedTuple):
    """A bug, how it is planted, and the law whose test must find it."""

    says: str
    plant: Plant
    law: Callable[..., None]
    strategy: SearchStrategy[Any]


def caught_by(
    law: Callable[..., None], strategy: SearchStrategy[Any], *bugs: tuple[str, Plant]
) -> tuple[SeededBug, ...]:
    """Bugs that one law's test must find among examples of its strategy."""
    return tuple(SeededBug(says, plant, law, strategy) for says, plant in bugs)


def replaced(owner: object, name: str, value: object) -> Plant:
    """Put something else in the place of a function or constant."""
    return lambda patch: patch.setattr(owner, name, value)


def sql(name: str, *changes: tuple[str, str]) -> Plant:
    """Change the text of one of posting's statements."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        text: str = getattr(posting, name)
        for old, new in changes:
            assert old in text, f"{name} has no {old!r} any more: write this seeded bug anew"
            text = text.replace(old, new)
        patch.setattr(posting, name, text)

    return plant


def means(table: dict[Any, Fate], key: object, value: Fate) -> Plant:
    """Change what a fact, or an overdue fate, means."""
    return lambda patch: patch.setitem(table, key, value)
