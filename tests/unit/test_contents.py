"""A queue elsewhere that can be listed is compared by identity, and nobody is accused of what happened between two looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crossfoot.books.balance import Identity
from crossfoot.books.contents import Contents, Seen
from crossfoot.books.custody import Depth
from crossfoot.books.entry import Kind
from tests.unit.book_rig import QUEUE, SOURCE, Lectern

PUBLISHED = (Kind.PUBLISHED, 0)
DIED = (PUBLISHED, (Kind.RECEIVED, 1), (Kind.FAILED, 1), (Kind.DEAD_LETTERED, 1))


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Lectern]:
    with closing(Lectern(tmp_path / "book.db")) as book:
        yield book


def seen(*ids: str, source: str = SOURCE) -> list[Seen]:
    return [Seen(f"{source}|{id_}", f"queue:{QUEUE}|{number}") for number, id_ in enumerate(ids)]


def lying(*held: str, buried: Sequence[str] = (), aside: Sequence[str] = ()) -> Contents:
    return Contents(seen(*held), seen(*aside), seen(*buried))


def holdings(book: Lectern, *looks: Contents | Depth | Callable[[], Contents]) -> Identity:
    """What is said where the queue shows this, look by look; every look must be needed."""
    answers = list(looks)

    def look(queue: str) -> Any:
        answer = answers.pop(0)
        return answer() if callable(answer) else answer

    found = book.balance(depth_of=look).identities["holdings"]
    assert not answers, "it was not looked at so often"
    return found


def test_a_message_that_one_queue_lost_and_another_that_it_should_not_have_are_named_each(book: Lectern) -> None:
    for id_ in ("kept", "lost"):
        book.story(id_, PUBLISHED)
    book.clock.advance(11)
    shown = lying("kept", "strange")

    found = holdings(book, shown, shown)

    assert (found.holds, found.ids, found.count) == (False, ("lost",), 1), "the counts are the same"
    assert (found.unknown, found.unknown_count) == (("tests|strange",), 1)
    assert "1 open in the book, and not in the queue" in found.notes[0]


def test_of_a_hundred_messages_one_is_missed(book: Lectern) -> None:
    for number in range(100):
        book.story(f"m-{number}", PUBLISHED)
    book.clock.advance(11)
    shown = lying(*(f"m-{number}" for number in range(100) if number != 42))

    assert holdings(book, shown, shown).ids == ("m-42",)


def test_a_dead_letter_that_is_gone_and_an_open_one_that_was_buried_are_named(book: Lectern) -> None:
    book.story("dead", *DIED)
    book.story("open", PUBLISHED)
    book.clock.advance(11)
    shown = lying(buried=["open"])

    found = holdings(book, shown, shown)

    assert found.ids == ("open", "dead")
    assert "among the dead letters; 1 dead in the book, and not among" in found.notes[0]


def test_what_was_handled_while_the_queue_was_listed_is_not_missed(book: Lectern) -> None:
    book.story("handled", PUBLISHED)
    book.clock.advance(11)

    def listed() -> Contents:
        book.write("handled", (Kind.RECEIVED, 1, {"at": 0}), (Kind.NOOP, 1, {"at": 0}))  # by a clock that is behind
        return lying()

    assert holdings(book, listed).holds


def test_what_is_seen_at_the_second_look_was_on_its_way_at_the_first(book: Lectern) -> None:
    book.story("moving", PUBLISHED)
    book.clock.advance(11)

    assert holdings(book, lying(), lying("moving")).holds


def test_what_is_missed_at_both_looks_for_different_reasons_is_not_judged(book: Lectern) -> None:
    book.story("one", PUBLISHED)
    book.story("two", PUBLISHED)
    book.clock.advance(11)

    assert holdings(book, lying("two"), lying("one")).holds


def test_what_changed_a_moment_ago_is_not_judged(book: Lectern) -> None:
    book.story("young", PUBLISHED)

    found = holdings(book, lying())

    assert found.holds
    assert "1 differences younger than 10 s are not judged yet" in found.notes[0]


def test_what_was_set_aside_for_its_age_is_not_missed(book: Lectern) -> None:
    book.story("old", PUBLISHED)
    book.clock.advance(11)

    assert holdings(book, lying(aside=["old"])).holds


def test_one_that_the_book_knows_by_the_brokers_id_is_found_by_it(book: Lectern) -> None:
    book.story("7", (Kind.RECEIVED, 1), source=f"queue:{QUEUE}", type="unreadable")
    book.clock.advance(11)
    unreadable = Seen(f"queue:{QUEUE}|7", f"queue:{QUEUE}|7")

    found = holdings(book, Contents([unreadable], [], []))

    assert (found.holds, found.unknown) == (True, ())


def test_copies_and_messages_that_have_ended_are_counted_and_accuse_nobody(book: Lectern) -> None:
    book.story("open", PUBLISHED)
    book.story("ended", PUBLISHED, (Kind.RECEIVED, 1), (Kind.NOOP, 1))
    book.clock.advance(11)

    found = holdings(book, lying("open", "open", "ended"))

    assert found.holds
    assert "2 more in the queue are second copies, or of messages that have ended" in found.notes[0]
    assert found.unknown == ()


def test_strangers_are_told_apart_by_who_sent_them(book: Lectern) -> None:
    book.book.start_worker("w", "billing")
    book.story("open", PUBLISHED)
    shown = Contents(
        [*seen("open"), *seen("a", "b", source="orders"), *seen("c", source="billing")], [], seen("d", source="orders")
    )

    found = holdings(book, shown)

    assert found.holds
    assert found.unknown == ("billing|c", "orders|a", "orders|b", "orders|d")
    assert "3 in the queue that this book does not know (3 of orders): published by others" in found.notes[0]
    assert "1 in the queue that this book does not know (1 of billing): published past this book" in found.notes[0]


def test_a_queue_that_is_too_long_is_compared_by_its_own_count_and_the_note_says_so(book: Lectern) -> None:
    book.story("open", PUBLISHED)
    found = holdings(
        book, Depth(held=3, in_flight=0, dead=0, as_of=book.now, why="more than 2 messages are not compared by id")
    )

    assert found.holds
    assert "within the tolerance of 10 and 10 (more than 2 messages are not compared by id)" in found.notes[0]


def dead(book: Lectern, count: int) -> list[str]:
    for number in range(count):
        book.story(f"dead-{number}", *DIED)
    book.clock.advance(11)
    return [f"{SOURCE}|dead-{number}" for number in range(count)]


def counted(count: int, letters: Sequence[str] | None) -> Depth:
    """A queue that tells numbers, and lists its dead letters when it is asked to."""
    return Depth(held=0, in_flight=0, dead=count, as_of=0, letters=lambda: letters)


def test_second_copies_among_dead_letters_that_were_counted_are_no_difference(book: Lectern) -> None:
    """A burial without an answer is done again, and some brokers then have the dead letter twice."""
    names = dead(book, 20)

    found = holdings(book, counted(40, names * 2))

    assert (found.holds, found.ids) == (True, ())
    assert "20 dead in the book, and 40 dead letters, compared by id: those beside are second copies" in found.notes[0]


def test_what_second_copies_hide_is_named_when_the_letters_are_listed(book: Lectern) -> None:
    names = dead(book, 20)
    book.story("open", PUBLISHED)
    book.clock.advance(11)

    found = holdings(book, counted(40, [*names[1:], f"{SOURCE}|open"]))

    assert (found.holds, sorted(found.ids)) == (False, ["dead-0", "open"])
    assert "1 open in the book, and among the dead letters; 1 dead in the book, and not among" in found.notes[0]


def test_letters_that_cannot_be_listed_leave_the_numbers(book: Lectern) -> None:
    dead(book, 20)

    found = holdings(book, counted(40, None))

    assert found.holds is False
    assert "0 and 40 in the queue by its own count, not within the tolerance of 10 and 10" in found.notes[0]


def test_letters_are_not_listed_where_their_number_fits(book: Lectern) -> None:
    dead(book, 20)

    def letters() -> None:
        pytest.fail("SQS hides what is listed from everybody else")

    found = holdings(book, Depth(held=0, in_flight=0, dead=21, as_of=0, letters=letters))

    assert found.holds
