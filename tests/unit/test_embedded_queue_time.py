"""Retention, worn-out messages, and what a clock that is set back does to delays and leases."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.queues.embedded.steps import CHECK_SECONDS
from crossfoot.queues.embedded.store import SWEEP, Counts, EmbeddedStore
from crossfoot.queues.queue import Done, NotDone
from tests.unit.embedded_rig import SteppingClock, make_file, make_store, messages

HOUR = 3_600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_file(tmp_path / "queue.db")


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
def store(path: Path, clock: SteppingClock) -> EmbeddedStore:
    return make_store(path, clock=clock, retention=100)


class TestRetention:
    def test_a_message_past_it_is_kept_until_the_books_have_it(
        self, store: EmbeddedStore, clock: SteppingClock
    ) -> None:
        store.publish(messages(3))
        clock.advance(100)
        assert store.claim(3, 30) == []
        listed = store.expired(2)
        assert [held.body.strip() for held in listed] == [b"0", b"1"]
        assert store.expired(2) == listed, "listing does not take"
        assert store.purge(listed) == 2
        assert store.purge(listed) == 0
        assert [held.body.strip() for held in store.expired(9)] == [b"2"]
        assert store.counts() == Counts(accepted=3, expired=3)

    def test_it_spares_a_message_under_a_running_lease(self, store: EmbeddedStore, clock: SteppingClock) -> None:
        store.publish(messages(1))
        (delivery,) = store.claim(1, 150)
        clock.advance(120)
        assert store.expired(9) == []
        assert store.depth().in_flight == 1
        assert store.ack([delivery.receipt]) == [Done(delivery.receipt)]

    def test_a_message_whose_lease_ended_after_it_is_not_delivered_again_and_not_acked(
        self, store: EmbeddedStore, clock: SteppingClock
    ) -> None:
        store.publish(messages(1))
        (delivery,) = store.claim(1, 150)
        clock.advance(150)
        assert store.claim(1, 30) == []
        (answer,) = store.ack([delivery.receipt])
        assert isinstance(answer, NotDone)
        assert answer.lost

    def test_a_head_past_it_makes_way(self, path: Path, store: EmbeddedStore, clock: SteppingClock) -> None:
        store.publish(messages(1, partition="case-1"))
        clock.advance(60)
        store.publish(messages(2, partition="case-1")[1:])
        clock.advance(60)
        assert [one.body.strip() for one in store.claim(9, 30)] == [b"1"]

    def test_more_of_them_than_one_transaction_sweeps_do_not_hide_the_living(
        self, store: EmbeddedStore, clock: SteppingClock
    ) -> None:
        store.publish(messages(2 * SWEEP + 1))
        clock.advance(100)
        store.publish(messages(1))
        assert len(store.claim(9, 30)) == 1
        assert store.counts().expired == 2 * SWEEP + 1

    def test_without_it_nothing_is_ever_forgotten(self, path: Path, clock: SteppingClock) -> None:
        store = make_store(path, clock=clock, retention=None)
        store.publish(messages(1, delay=1_000_000))
        clock.advance(100 * 365 * 86_400)
        assert store.expired(9) == []
        assert len(store.claim(1, 30)) == 1


def test_a_worn_out_message_is_dead_with_the_deliveries_it_had_and_why(path: Path, clock: SteppingClock) -> None:
    store = make_store(path, clock=clock, max_attempts=2)
    first, second = messages(2, partition="case-1")
    store.publish([first, second])
    for _ in range(2):
        store.release([one.receipt for one in store.claim(1, 30)])
    assert [one.body for one in store.claim(1, 30)] == [second.body]
    ((_, dead),) = store.dead()
    assert (dead.body, dead.attempt, dead.dead) == (first.body, 2, True)
    assert store.counts().dead == 1


def test_only_the_worn_out_of_a_claim_are_buried(path: Path, clock: SteppingClock) -> None:
    store = make_store(path, clock=clock, max_attempts=1)
    worn, fresh = messages(2)
    store.publish([worn])
    store.release([one.receipt for one in store.claim(1, 30)])
    store.publish([fresh])
    (delivery,) = store.claim(2, 30)
    assert (delivery.body, delivery.attempt) == (fresh.body, 1)
    assert [dead.body for _, dead in store.dead()] == [worn.body]
    assert store.ack([delivery.receipt]) == [Done(delivery.receipt)]


class TestAClockSetBack:
    def test_messages_published_while_it_was_ahead_are_delivered_at_once(
        self, path: Path, store: EmbeddedStore, clock: SteppingClock
    ) -> None:
        store.publish(messages(2, partition="case-1"))
        clock.step(-HOUR)
        consumer = make_store(path, clock=clock)
        assert consumer.look()
        (head,) = consumer.claim(9, 30)
        consumer.ack([head.receipt])
        assert len(consumer.claim(9, 30)) == 1, "its successor waits no longer either"

    def test_a_lease_begins_anew_and_no_earlier(self, path: Path, store: EmbeddedStore, clock: SteppingClock) -> None:
        store.publish(messages(1))
        store.claim(1, 30)
        clock.advance(20)
        clock.step(-HOUR)
        consumer = make_store(path, clock=clock)
        assert consumer.claim(1, 30) == []
        clock.advance(29)
        assert consumer.claim(1, 30) == []
        clock.advance(1)
        assert len(consumer.claim(1, 30)) == 1

    def test_a_consumer_that_was_there_notices_at_its_next_look(
        self, path: Path, store: EmbeddedStore, clock: SteppingClock
    ) -> None:
        assert not store.look()
        make_store(path, clock=clock).publish(messages(1))
        clock.step(-HOUR)
        assert len(store.claim(1, 30)) == 1

    def test_a_consumer_that_slept_through_it_notices_within_a_minute(
        self, path: Path, store: EmbeddedStore, clock: SteppingClock
    ) -> None:
        assert not store.look()
        clock.step(HOUR)
        make_store(path, clock=clock).publish(messages(1))
        clock.step(-HOUR)
        assert not store.look()
        clock.advance(CHECK_SECONDS)
        assert store.look()
        assert len(store.claim(1, 30)) == 1

    def test_waits_set_before_the_clock_was_ahead_are_left_alone(
        self, store: EmbeddedStore, clock: SteppingClock
    ) -> None:
        store.publish(messages(1, delay=50))
        clock.step(HOUR)
        clock.step(-HOUR)
        store.look()
        clock.advance(49)
        assert store.claim(1, 30) == []
        clock.advance(1)
        assert len(store.claim(1, 30)) == 1

    @given(
        st.lists(
            st.tuples(st.sampled_from(["claim", "pass", "step"]), st.integers(0, 1), st.floats(0.5, 50)), max_size=12
        )
    )
    def test_never_cuts_a_lease_short_and_never_strands_a_message(
        self, tmp_path_factory: pytest.TempPathFactory, program: list[tuple[str, int, float]]
    ) -> None:
        clock = SteppingClock()
        path = make_file(tmp_path_factory.mktemp("steps") / "queue.db")
        stores = [make_store(path, clock=clock, retention=None) for _ in range(2)]
        stores[0].publish(messages(1))
        leased_until = 0.0  # by the clock that cannot be set
        longest = 0.0
        for what, who, amount in program:
            if what == "pass":
                clock.advance(amount)
            elif what == "step":
                clock.step(-amount * 100)
            elif stores[who].claim(1, amount):
                assert clock.monotonic() >= leased_until - 1e-3
                leased_until = clock.monotonic() + amount
                longest = max(longest, amount)
        clock.advance(CHECK_SECONDS)
        for store in stores:
            store.look()
            if store.claim(1, 1):
                return
        clock.advance(longest)
        assert stores[0].claim(1, 1)
        for store in stores:
            store.close()
