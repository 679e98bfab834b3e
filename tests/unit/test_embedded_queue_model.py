"""The embedded queue against a model of it in a few lines of Python, by random programs of two consumers."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, consumes, invariant, multiple, rule

from crossfoot.clock import Micros, micros
from crossfoot.queues.embedded.store import Counts, Page
from crossfoot.queues.queue import Done, Held, Outgoing
from tests.unit.embedded_rig import SteppingClock, make_file, make_store, open_connection

RETENTION = 30.0
MAX_ATTEMPTS = 2

partitions = st.sampled_from([None, None, "p", "q"])
short = st.sampled_from([0.0, 0.0, 1.0, 5.0, 20.0])


@dataclass
class Row:
    """One message as the model sees it."""

    key: int
    partition: str | None
    enqueued_at: Micros
    visible_at: Micros
    expires_at: Micros
    attempts: int = 0
    receipt: str | None = None
    state: str = "held"

    def leased(self, now: Micros) -> bool:
        return self.receipt is not None and self.visible_at > now

    def overdue(self, now: Micros) -> bool:
        return self.expires_at <= now and not self.leased(now)

    def set_aside(self, state: str) -> None:
        self.state, self.receipt = state, None


class TwoConsumers(RuleBasedStateMachine):
    """Each rule does one thing to the queue and the same to the model, and compares the answers."""

    receipts: Bundle[str] = Bundle("receipts")
    forgotten: Bundle[Held] = Bundle("forgotten")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="crossfoot-"))
        path = make_file(self.folder / "queue.db")
        self.clock = SteppingClock()
        self.stores = [
            make_store(path, clock=self.clock, retention=RETENTION, max_attempts=MAX_ATTEMPTS) for _ in range(2)
        ]
        self.business = open_connection(path)
        self.rows: list[Row] = []
        self.acked = self.removed = self.published = 0

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.business.close()
        shutil.rmtree(self.folder)

    def held(self) -> list[Row]:
        return [row for row in self.rows if row.state == "held"]

    def heads(self) -> list[Row]:
        """The rows that wait for nobody of their partition."""
        first: dict[str, int] = {}
        for row in self.held():
            first.setdefault(row.partition or str(row.key), row.key)
        return [row for row in self.held() if first[row.partition or str(row.key)] == row.key]

    def by(self, receipt: str) -> Row | None:
        return next((row for row in self.rows if row.receipt == receipt), None)

    def sweep(self) -> None:
        for row in self.held():
            if row.overdue(self.clock.now()):
                row.set_aside("expired")

    @rule(partition=partitions, delay=short, number=st.integers(1, 4), inside=st.booleans())
    def publish(self, partition: str | None, delay: float, number: int, inside: bool) -> None:
        now = self.clock.now()
        sent = [Outgoing(key="a|1", body=b"body", partition=partition, delay=delay) for _ in range(number)]
        if inside:
            for statement in self.stores[0].statements.publish(sent, now):
                self.business.execute(*statement)
        else:
            self.stores[0].publish(sent)
        for _ in sent:
            self.published += 1
            self.rows.append(Row(self.published, partition, now, now + micros(delay), now + micros(RETENTION)))

    @rule(
        target=receipts, consumer=st.integers(0, 1), limit=st.integers(1, 5), lease=st.sampled_from([1.0, 10.0, 40.0])
    )
    def claim(self, consumer: int, limit: int, lease: float) -> MultipleResults[str]:
        now = self.clock.now()
        self.sweep()
        fresh: list[Row] = []
        while not fresh:
            ready = sorted((row for row in self.heads() if row.visible_at <= now), key=lambda r: (r.visible_at, r.key))
            if not ready:
                break
            for row in ready[:limit]:
                if row.attempts == MAX_ATTEMPTS:
                    row.set_aside("dead")
                else:
                    row.attempts, row.visible_at = row.attempts + 1, now + micros(lease)
                    fresh.append(row)
        found = self.stores[consumer].look()
        deliveries = self.stores[consumer].claim(limit, lease)
        assert found or not deliveries
        fresh.sort(key=lambda row: row.key)
        assert [int(one.broker_id) for one in deliveries] == [row.key for row in fresh]
        assert [one.attempt for one in deliveries] == [row.attempts for row in fresh]
        assert {one.lease_until for one in deliveries} <= {now + micros(lease)}
        for row, delivery in zip(fresh, deliveries, strict=True):
            row.receipt = delivery.receipt
        return multiple(*(delivery.receipt for delivery in deliveries))

    @rule(receipt=receipts, consumer=st.integers(0, 1), inside=st.booleans())
    def ack(self, receipt: str, consumer: int, inside: bool) -> None:
        row = self.by(receipt)
        if inside:
            done = self.business.execute(*self.stores[consumer].statements.ack(receipt)).rowcount == 1
        else:
            done = self.stores[consumer].ack([receipt]) == [Done(receipt)]
        assert done == (row is not None)
        if row is not None:
            self.rows.remove(row)
            self.acked += 1

    @rule(receipt=receipts, consumer=st.integers(0, 1), delay=short)
    def release(self, receipt: str, consumer: int, delay: float) -> None:
        row = self.by(receipt)
        assert (self.stores[consumer].release([receipt], delay) == [Done(receipt)]) == (row is not None)
        if row is not None:
            row.receipt = None
            row.visible_at = self.clock.now() + micros(delay) if delay else row.enqueued_at

    @rule(receipt=receipts, consumer=st.integers(0, 1), lease=short)
    def extend(self, receipt: str, consumer: int, lease: float) -> None:
        row = self.by(receipt)
        assert (self.stores[consumer].extend([receipt], lease) == [Done(receipt)]) == (row is not None)
        if row is not None:
            row.visible_at = self.clock.now() + micros(lease)

    @rule(receipt=receipts, consumer=st.integers(0, 1))
    def dead_letter(self, receipt: str, consumer: int) -> None:
        row = self.by(receipt)
        assert (self.stores[consumer].dead_letter([receipt], "poison") == [Done(receipt)]) == (row is not None)
        if row is not None:
            row.set_aside("dead")

    @rule(seconds=st.sampled_from([1.0, 5.0, 10.0, 20.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(target=forgotten, consumer=st.integers(0, 1))
    def list_expired(self, consumer: int) -> MultipleResults[Held]:
        self.sweep()
        found = self.stores[consumer].expired(100)
        assert [int(one.broker_id) for one in found] == [row.key for row in self.rows if row.state == "expired"]
        return multiple(*found)

    @rule(message=consumes(forgotten))
    def purge(self, message: Held) -> None:
        self.stores[0].purge([message])
        # Gone as a row; the counts go on knowing it.
        for row in self.rows:
            if str(row.key) == message.broker_id:
                row.state = "purged"

    @rule(data=st.data())
    def somebody_deletes_a_row(self, data: st.DataObject) -> None:
        if held := self.held():
            row = data.draw(st.sampled_from(held))
            self.business.execute("DELETE FROM crossfoot_queue WHERE key = ?", (row.key,))
            self.acked += row.receipt is not None
            self.removed += row.receipt is None
            self.rows.remove(row)

    @invariant()
    def the_queue_counts_what_the_model_counts(self) -> None:
        now = self.clock.now()
        heads = {row.key for row in self.heads()}
        live = [row for row in self.held() if not row.overdue(now)]
        hidden = [row for row in live if row.key in heads and row.visible_at > now]
        in_flight = sum(row.leased(now) for row in hidden)
        dead = [(row.key, row.attempts) for row in self.rows if row.state == "dead"]
        depth = self.stores[0].depth()
        assert (depth.ready, depth.in_flight, depth.delayed, depth.dead) == (
            len(live) - len(hidden), in_flight, len(hidden) - in_flight, len(dead)
        )  # fmt: skip
        assert _seen(self.stores[1].held(limit=1_000)) == [(row.key, row.attempts) for row in live]
        assert _seen(self.stores[1].dead(limit=1_000)) == dead
        expired = sum(row.state in {"expired", "purged"} for row in self.rows)
        if self.published:
            counts = self.stores[1].counts()
            assert counts == Counts(self.published, self.acked, self.removed, len(dead), expired)
            assert counts.accepted == len(self.held()) + counts.acked + counts.removed + counts.dead + counts.expired

    @invariant()
    def one_row_of_each_partition_is_open_and_it_is_the_head(self) -> None:
        opened = self.business.execute("SELECT key FROM crossfoot_queue WHERE state = 0 ORDER BY key").fetchall()
        assert [key for (key,) in opened] == [row.key for row in self.heads()]


def _seen(page: Page) -> list[tuple[int, int]]:
    return [(key, held.attempt) for key, held in page]


TestTwoConsumers = TwoConsumers.TestCase
TestTwoConsumers.settings = settings(stateful_step_count=40, deadline=None)
