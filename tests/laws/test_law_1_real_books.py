"""Law 1, in SQLite: however entries were ordered, repeated and spread over books, the merged book says the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given

from tests.laws.histories import Rearranged, Scattered, histories_rearranged, histories_scattered
from tests.laws.shelf import Shelf, posted_in_python, tallies_in_python

MESSAGES = 3
REARRANGED = histories_rearranged(messages=MESSAGES)
SCATTERED = histories_scattered(messages=MESSAGES)
SPLIT_OVER = 3


@pytest.fixture(scope="module")
def shelves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Shelf]]:
    folder = tmp_path_factory.mktemp("books")
    made = [Shelf(folder / f"{number}.db") for number in range(SPLIT_OVER + 1)]
    yield made
    for shelf in made:
        shelf.close()


@given(scene=REARRANGED)
def test_a_book_written_in_another_order_and_with_repetitions_says_the_same(
    shelves: list[Shelf], scene: Rearranged
) -> None:
    one, other = shelves[:2]
    for shelf, history in ((one, scene.history), (other, scene.again)):
        shelf.clear(MESSAGES)
        shelf.write(history)
        shelf.post_all()

    assert one.posted() == other.posted()
    assert one.tallies() == other.tallies()


@given(scene=SCATTERED)
def test_books_that_each_hold_a_part_say_the_same_once_they_are_merged(shelves: list[Shelf], scene: Scattered) -> None:
    *parts, merged = shelves
    merged.clear(MESSAGES)
    for seed, (shelf, part) in enumerate(zip(parts, scene.books, strict=True)):
        shelf.clear(MESSAGES, seed=seed)
        shelf.write(part)
    for number in scene.order:
        merged.write(parts[number].read())
        merged.post_all()

    assert merged.posted() == posted_in_python(scene.history, MESSAGES)
    assert merged.tallies() == tallies_in_python(scene.history, MESSAGES)
