"""When an order is called wrong: what was sent the wrong way round, or says by itself what comes before it; and never a retry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.message import Message, encode
from crossfoot.recover.checklist.survey import survey
from crossfoot.recover.checklist.walk import Report, walk
from tests.unit.book_rig import CAUSE, QUEUE, Desk

PAID, CANCELLED = "paid", "cancelled"


class Orders:
    """An order that is paid (sequence 1) and cancelled (sequence 2), and the steps that both go through."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def known(
        self,
        id_: str,
        *,
        predecessor: int | None = None,
        priority: int = 0,
        causation: str | None = None,
        of: str = "order",
    ) -> None:
        sequence = 2 if id_ == CANCELLED else 1
        message: Message[Any] = Message(
            id=id_, source="tests", type=f"{of}.{id_}", subject="order-1", sequence=sequence, predecessor=predecessor, data={},
            extensions={"priority": priority} if priority else {},
        )  # fmt: skip
        self.desk.register(
            id_, type=message.type, subject="order-1", sequence=sequence, causation=causation, body=encode(message)
        )

    def sent(self, *ids: str, **attributes: Any) -> None:
        for id_ in ids:
            self.known(id_, **attributes)
            self.desk.write(id_, (Kind.INTENDED, 0), (Kind.PUBLISHED, 0))

    def received(self, id_: str, attempt: int = 1, worker: int = 1) -> None:
        self.desk.write(id_, (Kind.RECEIVED, attempt, {"worker": worker}))

    def failed(self, id_: str, attempt: int = 1) -> None:
        self.desk.write(id_, (Kind.FAILED, attempt, {"cause": CAUSE.fingerprint, "due": self.desk.now}))

    def applied(self, id_: str, attempt: int = 1) -> None:
        self.desk.complete(f"{QUEUE}|tests|{id_}", id_)
        self.desk.write(id_, (Kind.COMMITTED, attempt), (Kind.ACKED, attempt))

    def report(self) -> Report:
        post_all(self.desk.book)
        with self.desk.book.reading() as connection:
            return walk(survey(connection, self.desk.now, depth_of=None))

    def told(self) -> tuple[str, ...]:
        """The ids that are said to have taken effect too late."""
        return tuple(id_ for one in self.report().findings if one.code == "out-of-order" for id_ in one.ids)

    def note(self) -> str:
        return next(one.note for one in self.report().answers if one.question == "once")


@pytest.fixture
def orders(tmp_path: Path) -> Iterator[Orders]:
    with closing(Desk(tmp_path / "book.db")) as desk:
        yield Orders(desk)


def test_what_was_sent_the_wrong_way_round_and_so_applied_is_told(orders: Orders) -> None:
    orders.sent(CANCELLED, PAID)
    for id_ in (CANCELLED, PAID):
        orders.received(id_)
        orders.applied(id_)

    assert orders.told() == (PAID,)
    assert "which was sent first" in orders.report().findings[0].text
    assert orders.note() == ""


def test_a_retry_that_brings_an_event_behind_a_later_one_is_no_finding_and_is_noted(orders: Orders) -> None:
    orders.sent(PAID, CANCELLED)
    orders.received(PAID)
    orders.failed(PAID)
    orders.received(CANCELLED)
    orders.applied(CANCELLED)
    orders.received(PAID, 2)
    orders.applied(PAID, 2)

    report = orders.report()

    assert report.findings == ()
    assert {one.verdict for one in report.answers} <= {"well", "not asked"}
    assert orders.note().startswith("1 event took effect after a later one of the subject, by a retry")


def test_nor_are_two_workers_of_which_one_was_slower(orders: Orders) -> None:
    orders.sent(PAID, CANCELLED)
    orders.received(PAID, worker=1)
    orders.received(CANCELLED, worker=2)
    orders.applied(CANCELLED)
    orders.applied(PAID)

    assert orders.report().findings == ()


def test_an_event_that_names_the_one_before_it_was_not_to_be_applied_first_whatever_the_reason(orders: Orders) -> None:
    orders.sent(PAID)
    orders.sent(CANCELLED, predecessor=1)
    orders.received(PAID)
    orders.failed(PAID)
    orders.received(CANCELLED)
    orders.applied(CANCELLED)
    orders.received(PAID, 2)
    orders.applied(PAID, 2)

    assert orders.told() == (PAID,)
    assert "which names sequence 1 as the one before it" in orders.report().findings[0].text


