"""The chain of causes through a message, to both ends, wherever its links lie; and its story in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.recover.chain import MOST
from crossfoot.recover.why import Page
from tests.unit.archive_rig import HAPPY, Shelf
from tests.unit.book_rig import CAUSE

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]


@pytest.fixture(params=["sqlite", "postgres"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    place = tmp_path / "book.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = Shelf(place, tmp_path / "archive")
    with closing(made.desk):
        yield made


def caused(shelf: Shelf, id_: str, by: str | None, *steps: Any, flow: str | None = "order") -> None:
    shelf.add(id_, *(steps or HAPPY), causation=by, correlation=flow)


def family(shelf: Shelf) -> None:
    """order → (invoice → (letter, ledger), parcel → label), and nothing else."""
    caused(shelf, "order", None, flow=None)
    caused(shelf, "invoice", "order")
    caused(shelf, "parcel", "order")
    shelf.desk.clock.advance(60)
    caused(shelf, "letter", "invoice")
    caused(shelf, "ledger", "invoice", (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.DEAD_LETTERED, 1))
    caused(shelf, "label", "parcel")
    caused(shelf, "stranger", "somebody")
    post_all(shelf.desk.book)


def page_of(shelf: Shelf, name: str) -> Page:
    page = shelf.why(name, queue="billing").page
    assert page is not None
    return page


def chain(page: Page) -> list[tuple[int, str, str]]:
    return [(link.depth, link.id, link.fate) for link in page.chain]


def test_the_chain_goes_back_to_the_first_cause_and_on_to_the_last_message(shelf: Shelf) -> None:
    family(shelf)

    assert chain(page_of(shelf, "invoice")) == [
        (-1, "order", "settled"), (0, "invoice", "settled"), (1, "letter", "settled"), (1, "ledger", "dead"),
    ]  # fmt: skip
    assert chain(page_of(shelf, "order")) == [
        (0, "order", "settled"), (1, "invoice", "settled"), (2, "letter", "settled"), (2, "ledger", "dead"),
        (1, "parcel", "settled"), (2, "label", "settled"),
    ]  # fmt: skip
    assert chain(page_of(shelf, "label")) == [
        (-2, "order", "settled"),
        (-1, "parcel", "settled"),
        (0, "label", "settled"),
    ]


def test_it_is_followed_through_the_archive(shelf: Shelf) -> None:
    family(shelf)
    before = {name: chain(page_of(shelf, name)) for name in ("order", "invoice", "label", "letter", "ledger")}
    shelf.newest()
    shelf.close()
    assert shelf.hot() == ["ledger", "newest"]

    assert {name: chain(page_of(shelf, name)) for name in before} == before


def test_a_cause_that_is_in_another_book_ends_it(shelf: Shelf) -> None:
    family(shelf)

    assert chain(page_of(shelf, "stranger")) == [(-1, "somebody", "in no book here"), (0, "stranger", "settled")]


def test_a_ring_of_causes_is_followed_once(shelf: Shelf) -> None:
    caused(shelf, "hen", "egg")
    caused(shelf, "egg", "hen")
    caused(shelf, "self", "self")
    post_all(shelf.desk.book)

    assert chain(page_of(shelf, "hen")) == [(-1, "egg", "settled"), (0, "hen", "settled"), (1, "egg", "settled")]
    assert [link.depth for link in page_of(shelf, "self").chain] == [0, 1]


def test_a_wide_family_is_cut(shelf: Shelf) -> None:
    caused(shelf, "many", None, flow=None)
    for number in range(10):
        caused(shelf, f"child-{number}", "many", flow="many")
        for grandchild in range(30):
            caused(shelf, f"grand-{number}-{grandchild}", f"child-{number}", flow="many")
    post_all(shelf.desk.book)

    assert len(page_of(shelf, "many").chain) == MOST + 1


def test_the_story_tells_the_way_through_the_boundaries(shelf: Shelf) -> None:
    caused(shelf, "order", None, flow=None)
    shelf.desk.register("invoice", causation="order", correlation="order")
    shelf.named.append("invoice")
    clock = shelf.desk.clock
    shelf.desk.write("invoice", (Kind.INTENDED, 0))
    clock.advance(0.25)
    shelf.desk.write("invoice", (Kind.PUBLISHED, 0))
    clock.advance(3)
    shelf.desk.write("invoice", (Kind.RECEIVED, 1))
    clock.advance(0.5)
    shelf.desk.write("invoice", (Kind.FAILED, 1, {"cause": CAUSE.fingerprint}))
    clock.advance(2)
    shelf.desk.write("invoice", (Kind.RECEIVED, 2))
    clock.advance(0.125)
    shelf.desk.write("invoice", (Kind.COMMITTED, 2, {"details": {"rows": 1}}), (Kind.ACKED, 2))
    caused(shelf, "letter", "invoice")
    post_all(shelf.desk.book)

    told = page_of(shelf, "invoice").story

    assert told[0].startswith("tests decided at ")
    assert told[0].endswith(" to send case.released to queue billing because of case.released order.")
    assert told[1:] == (
        "The queue took it 250 ms later.",
        "A worker received it after 3 s in the queue and failed after 500 ms.",
        "A worker received it and committed its effect 125 ms later, and acked it.",
        "Proof: 1 row changed.",
        "It caused 1 message: 1 settled.",
    )


def test_the_story_of_what_is_open_says_how_it_stands(shelf: Shelf) -> None:
    shelf.add("open", (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1, {"due": shelf.desk.now + 10**9}))

    assert page_of(shelf, "open").story[-2:] == (
        "A worker received it after 0 ms in the queue and has it still.",
        "It is processing now.",
    )
