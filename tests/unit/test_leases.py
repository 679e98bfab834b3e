"""Deliveries that a queue takes back without having been asked are lost in that moment, whether they are held yet or not."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from crossfoot import Crossfoot
from crossfoot.books.store import Book
from crossfoot.clock import ManualClock, SystemClock
from crossfoot.errors import DeadlineExceeded, LeaseLost
from crossfoot.message import encode
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Delivery
from crossfoot.worker.held import Held
from crossfoot.worker.intake import Intake
from crossfoot.worker.leases import Leases
from crossfoot.worker.retry import Retry

CLOCK = SystemClock()


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    path = str(tmp_path / "book.db")
    return Leases(Book(path, clock=CLOCK), EmbeddedQueue(path, "billing"), CLOCK, lease=30.0)


def held(receipt: str) -> Held:
    delivery = Delivery(body=b"{}", receipt=receipt, attempt=1, lease_until=CLOCK.now() + 30_000_000)
    return Held(delivery, CLOCK, CLOCK.monotonic() + 30, delivery.attempt, strict=True)


def test_what_is_lost_may_not_commit_and_the_others_may(leases: Leases) -> None:
    one, two = held("1"), held("2")
    leases.hold([one, two])
    leases.lose(["1", "somebody else's"])
    with pytest.raises(LeaseLost):
        one.fence()
    two.fence()


def test_what_is_lost_between_its_receipt_and_its_being_held_is_lost_all_the_same(leases: Leases) -> None:
    one, two = held("1"), held("2")
    leases.lose(["1"])
    leases.hold([one, two])
    assert (one.lost, two.lost) == (True, False)


def test_a_deadline_of_an_attempt_that_was_rolled_back_with_its_batch_does_not_go_on(tmp_path: Path) -> None:
    """It stands in line behind the others again: the lease is extended meanwhile, and what it is decided without may commit."""
    clock = ManualClock()
    app = Crossfoot("billing", database=tmp_path / "book.db", clock=clock)
    app.handler("case.released", deadline=5.0)(lambda message, tx: None)
    app.book.open()
    intake = Intake(app.book, app.queue, app.registry, Retry(), 1, None)
    body = encode(app.message("case.released"))
    delivery = Delivery(body=body, receipt="1", attempt=1, lease_until=clock.now() + 60_000_000)
    (one,) = intake.take([delivery])
    work = one.start()
    one.begin()
    clock.advance(6)
    with pytest.raises(DeadlineExceeded):
        one.fence()

    work.again()

    one.fence()
    assert one.deadline is None


@pytest.mark.anyio
async def test_a_handler_that_runs_is_stopped(leases: Leases) -> None:
    one = held("1")
    leases.hold([one])
    with anyio.fail_after(5), anyio.CancelScope() as one.cancel:
        leases.lose(["1"])
        await anyio.sleep(30)
    assert one.cancel.cancelled_caught