def test_another_kind_of_events_of_the_same_subject_is_counted_by_itself(orders: Orders) -> None:
    """Its sequence 1 is not the one that the order's second event names, and was not overtaken by it."""
    orders.sent(CANCELLED, predecessor=1)
    orders.sent("packed", of="parcel")
    for id_ in (CANCELLED, "packed"):
        orders.received(id_)
        orders.applied(id_)

    assert orders.told() == ()
    assert orders.note() == ""


def test_but_not_where_a_person_had_it_sent_again(orders: Orders) -> None:
    orders.sent(PAID)
    orders.sent(CANCELLED, predecessor=1)
    orders.received(PAID)
    orders.failed(PAID)
    orders.desk.write(PAID, (Kind.DEAD_LETTERED, 1))
    orders.received(CANCELLED)
    orders.applied(CANCELLED)
    orders.desk.write(PAID, (Kind.REPLAYED, 1))
    orders.received(PAID, 2)
    orders.applied(PAID, 2)

    assert orders.report().findings == ()


def test_what_claimed_its_operation_first_and_committed_last_was_not_applied_first(orders: Orders) -> None:
    orders.sent(CANCELLED, PAID)
    orders.received(CANCELLED)
    orders.received(PAID)
    orders.desk.complete("cancel", CANCELLED)
    orders.applied(PAID)
    orders.desk.write(CANCELLED, (Kind.COMMITTED, 1), (Kind.ACKED, 1))

    assert orders.told() == ()


def test_a_retry_of_the_handler_that_sent_it_is_no_proof_either(orders: Orders) -> None:
    for cause in ("pay", "cancel"):
        orders.desk.story(cause, (Kind.INTENDED, 0), type=f"{cause}.wanted", subject="order-1")
    orders.known(CANCELLED, causation="cancel")
    orders.desk.write(CANCELLED, (Kind.INTENDED, 0))  # and "pay" is tried once more
    orders.known(PAID, causation="pay")
    orders.desk.write(PAID, (Kind.INTENDED, 0))
    for id_ in (CANCELLED, PAID):
        orders.received(id_)
        orders.applied(id_)

    assert orders.report().findings == ()


def test_one_handler_that_sends_both_the_wrong_way_round_is(orders: Orders) -> None:
    orders.desk.story("both", (Kind.INTENDED, 0), type="order.imported", subject="order-1")
    for id_ in (CANCELLED, PAID):
        orders.known(id_, causation="both")
        orders.desk.write(id_, (Kind.INTENDED, 0))
    for id_ in (CANCELLED, PAID):
        orders.received(id_)
        orders.applied(id_)

    assert orders.told() == (PAID,)


# ---- the sender has a book of its own ----------------------------------------------------------------------------------


def test_what_came_the_wrong_way_round_from_a_sender_with_a_book_of_its_own_is_told(orders: Orders) -> None:
    for id_ in (CANCELLED, PAID):
        orders.known(id_)
        orders.received(id_)
        orders.applied(id_)

    assert orders.told() == (PAID,)
    assert "which came first" in orders.report().findings[0].text


def test_one_worker_that_received_both_at_once_received_them_in_the_order_of_the_queue(orders: Orders) -> None:
    for id_ in (CANCELLED, PAID):
        orders.known(id_)
        orders.received(id_)
    orders.applied(CANCELLED)
    orders.applied(PAID)

    assert orders.told() == (PAID,)


def test_two_workers_that_received_at_once_prove_nothing(orders: Orders) -> None:
    for worker, id_ in enumerate((CANCELLED, PAID), 1):
        orders.known(id_)
        orders.received(id_, worker=worker)
    orders.applied(CANCELLED)
    orders.applied(PAID)

    assert orders.told() == ()


def test_nor_does_a_priority(orders: Orders) -> None:
    orders.known(CANCELLED, priority=9)
    orders.known(PAID)
    for id_ in (CANCELLED, PAID):
        orders.received(id_)
        orders.applied(id_)

    assert orders.told() == ()


def test_without_sequences_nothing_states_an_order(orders: Orders) -> None:
    for id_ in (CANCELLED, PAID):
        orders.desk.register(id_, type=f"order.{id_}", subject="order-1")
        orders.desk.write(id_, (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1))
        orders.applied(id_)

    assert orders.told() == ()
    assert orders.note() == ""
