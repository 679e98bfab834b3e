"""Arbitrary histories: what could ever stand in a book, whether or not a sane system would write it.

Values come from short tables on purpose: laws break where two entries collide (the same attempt, the same due time, the
same kind twice), and a wide range would never make them meet. A history is drawn as bytes and a rearrangement as a
seed, because thousands of histories are worth more than the prettiest of shrunk ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from msgspec.structs import replace

from crossfoot.books.entry import PROOFS, Entry, Kind
from crossfoot.clock import SECOND, Micros

T = TypeVar("T")

NOON: Micros = 1_700_000_000 * SECOND
EVERY_KIND = tuple(Kind)
UNPROVEN = tuple(kind for kind in Kind if kind not in PROOFS)

ATTEMPTS = (0, 1, 2, 3, 1, 2, 17, 100_000)
DUES = (None, NOON, NOON + 1, NOON + 2, None, 1, NOON + 3600 * SECOND, 2**51)
MOMENTS = (NOON, NOON + 1, NOON - 1, NOON + 3600 * SECOND, 0, NOON - 86_400 * SECOND, 2**51)
BYTES = 3
"""What an entry is decoded from."""
MOST = 12
"""Entries of one history: what three of them cannot break, thirty hardly will."""

moments = st.one_of(st.sampled_from(MOMENTS), st.integers(0, 2**51))
seeds = st.integers(0, 2**32)


def entries(kinds: Sequence[Kind] = EVERY_KIND, *, messages: int = 1) -> SearchStrategy[Entry]:
    """One entry about one of so many messages, of any kind, attempt, delivery, time and due."""
    return st.binary(min_size=BYTES, max_size=BYTES).map(lambda code: _entry(code, kinds, messages))


def histories(
    kinds: Sequence[Kind] = EVERY_KIND, *, messages: int = 1, min_size: int = 0, max_size: int = MOST
) -> SearchStrategy[list[Entry]]:
    """Entries, in the order in which they were written; about one message, unless said otherwise."""

    def decode(code: bytes) -> list[Entry]:
        return [_entry(code[at : at + BYTES], kinds, messages) for at in range(0, len(code) - BYTES + 1, BYTES)]

    return st.binary(min_size=BYTES * min_size, max_size=BYTES * max_size).map(decode)


def _entry(code: bytes, kinds: Sequence[Kind], messages: int) -> Entry:
    kind, place, time = code
    return Entry(
        message=place // 8 % messages,
        kind=kinds[kind % len(kinds)],
        at=MOMENTS[time // 8 % len(MOMENTS)],
        attempt=ATTEMPTS[place % 8],
        delivery=time // 64 % 3,
        due=DUES[time % 8],
    )


class Rearranged(NamedTuple):
    """A history, and the same set in another arrangement."""

    history: list[Entry]
    again: list[Entry]


class Scattered(NamedTuple):
    """A history, and the same set over several books."""

    history: list[Entry]
    books: list[list[Entry]]
    order: list[int]
    """In which the books are merged."""


def shuffled(items: Sequence[T], seed: int) -> list[T]:
    """In an order that depends on nothing but the seed."""
    items = list(items)
    Random(seed).shuffle(items)
    return items


@st.composite
def histories_rearranged(draw: DrawFn, *, messages: int = 1) -> Rearranged:
    """The same set again: in any order, each entry once or more often."""
    history = draw(histories(messages=messages))
    seed = draw(seeds)
    repeats = Random(seed).choices(history, k=seed % 5) if history else []
    return Rearranged(history, shuffled(history + repeats, seed))


@st.composite
def histories_scattered(draw: DrawFn, *, messages: int = 1, books: int = 3) -> Scattered:
    """The same set over several books: each entry in at least one of them, in any order there."""
    history = draw(histories(messages=messages))
    seed = draw(seeds)
    masks = Random(seed).choices(range(1, 2**books), k=len(history))
    parts = [[entry for entry, mask in zip(history, masks, strict=True) if mask >> book & 1] for book in range(books)]
    return Scattered(history, [shuffled(part, seed) for part in parts], shuffled(range(books), seed))


def timed_anew(history: Sequence[Entry], seed: int) -> list[Entry]:
    """The same history as clocks that are wrong by any amount would have dated it."""
    wrong = Random(seed)
    if seed % 3 == 0:  # the same times, exchanged
        times = shuffled([entry.at for entry in history], seed)
    elif seed % 3 == 1:  # all clocks wrong by as much
        shift = wrong.randrange(-(2**51), 2**51)
        times = [entry.at + shift for entry in history]
    else:
        times = [wrong.randrange(-(2**51), 2**51) for _ in history]
    return [replace(entry, at=at) for entry, at in zip(history, times, strict=True)]
