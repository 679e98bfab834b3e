"""The embedded queue's own promises, beyond those of the port."""

from __future__ import annotations

import math
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crossfoot.clock import ManualClock
from crossfoot.errors import DiskFull, MessageTooLarge, QueueUnavailable, UsageError
from crossfoot.queues.embedded.sql import Statements
from crossfoot.queues.embedded.store import MAX_PUBLISH, Counts, EmbeddedStore
from crossfoot.queues.queue import Accepted, Delivery, Done, Doubtful, NotDone, Outgoing, Refused
from tests.unit.embedded_rig import make_file, make_store, messages, open_connection, raw, rows

Limit = Callable[[int], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_file(tmp_path / "queue.db")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(path: Path, clock: ManualClock) -> EmbeddedStore:
    return make_store(path, clock=clock)


@pytest.fixture
def file_size_limit() -> Iterator[Limit]:
    """Let no file of this process grow beyond some bytes (-1: as before); the write that would fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size < 0 else size, hard))

    yield limit
    limit(-1)


def claim_one(store: EmbeddedStore, lease: float = 30) -> Delivery:
    (delivery,) = store.claim(1, lease)
    return delivery


class TestInTheCallersTransaction:
    def test_a_published_message_is_there_when_the_transaction_commits_and_never_was_when_not(
        self, path: Path, store: EmbeddedStore, clock: ManualClock
    ) -> None:
        kept, dropped = messages(2)
        with closing(open_connection(path)) as business:
            for message, end in ((kept, "COMMIT"), (dropped, "ROLLBACK")):
                business.execute("BEGIN IMMEDIATE")
                for statement in store.statements.publish([message], clock.now()):
                    business.execute(*statement)
                business.execute(end)
        assert claim_one(store).body == kept.body
        assert store.claim(1, 30) == []
        assert store.counts().accepted == 1

    def test_an_ack_holds_when_the_effect_commits_and_not_when_it_is_rolled_back(
        self, path: Path, store: EmbeddedStore
    ) -> None:
        store.publish(messages(1))
        delivery = claim_one(store)
        with closing(open_connection(path)) as business:
            for end, held in (("ROLLBACK", 1), ("COMMIT", 0)):
                business.execute("BEGIN IMMEDIATE")
                assert business.execute(*store.statements.ack(delivery.receipt)).rowcount == 1
                business.execute(end)
                assert store.depth().held == held
        assert store.counts().acked == 1

    def test_a_fenced_ack_changes_no_row(self, path: Path, store: EmbeddedStore, clock: ManualClock) -> None:
        store.publish(messages(1))
        first = claim_one(store)
        clock.advance(31)
        second = claim_one(store)
        with closing(open_connection(path)) as business:
            assert business.execute(*store.statements.ack(first.receipt)).rowcount == 0
            assert business.execute(*store.statements.ack("nonsense")).rowcount == 0
            assert business.execute(*store.statements.ack(second.receipt)).rowcount == 1

    def test_release_and_dead_letter_ride_along_too(self, path: Path, store: EmbeddedStore, clock: ManualClock) -> None:
        store.publish(messages(2))
        later, dying = store.claim(2, 30)
        with closing(open_connection(path)) as business:
            assert business.execute(*store.statements.release(later.receipt, clock.now(), 5)).rowcount == 1
            assert business.execute(*store.statements.dead_letter(dying.receipt, clock.now(), "poison")).rowcount == 1
        assert store.claim(2, 30) == []
        clock.advance(5)
        assert claim_one(store).body == later.body
        assert [held.body for _, held in store.dead()] == [dying.body]

    def test_an_ack_in_a_transaction_lets_the_next_of_the_partition_go(self, path: Path, store: EmbeddedStore) -> None:
        first, second = messages(2, partition="case-1")
        store.publish([first, second])
        delivery = claim_one(store)
        with closing(open_connection(path)) as business:
            business.execute(*store.statements.ack(delivery.receipt))
        assert claim_one(store).body == second.body

    def test_a_message_the_queue_cannot_take_fails_the_transaction(self, path: Path, clock: ManualClock) -> None:
        store = make_store(path, max_bytes=10)
        with pytest.raises(MessageTooLarge, match=r"11 bytes .* at most 10"):
            store.statements.publish([Outgoing(key="a|1", body=b"x" * 11)], clock.now())


class TestLeases:
    def test_an_overrun_lease_can_still_ack_while_nobody_else_took_the_message(
        self, store: EmbeddedStore, clock: ManualClock
    ) -> None:
        store.publish(messages(1))
        delivery = claim_one(store)
        clock.advance(3_600)
        assert store.ack([delivery.receipt]) == [Done(delivery.receipt)]

    def test_a_message_released_at_once_keeps_its_place_before_later_ones(
        self, store: EmbeddedStore, clock: ManualClock
    ) -> None:
        sent = messages(3)
        for message in sent:
            store.publish([message])
            clock.advance(1)
        delivery = claim_one(store)
        store.release([delivery.receipt])
        assert [one.body for one in store.claim(3, 30)] == [message.body for message in sent]

    def test_a_delayed_message_holds_up_its_partition_and_nobody_else(
        self, store: EmbeddedStore, clock: ManualClock
    ) -> None:
        (delayed,) = messages(1, partition="case-1", delay=10)
        (behind,) = messages(1, partition="case-1")
        (other,) = messages(1, partition="case-2")
        store.publish([delayed, behind, other])
        assert [one.body for one in store.claim(9, 30)] == [other.body]
        clock.advance(10)
        assert [one.body for one in store.claim(9, 30)] == [delayed.body]

    def test_a_message_deleted_behind_our_back_does_not_strand_its_successors_and_is_counted_apart(
        self, path: Path, store: EmbeddedStore
    ) -> None:
        store.publish(messages(3, partition="case-1"))
        rows(path, "DELETE FROM crossfoot_queue WHERE message = 'test|0'")
        assert claim_one(store).body.strip() == b"1"
        assert store.counts() == Counts(accepted=3, removed=1)

    def test_two_stores_never_give_the_same_receipt(self, path: Path, store: EmbeddedStore) -> None:
        other = make_store(path)
        store.publish(messages(1))
        given = []
        for taker in (store, other, store, other):
            given.append(claim_one(taker).receipt)
            taker.release(given[-1:])
        assert len(set(given)) == 4


class TestRefusals:
    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (Outgoing(key="a|1", body=b"x" * 100, attributes={"k": "v"}), "102 bytes .* at most 100"),
            (Outgoing(key="a|\ud800", body=b""), "no UTF-8 form"),
            (Outgoing(key="a|1", body=b"", attributes={"k": "\udcff"}), "no UTF-8 form"),
            (Outgoing(key="a|1", body=b"", delay=86_401.0), "gone before its first delivery"),
            (Outgoing(key="a|1", body=b"", delay=math.nan), "must be between 0 and"),
            (Outgoing(key="a|1", body=b"", delay=-1.0), "must be between 0 and"),
        ],
    )
    def test_what_can_never_be_stored_is_refused_alone(self, path: Path, message: Outgoing, reason: str) -> None:
        store = make_store(path, max_bytes=100)
        before, refused, after = store.publish([messages(1)[0], message, messages(2)[1]])
        assert (before, after) == (Accepted("test|0", "1"), Accepted("test|1", "2"))
        assert isinstance(refused, Refused)
        assert refused.permanent
        assert re.search(reason, refused.reason), refused.reason

    def test_a_lease_that_is_no_duration_is_wrong_use(self, store: EmbeddedStore) -> None:
        store.publish(messages(1))
        delivery = claim_one(store)
        for lease in (-1.0, math.inf, math.nan):
            with pytest.raises(UsageError, match="queue orders"):
                store.claim(1, lease)
            with pytest.raises(UsageError, match="queue orders"):
                store.extend([delivery.receipt], lease)

    @pytest.mark.parametrize("receipt", ["", "1", "x.y", "1.--------------------", "9" * 40 + ".a", "٣.a", "-1.", "1."])
    def test_a_forged_receipt_is_void(self, store: EmbeddedStore, receipt: str) -> None:
        store.publish(messages(1))
        (answer,) = store.ack([receipt])
        assert isinstance(answer, NotDone)
        assert answer.lost
        assert store.depth().ready == 1


class TestFailures:
    def test_a_full_disk_is_named_and_nothing_was_stored(self, store: EmbeddedStore) -> None:
        raw(store).execute("PRAGMA max_page_count = 20")
        with pytest.raises(QueueUnavailable, match=r"queue orders: the disk .* is full") as caught:
            store.publish(messages(100, size=2_000))
        assert isinstance(caught.value, DiskFull)
        assert store.depth().held == 0
        assert store.counts() == Counts()

    def test_what_was_stored_before_the_disk_was_full_is_accepted_and_the_rest_may_be_sent_again(
        self, store: EmbeddedStore
    ) -> None:
        raw(store).execute("PRAGMA max_page_count = 1500")
        answers = store.publish(messages(3 * MAX_PUBLISH, size=2_000))
        accepted = [answer for answer in answers if isinstance(answer, Accepted)]
        refused = [answer for answer in answers if isinstance(answer, Refused)]
        assert answers == [*accepted, *refused]
        assert len(accepted) == MAX_PUBLISH == store.depth().ready
        assert not any(answer.permanent for answer in refused)

    def test_a_commit_answered_with_an_error_leaves_the_messages_in_doubt(
        self, path: Path, store: EmbeddedStore, file_size_limit: Limit
    ) -> None:
        store.publish(messages(1))
        delivery = claim_one(store)
        file_size_limit(path.with_name(path.name + "-wal").stat().st_size + 100)
        too_large = Outgoing(key="a|3", body=b"x" * 2_000_000)
        answer, never = store.publish([Outgoing(key="a|2", body=b"x" * 100_000), too_large])
        (ack,) = store.ack([delivery.receipt])
        file_size_limit(-1)
        assert isinstance(answer, Doubtful)
        assert isinstance(never, Refused), "what can never be stored is in no doubt"
        assert never.permanent
        assert isinstance(ack, NotDone)
        assert not ack.lost
        assert store.depth().held == 1
        assert store.ack([delivery.receipt]) == [Done(delivery.receipt)], "the connection works again"

    def test_a_file_that_cannot_be_written_is_named(self, path: Path, store: EmbeddedStore) -> None:
        raw(store).execute("PRAGMA query_only = ON")
        with pytest.raises(QueueUnavailable, match=f"queue orders: {path} cannot be written"):
            store.publish(messages(1))

    def test_a_file_locked_by_another_program_is_named(self, path: Path, store: EmbeddedStore) -> None:
        raw(store).execute("PRAGMA busy_timeout = 1")
        with closing(open_connection(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(QueueUnavailable, match="stayed locked by another connection"):
                store.publish(messages(1))
        assert isinstance(store.publish(messages(1))[0], Accepted)

    def test_a_file_without_the_tables_says_who_makes_them(self, tmp_path: Path) -> None:
        open_connection(tmp_path / "empty.db").close()
        with pytest.raises(QueueUnavailable, match=r"queue orders: .*empty\.db has no tables .* opening the book"):
            make_store(tmp_path / "empty.db")

    def test_a_file_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        with pytest.raises(QueueUnavailable, match=r"there is no file .*nowhere\.db"):
            make_store(tmp_path / "nowhere.db")
        assert list(tmp_path.iterdir()) == []

    def test_a_connection_is_not_used_across_a_fork(
        self, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.getpid", lambda: -1)
        with pytest.raises(UsageError, match="before this process was forked"):
            store.depth()

    def test_a_queue_in_memory_is_wrong_use(self) -> None:
        with pytest.raises(UsageError, match="needs a file"):
            EmbeddedStore(":memory:", Statements(queue="orders", retention=None, max_bytes=1, ordered=True))


class TestTheSizeOfThings:
    def test_leasing_a_large_message_writes_a_few_pages_and_not_the_message(
        self, path: Path, store: EmbeddedStore
    ) -> None:
        store.publish([Outgoing(key="a|1", body=b"x" * 1_000_000)])
        wal = path.with_name(path.name + "-wal")
        before = wal.stat().st_size
        delivery = claim_one(store)
        store.extend([delivery.receipt], 60)
        store.release([delivery.receipt])
        assert wal.stat().st_size - before < 100_000

    def test_a_key_is_never_given_twice(self, store: EmbeddedStore) -> None:
        seen = []
        for _ in range(3):
            store.publish(messages(1))
            delivery = claim_one(store)
            seen.append(delivery.broker_id)
            store.ack([delivery.receipt])
        assert seen == ["1", "2", "3"]
