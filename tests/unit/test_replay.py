"""What is pure of a replay: its bounds, and the judgement of one member."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from crossfoot.books.replays import (
    EARLY,
    NO_HANDLER,
    OUT_OF_TIME,
    PAYLOAD_GONE,
    READY,
    SCHEMA,
    STALE,
    UNMENDABLE,
    Candidate,
)
from crossfoot.clock import SECOND
from crossfoot.effects.handler import Handler
from crossfoot.effects.operation import operation_key
from crossfoot.effects.sequence import InOrder
from crossfoot.errors import UsageError
from crossfoot.message import Message, decode, encode
from crossfoot.payload import Payload
from crossfoot.recover.replay.judging import Turns, Verdict, judge
from crossfoot.recover.replay.policy import Policy, Tally, reason_to_abort, reason_to_pause
from crossfoot.recover.replay.selection import Selection, as_told
from crossfoot.recover.replay.yielding import Yielding

NOW = 1_000 * SECOND


class Case(msgspec.Struct):
    amount: int


def handler(*, payload: Any = None, in_order: InOrder | None = None, operation: str | None = None) -> Handler:
    return Handler(
        name="bill", service="billing", type="case.*", function=lambda message, tx: None, in_order=in_order,
        payload=Payload(payload) if payload is not None else None, operation=operation_key(operation, handler="bill"),
    )  # fmt: skip


def judged(message: Message, by: Handler | None, *, turns: Turns | None = None, transform: Any = None) -> Verdict:
    candidate = Candidate(1, message.type, message.subject, message.sequence, None, message.key, encode(message))
    return judge(candidate, candidate.body, by, turns or Turns({}), NOW, transform)


def message(**attributes: Any) -> Message:
    return Message(**{"type": "case.released", "source": "tests", "id": "m-1", "subject": "case-1"} | attributes)


class TestJudging:
    def test_what_fits_will_settle_and_tells_its_operation(self) -> None:
        verdict = judged(message(data={"amount": 1}), handler(payload=Case, operation="bill:{subject}"))

        assert (verdict.class_, verdict.operation, verdict.after) == (READY, "bill:case-1", None)

    def test_without_a_payload_or_a_handler_nothing_can_be_done(self) -> None:
        lost = Candidate(1, "case.released", None, None, None, "tests|m-1", None)

        assert judge(lost, None, handler(), Turns({}), NOW).class_ == PAYLOAD_GONE
        assert judged(message(), None).class_ == NO_HANDLER

    def test_a_payload_that_does_not_fit_any_more_is_found_and_not_repeated(self) -> None:
        verdict = judged(message(data={"amount": "secret"}), handler(payload=Case))

        assert verdict.class_ == SCHEMA
        assert "$.amount" in (verdict.reason or "")
        assert "secret" not in (verdict.reason or "")

    def test_an_operation_that_cannot_be_named_is_found(self) -> None:
        assert judged(message(subject=None), handler(operation="bill:{subject}")).class_ == SCHEMA

    def test_what_would_expire_again_is_left(self) -> None:
        assert judged(message(expirytime=NOW - 1), handler()).class_ == OUT_OF_TIME
        assert judged(message(expirytime=NOW + 1), handler()).class_ == READY

    def test_turns_are_gone_through_in_the_order_of_moving(self) -> None:
        by = handler(in_order=InOrder(contiguous=True))
        turns = Turns({("bill", "case-1"): 2})
        found = [judged(message(sequence=n), by, turns=turns).class_ for n in (2, 3, 5, 4)]

        assert found == [STALE, READY, EARLY, READY]

    def test_a_transformation_mends_what_does_not_fit(self) -> None:
        def mend(old: Message) -> Message:
            return msgspec.structs.replace(old, data={"amount": 12})

        verdict = judged(message(data={"amount": "12"}), handler(payload=Case), transform=mend)

        assert verdict.class_ == READY
        assert decode(verdict.after or b"").data == {"amount": 12}

    def test_a_transformation_that_raises_refuses_this_one_message_and_its_words_are_not_told(self) -> None:
        def mend(old: Message) -> Message:
            return msgspec.structs.replace(old, data={"amount": int(old.data["amount"])})

        verdict = judged(message(data={"amount": "secret"}), handler(payload=Case), transform=mend)

        assert verdict.class_ == UNMENDABLE
        assert "raised ValueError at tests/unit/test_replay.py:" in (verdict.reason or "")
        assert "secret" not in (verdict.reason or "")
        unsendable = judged(message(), handler(), transform=lambda old: msgspec.structs.replace(old, data=float("nan")))
        assert unsendable.class_ == UNMENDABLE

    @pytest.mark.parametrize("name", ["id", "subject", "operation", "source", "type"])
    def test_a_transformation_may_not_touch_what_names_the_message(self, name: str) -> None:
        def touch(old: Message) -> Message:
            return msgspec.structs.replace(old, **{name: "another"})

        with pytest.raises(UsageError, match=f"changed {name}"):
            judged(message(), handler(), transform=touch)


class TestPolicy:
    def test_stages_double_from_the_canary_up_to_the_largest(self) -> None:
        policy = Policy(canary=10, stage=50)

        assert [policy.size_of(stage) for stage in range(1, 6)] == [10, 20, 40, 50, 50]
        assert policy.size_of(10_000) == 50

    def test_one_bad_canary_is_enough_and_one_of_many_is_not(self) -> None:
        policy = Policy(canary=10, stage=500, max_errors=0.05)

        assert reason_to_abort(policy, 1, Tally(moved=1, bad=1))
        assert reason_to_abort(policy, 6, Tally(moved=320, bad=16)) is None
        assert reason_to_abort(policy, 6, Tally(moved=320, bad=17))

    def test_a_cause_that_is_there_still_aborts_before_anything_has_ended(self) -> None:
        reason = reason_to_abort(Policy(), 1, Tally(moved=3, again={"0badc0ffee00": 1}))

        assert reason is not None
        assert "0badc0ffee00" in reason

    def test_what_is_expected_and_does_not_come_aborts_beyond_its_share(self) -> None:
        policy = Policy(canary=10, stage=500, max_breaches=0.05)

        reason = reason_to_abort(policy, 1, Tally(moved=10, breached={"billed": 1}))
        assert reason is not None
        assert "'billed'" in reason
        assert reason_to_abort(policy, 6, Tally(moved=320, breached={"billed": 16, "told": 16})) is None
        assert reason_to_abort(policy, 6, Tally(moved=320, breached={"billed": 17}))

    def test_what_came_late_waits_for_somebody_and_what_never_came_aborts(self) -> None:
        policy = Policy(canary=10)
        late = Tally(moved=10, breached={"billed": 5}, late={"billed": 5})
        both = Tally(moved=10, breached={"billed": 5}, late={"billed": 4})

        assert reason_to_abort(policy, 1, late) is None
        assert "for 5 of 10 what 'billed' expects" in (reason_to_pause(policy, 1, late) or "")
        assert "1 of 10 took effect without" in (reason_to_abort(policy, 1, both) or "")
        assert "for 4 it came late" in (reason_to_abort(policy, 1, both) or "")
        assert reason_to_pause(policy, 1, Tally(moved=10)) is None

    def test_slowness_aborts_where_it_is_bounded(self) -> None:
        slow = Tally(moved=3, slowest=6 * SECOND)

        assert reason_to_abort(Policy(), 1, slow) is None
        assert reason_to_abort(Policy(max_latency=5), 1, slow)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"canary": 0},
            {"rate": 0},
            {"max_errors": 1.5},
            {"max_latency": 0},
            {"live_slower": 0.9},
            {"window": 0},
            {"patience": -1},
        ],
    )
    def test_bounds_that_are_none_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Policy(**wrong)


class TestYielding:
    """Live messages waited 10 ms before."""

    def yielding(self, slower: float = 1.2) -> Yielding:
        made = Yielding(slower)
        made._before = 10_000
        return made

    def waits(self, at: int, each: int, count: int = 20) -> list[tuple[int, int]]:
        return [(at * SECOND, each)] * count

    def test_while_live_messages_wait_longer_it_takes_half_and_half_again_and_always_a_little(self) -> None:
        made = self.yielding()
        for second, share in ((1, 1 / 2), (2, 1 / 4), (3, 1 / 8), (4, 1 / 16), (5, 1 / 32), (6, 1 / 32)):
            made.judge(self.waits(second, 30_000), second * SECOND)
            assert made.share == share
        assert made.window(25) == 1
        assert made.window(640) == 20

    def test_it_grows_back_slowly_up_to_the_whole(self) -> None:
        made = self.yielding()
        made.judge(self.waits(1, 30_000), SECOND)
        for second in range(2, 30):
            made.judge(self.waits(second, 11_000), second * SECOND)
        assert made.share == 1.0

    def test_one_slow_message_of_twenty_and_too_few_messages_are_no_reason(self) -> None:
        made = self.yielding()
        made.judge([*self.waits(1, 9_000, 19), (SECOND, 900_000)], SECOND)
        made.judge(self.waits(2, 900_000, 2), 30 * SECOND)
        assert made.share == 1.0

    def test_it_is_due_once_a_second_and_never_where_nothing_is_known_of_before(self) -> None:
        made = self.yielding()
        made.judge([], SECOND)
        assert not made.is_due(SECOND + 1)
        assert made.is_due(2 * SECOND)
        assert not Yielding(1.2).is_due(SECOND)


class TestSelection:
    def test_a_fate_that_cannot_be_replayed_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(UsageError, match="did you mean 'expired'"):
            Selection(fates=("expird",))
        with pytest.raises(UsageError, match="there are"):
            Selection(fates=("settled",))

    def test_ids_stand_alone_and_are_not_repeated_in_the_book(self) -> None:
        with pytest.raises(UsageError, match="leave out"):
            Selection(ids=("m-1",), types=("case.released",))
        assert msgspec.json.decode(Selection(ids=("m-1", "m-2")).kept())["ids"] == 2

    def test_what_the_book_kept_has_the_same_fields_whatever_was_asked_for(self) -> None:
        named, stated = as_told(Selection(ids=("m-1",)).kept(60.0, "a:b")), as_told(Selection(since=SECOND).kept())

        assert (named.ids, named.fates, named.horizon, named.transform) == (1, (), 60.0, "a:b")
        assert (stated.ids, stated.fates, stated.since, stated.until) == (
            0,
            ("dead",),
            "1970-01-01T00:00:01.000000Z",
            None,
        )
