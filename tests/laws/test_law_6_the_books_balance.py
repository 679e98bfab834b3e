"""Law 6: books are compared by identity. A count and a sum of hashes notice what a count alone lets through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import reduce
from itertools import permutations
from operator import add

from hypothesis import assume, given
from hypothesis import strategies as st

from crossfoot.books.digest import EMPTY, Tally, lanes, tally_of
from tests.laws.histories import seeds, shuffled

LANE = 2**32
SIGNED_64 = 2**63

SOURCES = ("billing", "orders", "", "größe")


def _identity(number: int) -> str:
    return f"{SOURCES[number % len(SOURCES)]}|{number // len(SOURCES)}"


identities = st.binary(max_size=20).map(lambda code: [_identity(number) for number in code])
SETS = identities.map(lambda messages: sorted(set(messages)))
BUCKETED = st.tuples(identities, seeds)
LOST_AND_DOUBLED = st.binary(min_size=2, max_size=8).map(lambda code: sorted({_identity(number) for number in code}))
TWO_BOOKS = st.tuples(*(st.binary(max_size=6).map(lambda code: [_identity(one % 4) for one in code]) for _ in range(2)))


def total(identities: Iterable[str]) -> Tally:
    return reduce(add, map(tally_of, identities), EMPTY)


@given(LOST_AND_DOUBLED)
def test_one_loss_and_one_duplicate_balance_the_count_and_are_noticed_all_the_same(messages: list[str]) -> None:
    published = total(messages)
    for lost, doubled in permutations(messages, 2):
        settled = published - tally_of(lost) + tally_of(doubled)

        assert settled.count == published.count
        assert settled != published
        assert settled.digest != published.digest


@given(TWO_BOOKS)
def test_two_books_agree_only_if_they_hold_the_same_messages_as_often(scene: tuple[list[str], list[str]]) -> None:
    one, other = scene
    assert (total(one) == total(other)) == (Counter(one) == Counter(other))


@given(BUCKETED)
def test_a_tally_does_not_depend_on_the_order(scene: tuple[list[str], int]) -> None:
    messages, seed = scene
    assert total(messages) == total(shuffled(messages, seed))


@given(BUCKETED)
def test_the_buckets_add_up_to_the_total_and_books_merge_by_adding(scene: tuple[list[str], int]) -> None:
    messages, seed = scene
    buckets: dict[int, list[str]] = {}
    for number, message in enumerate(messages):
        buckets.setdefault((seed >> number) % 4, []).append(message)

    assert reduce(add, map(total, buckets.values()), EMPTY) == total(messages)


@given(BUCKETED)
def test_what_was_added_can_be_taken_off_again(scene: tuple[list[str], int]) -> None:
    messages, seed = scene
    cut = seed % (len(messages) + 1)

    assert total(messages) - total(messages[:cut]) == total(messages[cut:])
    assert total(messages) - total(messages) == EMPTY
    assert not total(messages) - total(messages)


@given(SETS)
def test_the_difference_of_two_books_is_the_tally_of_what_one_of_them_lacks(messages: list[str]) -> None:
    assume(messages)
    lacking = total(messages[1:])

    assert total(messages) - lacking == tally_of(messages[0]), "one missing message is found by its digest alone"


@given(st.tuples(SETS, SETS))
def test_the_digest_in_words_says_what_the_lanes_say(scene: tuple[list[str], list[str]]) -> None:
    one, other = map(total, scene)
    for tally in (one, other, one - other):
        assert tally.digest == f"{tally.d0 % LANE:08x}{tally.d1 % LANE:08x}"
        assert len(tally.digest) == 16


@given(identities)
def test_two_billion_messages_fit_into_a_column(messages: list[str]) -> None:
    assert all(0 <= lane < LANE for identity in messages for lane in lanes(identity))
    assert 2_000_000_000 * (LANE - 1) < SIGNED_64
