"""What is in hand of a Kafka topic: the offset passes nothing that has no end, and of one key one hand-over follows the other."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from crossfoot.queues.kafka.flow import Flow
from crossfoot.queues.kafka.messages import Came
from crossfoot.queues.kafka.shelf import Shelf
from crossfoot.queues.kafka.track import Item


def came(offset: int, key: bytes | None = None) -> Came:
    return Came(offset=offset, key=key, body=b"{}", headers=[], at=None)


def shelf_of(*offsets: int, keys: dict[int, bytes] | None = None) -> Shelf:
    shelf = Shelf()
    shelf.assign({0: offsets[0]})
    for offset in offsets:
        shelf.take(0, came(offset, (keys or {}).get(offset)), 0.0)
    return shelf


def offsets(items: list[Item]) -> list[int]:
    return [item.offset for item in items]


class TestThePrefix:
    """What may be committed."""

    def test_a_message_without_an_end_holds_the_offset_back_whatever_is_settled_behind_it(self) -> None:
        shelf = shelf_of(5, 6, 7)
        first, second, third = shelf.deliver(3, 0.0, 30.0)
        shelf.settle(third)
        shelf.settle(second)
        assert shelf.tracks[0].prefix == 5
        shelf.settle(first)
        assert shelf.tracks[0].prefix == 8

    def test_holes_that_compaction_and_transactions_leave_hold_nothing_back(self) -> None:
        shelf = shelf_of(5, 9)
        for item in shelf.deliver(2, 0.0, 30.0):
            shelf.settle(item)
        assert shelf.tracks[0].prefix == 10
        shelf.tracks[0].reached(12)
        assert shelf.tracks[0].prefix == 12

    def test_a_message_that_is_read_again_is_in_hand_once(self) -> None:
        shelf = shelf_of(5, 6)
        assert shelf.take(0, came(5), 0.0) is None
        assert offsets(shelf.deliver(9, 0.0, 30.0)) == [5, 6]

    def test_what_is_settled_is_remembered_until_the_offset_has_passed_it(self) -> None:
        shelf = shelf_of(5, 6)
        first, second = shelf.deliver(2, 0.0, 30.0)
        shelf.settle(second)
        assert shelf.find(second.receipt) is second
        shelf.settle(first)
        shelf.confirm(0, 7)
        assert shelf.find(second.receipt) is None
        assert not shelf.tracks[0].items

    def test_a_partition_that_is_taken_away_voids_what_is_out_of_it_and_of_no_other(self) -> None:
        shelf = shelf_of(5, 6)
        shelf.assign({1: 0})
        shelf.take(1, came(0), 0.0)
        held = shelf.deliver(3, 0.0, 30.0)
        lost = {item.receipt for item in held if item.partition == 0}
        assert set(shelf.drop([0])) == lost
        assert [shelf.find(item.receipt) is None for item in held] == [item.partition == 0 for item in held]
        assert shelf.take(0, came(7), 0.0) is None, "what was on its way belongs to the next one"


class TestLines:
    """Messages of one key."""

    def test_the_next_of_a_key_follows_when_nothing_of_it_is_out_and_other_keys_go_on(self) -> None:
        shelf = shelf_of(1, 2, 3, keys={1: b"a", 2: b"a", 3: b"b"})
        (first,) = shelf.deliver(1, 0.0, 30.0)
        assert offsets(shelf.deliver(9, 0.0, 30.0)) == [3]
        shelf.settle(first)
        assert offsets(shelf.deliver(9, 0.0, 30.0)) == [2]

    def test_one_that_waits_for_its_time_holds_up_its_key_only(self) -> None:
        shelf = shelf_of(1, 2, 3, keys={1: b"a", 2: b"a", 3: b"b"})
        (first,) = shelf.deliver(1, 0.0, 30.0)
        shelf.release(first, 10.0)
        assert offsets(shelf.deliver(9, 5.0, 30.0)) == [3]
        again = shelf.deliver(9, 10.0, 30.0)
        assert offsets(again) == [1, 2]
        assert [item.attempt for item in again] == [2, 1]

    def test_one_whose_lease_is_over_waits_until_what_follows_it_has_an_end(self) -> None:
        shelf = shelf_of(1, 2, keys={1: b"a", 2: b"a"})
        first, second = shelf.deliver(2, 0.0, 30.0)
        first.lease_over = 1.0
        assert shelf.deliver(9, 2.0, 30.0) == []
        shelf.settle(second)
        assert offsets(shelf.deliver(9, 2.0, 30.0)) == [1]

    @given(
        st.lists(st.sampled_from([None, b"a", b"b", b"c"]), min_size=1, max_size=12),
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 11), st.integers(1, 4)), max_size=40),
    )
    def test_whatever_happens_no_offset_passes_and_no_key_overtakes(
        self, keys: list[bytes | None], steps: list[tuple[int, int, int]]
    ) -> None:
        shelf = Shelf()
        shelf.assign({0: 0})
        for offset, key in enumerate(keys):
            shelf.take(0, came(offset, key), 0.0)
        ended: set[int] = set()
        out: dict[int, Item] = {}
        for now, (step, which, limit) in enumerate(steps):
            if step == 0:
                before = defaultdict(set)
                for item in out.values():
                    before[item.line].add(item.offset)
                for item in shelf.deliver(limit, float(now), 1_000.0):
                    assert item.offset not in out
                    assert item.offset not in ended
                    if item.line is not None:
                        assert not before[item.line], "two hand-overs of one key at once"
                        earlier = {offset for offset in range(item.offset) if keys[offset] == item.line}
                        assert earlier <= ended | out.keys(), "it has overtaken one of its key"
                    out[item.offset] = item
            elif out:
                item = out.pop(sorted(out)[which % len(out)])
                if step == 1:
                    shelf.settle(item)
                    ended.add(item.offset)
                else:
                    shelf.release(item, float(now + limit))
            prefix = shelf.tracks[0].prefix
            assert all(offset in ended for offset in range(prefix))
            assert prefix == len(keys) or prefix not in ended


class TestFlow:
    """How much is in hand beyond the offset."""

    def test_a_partition_is_paused_at_its_bound_and_goes_on_at_half_of_it(self) -> None:
        flow = Flow(10)
        flow.taken, flow.passed = {0: 9, 1: 3}, {0: 0, 1: 0}
        assert flow.changes() == ([], [])
        flow.taken[0] = 10
        assert flow.changes() == ([0], [])
        flow.passed[0] = 4
        assert flow.changes() == ([], [])
        flow.passed[0] = 5
        assert flow.changes() == ([], [0])

    def test_all_are_paused_when_there_are_too_many_bytes(self) -> None:
        flow = Flow(10)
        flow.taken = {0: 1, 1: 1}
        flow.bytes_taken = 64 * 1024 * 1024
        assert flow.changes() == ([0, 1], [])
        flow.bytes_freed = flow.bytes_taken // 2 + 1
        assert flow.changes() == ([], [0, 1])
