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
from crossfoot.recover.replay.policy import Policy, Tally, reason_to_abort
from crossfoot.recover.replay.selection import Selection

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

    def test_slowness_aborts_where_it_is_bounded(self) -> None:
        slow = Tally(moved=3, slowest=6 * SECOND)

        assert reason_to_abort(Policy(), 1, slow) is None
        assert reason_to_abort(Policy(max_latency=5), 1, slow)

    @pytest.mark.parametrize(
        "wrong", [{"canary": 0}, {"rate": 0}, {"max_errors": 1.5}, {"max_latency": 0}, {"window": 0}, {"patience": -1}]
    )
    def test_bounds_that_are_none_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Policy(**wrong)


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
