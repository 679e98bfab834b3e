"""The checklist, question by question, on stories told to a book; and what a survey costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.large_book import make
from crossfoot.books import lately
from crossfoot.books.cause import Cause
from crossfoot.books.entry import Kind
from crossfoot.books.fate import PATIENCE
from crossfoot.books.posting import post_all
from crossfoot.clock import SECOND, Micros
from crossfoot.queues.telling import Told
from crossfoot.recover.checklist.findings import CODES, Finding, ranked
from crossfoot.recover.checklist.survey import Attached, Bounds, HandlerTold, Service, survey
from crossfoot.recover.checklist.timing import quantile
from crossfoot.recover.checklist.walk import Report, walk
from crossfoot.sqlite import connect
from tests.unit.book_rig import CAUSE, QUEUE, Desk, Step, ids

DAY = 86_400.0

PUBLISHED: Step = (Kind.PUBLISHED, 0)
RECEIVED: Step = (Kind.RECEIVED, 1)
FAILURE: dict[str, Any] = {"cause": CAUSE.fingerprint, "details": {"raised": "billing.py:42 bill()"}, "worker": 1}
DIED: tuple[Step, ...] = (PUBLISHED, RECEIVED, (Kind.FAILED, 1, FAILURE), (Kind.DEAD_LETTERED, 1, FAILURE))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(tmp_path / "book.db")) as desk:
        yield desk


def checked(desk: Desk, now: Micros | None = None, accept: tuple[str, ...] = (), **service: Any) -> Report:
    post_all(desk.book)
    with desk.book.reading() as connection:
        read = survey(connection, desk.now if now is None else now, service=Service(**service), depth_of=None)
        return walk(read, accept)


def found(report: Report, code: str) -> list[Finding]:
    return [one for one in report.findings if one.code == code]


def attached(**told: Any) -> dict[str, Attached]:
    return {
        QUEUE: Attached(
            name=QUEUE, retention=told.pop("retention", 14 * DAY), dead=told.pop("dead", None), told=Told(**told)
        )
    }


# ---- ranking -------------------------------------------------------------------------------------------------------------


def test_causes_are_told_before_what_follows_from_them() -> None:
    told = [Finding(code=code, text=code) for code in reversed(CODES)]

    assert [one.code for one in ranked(told)] == list(CODES)


def test_of_one_kind_what_concerns_most_messages_is_told_first_and_what_is_accepted_last() -> None:
    few, many = Finding(code="failing", text="a", count=1), Finding(code="failing", text="b", count=2)
    known = Finding(code="unaccounted", text="c", accepted=True)

    assert ranked([few, known, many]) == (many, few, known)


# ---- dead letters and causes ---------------------------------------------------------------------------------------------


def test_dead_letters_are_told_by_cause_with_what_was_new_when_it_began(desk: Desk) -> None:
    desk.book.start_worker("billing-old", "billing")
    desk.execute("UPDATE crossfoot_workers SET version = '0.0.9', started_at = started_at - 86400000000")
    desk.clock.advance(30)
    desk.book.start_worker("billing-2", "billing")
    desk.clock.advance(5)
    for id_ in ids("dead", 3):
        desk.story(
            id_, PUBLISHED, RECEIVED, (Kind.FAILED, 1, {**FAILURE, "worker": 2}), (Kind.DEAD_LETTERED, 1, FAILURE)
        )

    (one,) = found(checked(desk), "failing")

    assert (one.count, one.ids) == (3, ("dead-1", "dead-2", "dead-3"))
    assert one.figures["cause"] == CAUSE.fingerprint
    assert one.figures["raised in"] == "billing.py:42 bill()"
    assert "was first seen 5 s before" in one.figures["began with"]
    assert "worker billing-2" in one.figures["began with"]
    assert [step.command for step in one.next if step.command and "causes" in step.command] == [
        f"crossfoot causes {CAUSE.fingerprint}"
    ]


def test_one_or_two_failures_that_are_tried_again_are_what_retries_are_for(desk: Desk) -> None:
    again = [(Kind.RECEIVED, n) for n in (1, 2, 3)], [(Kind.FAILED, n, {**FAILURE, "due": desk.now}) for n in (1, 2, 3)]
    steps: list[Step] = [step for pair in zip(*again, strict=True) for step in pair]
    desk.story("twice", PUBLISHED, *steps[:4])

    assert found(checked(desk), "failing") == []

    desk.story("thrice", PUBLISHED, *steps)

    (one,) = found(checked(desk), "failing")
    assert set(one.ids) == {"twice", "thrice"}


def test_what_the_queue_gave_up_by_itself_has_no_cause(desk: Desk) -> None:
    desk.story("given-up", PUBLISHED, (Kind.DEAD_LETTERED, 1, {"details": {"reason": "found in the dead letters"}}))

    (one,) = found(checked(desk), "dead-unread")

    assert one.ids == ("given-up",)
    assert one.figures["cause"] == "none"


# ---- time ------------------------------------------------------------------------------------------------------------------


def test_quantiles_are_values_that_occurred() -> None:
    assert [quantile([4, 1, 3, 2], share) for share in (0.25, 0.5, 0.75, 1.0)] == [1, 2, 3, 4]
    assert quantile([], 0.5) == 0


def test_a_delivery_that_was_extended_is_no_lease_too_short(desk: Desk) -> None:
    desk.story("long", PUBLISHED, (Kind.RECEIVED, 1, {"due": desk.now + 30 * SECOND}))
    desk.clock.advance(20)
    desk.write("long", (Kind.EXTENDED, 1, {"due": desk.now + 30 * SECOND}))
    desk.clock.advance(20)
    desk.write("long", (Kind.COMMITTED, 1), (Kind.ACKED, 1))
    desk.complete("bill:long", "long")

    assert found(checked(desk), "lease-too-short") == []


def test_a_delivery_that_was_overtaken_is(desk: Desk) -> None:
    desk.story("long", PUBLISHED, (Kind.RECEIVED, 1, {"due": desk.now + 30 * SECOND}))
    desk.clock.advance(31)
    desk.write("long", (Kind.RECEIVED, 2, {"due": desk.now + 30 * SECOND}), (Kind.COMMITTED, 2), (Kind.ACKED, 2))
    desk.complete("bill:long", "long")
    desk.clock.advance(10)
    desk.write("long", (Kind.SUPPRESSED, 1))

    (one,) = found(checked(desk), "lease-too-short")

    assert (one.ids, one.figures["lease"], one.figures["longest"]) == (("long",), "30 s", "41 s")


def test_what_was_only_in_the_hand_of_a_worker_that_something_slow_held_up_is_not_called_slow(desk: Desk) -> None:
    waited = Cause("1ea5e1ea5e00", "crossfoot.errors.LeaseLost", "LeaseLost", "", "it waited too long in this worker")
    desk.book.append([], [waited])
    lease = {"due": desk.now + 30 * SECOND}
    desk.story("slow", PUBLISHED, (Kind.RECEIVED, 1, lease), type="report.wanted")
    for id_ in ("quick-1", "quick-2"):
        desk.story(id_, PUBLISHED, (Kind.RECEIVED, 1, lease), (Kind.FAILED, 1, {"cause": waited.fingerprint}))
    desk.clock.advance(31)
    for id_ in ("quick-1", "quick-2", "slow"):
        desk.write(id_, (Kind.RECEIVED, 2, {"due": desk.now + 30 * SECOND}), (Kind.COMMITTED, 2), (Kind.ACKED, 2))
        desk.complete(f"do:{id_}", id_)
    quick = [one.ids for one in found(checked(desk), "lease-too-short")]
    desk.clock.advance(1)
    desk.write("slow", (Kind.SUPPRESSED, 1))

    assert quick == [("quick-1", "quick-2")]
    assert [one.ids for one in found(checked(desk), "lease-too-short")] == [("slow",)]


def test_messages_that_wait_for_their_turn_are_not_blocked(desk: Desk) -> None:
    failing: list[Step] = [(Kind.RECEIVED, 3), (Kind.FAILED, 3, {**FAILURE, "due": desk.now})]
    desk.story("other", PUBLISHED, subject="order-2")
    desk.story("first", PUBLISHED, *failing, subject="order-1")
    desk.story("behind", PUBLISHED, subject="order-1")

    assert found(checked(desk), "blocked") == []  # the one before them waits, too: the queue is long


# ---- retention ---------------------------------------------------------------------------------------------------------------


def test_time_to_loss_counts_the_drain_rate(desk: Desk) -> None:
    for id_ in ids("waits", 10):
        desk.story(id_, PUBLISHED)
    desk.clock.advance(3_000)
    desk.settle("done-1", "done-2")  # two in ten minutes: the tenth is handled in 45 minutes, and forgotten in ten

    (one,) = found(checked(desk, desk.now, attached=attached(retention=3_600.0)), "loss-ahead")

    # n / (2 / 600 s) > 600 s from the third on
    assert one.ids == tuple(ids("waits", 10)[3:])
    assert one.figures["time to loss"] == "10 min"
    assert one.figures["handled a second"] == "0.00333"


def test_what_was_only_just_published_to_a_queue_with_a_short_retention_is_not_about_to_be_lost(desk: Desk) -> None:
    desk.story("young", PUBLISHED)
    desk.clock.advance(60)

    assert found(checked(desk, attached=attached(retention=3_600.0)), "loss-ahead") == []


@pytest.mark.parametrize(("origin", "left"), [(True, "1 d"), (False, "2 d")], ids=["standard SQS", "FIFO"])
def test_dead_letters_of_a_standard_sqs_queue_are_as_old_as_their_first_send(
    desk: Desk, origin: bool, left: str
) -> None:
    desk.story("dies", PUBLISHED)
    desk.clock.advance(DAY)
    desk.write("dies", RECEIVED, (Kind.FAILED, 1, FAILURE), (Kind.DEAD_LETTERED, 1, FAILURE))
    desk.clock.advance(DAY)

    (one,) = found(checked(desk, attached=attached(dead_retention=3 * DAY, since_origin=origin)), "loss-ahead")

    assert (one.ids, one.figures["time to loss"]) == (("dies",), left)
    assert one.figures["cause"] == CAUSE.fingerprint


# ---- replay ------------------------------------------------------------------------------------------------------------------


def test_a_dead_letter_that_was_overtaken_is_a_risk_unless_all_handlers_take_events_in_order(desk: Desk) -> None:
    desk.story("early", *DIED, subject="case-1", sequence=1)
    desk.story("late", PUBLISHED, RECEIVED, (Kind.COMMITTED, 1), (Kind.ACKED, 1), subject="case-1", sequence=2)
    desk.complete("bill:late", "late")

    (one,) = found(checked(desk), "stale-replay")
    assert one.ids == ("early",)
    guarded = HandlerTold("bill", "case.*", (), in_order=True)
    assert found(checked(desk, handlers=(guarded,)), "stale-replay") == []


def test_a_dead_letter_whose_payload_is_not_kept_is_told(desk: Desk) -> None:
    desk.story("bare", *DIED, body=None)
    desk.story("kept", *DIED)

    (one,) = found(checked(desk), "no-payload")

    assert one.ids == ("bare",)


# ---- settings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"warnings": ("it forgets on Tuesdays",)}, "it forgets on Tuesdays"),
        ({"retention": DAY}, "it forgets after 1 d, and recovering may take 3 d"),
        ({"buries": False}, "no place for dead letters"),
        ({"dead_retention": 4 * DAY, "since_origin": True}, "one that dies late is forgotten at once"),
        ({"lease": 10.0}, "its own visibility timeout is 10 s, and the slowest handling took 20 s"),
        ({"dead": 2}, "2 dead letters of it are not in the book"),
    ],
)
def test_a_setting_that_may_lose_something_is_told(desk: Desk, told: dict[str, Any], words: str) -> None:
    desk.story("slow", PUBLISHED, (Kind.RECEIVED, 1, {"due": desk.now + 30 * SECOND}))
    desk.clock.advance(20)
    desk.write("slow", (Kind.COMMITTED, 1), (Kind.ACKED, 1))
    desk.complete("bill:slow", "slow")

    (one,) = found(checked(desk, attached=attached(**told)), "setting")

    assert words in one.text
    assert checked(desk, accept=(f"setting:{QUEUE}",), attached=attached(**told)).well


def test_a_queue_that_is_well_set_is_told_nothing(desk: Desk) -> None:
    desk.settle("one")

    well = attached(lease=30.0, buries=True, dead_retention=14 * DAY, dead=0, retention=4 * DAY, since_origin=True)
    assert checked(desk, attached=well).findings == ()


def test_a_queue_that_was_not_asked_is_not_called_well(desk: Desk) -> None:
    desk.settle("one")

    answers = {one.question: one for one in checked(desk, unasked=("queue letters (no setting leads to it)",)).answers}

    assert answers["settings"].verdict == "not asked"
    assert "letters" in answers["settings"].note


# ---- waiting -----------------------------------------------------------------------------------------------------------------


def test_what_waits_is_told_when_its_time_is_over_and_not_before(desk: Desk) -> None:
    desk.story("waits", (Kind.PUBLISHED, 0, {"due": desk.now}))

    own = {QUEUE: Attached(name=QUEUE, local=True)}
    assert checked(desk, attached=own).well
    late = desk.now + PATIENCE.stranded + 1
    assert [one.code for one in checked(desk, late, attached=own).findings] == ["nobody-receives"]


def test_queues_that_another_service_works_are_not_called_a_wrong_name(desk: Desk) -> None:
    desk.story("letter", PUBLISHED, queue="letters")

    assert found(checked(desk, queue="shop", sends_to=("letters",)), "nobody-publishes") == []
    assert found(checked(desk), "nobody-publishes") == []  # nobody knows what is worked, and the names are not alike
    assert [one.ids for one in found(checked(desk, queue="letter"), "nobody-publishes")] == [("letter",)]


def test_a_name_that_is_not_alike_is_wrong_where_the_program_takes_what_lies_there(desk: Desk) -> None:
    desk.story("letter", PUBLISHED, queue="mail", type="letter.wanted")
    takes, other = (HandlerTold("print", type_, (), in_order=False) for type_ in ("letter.*", "case.*"))

    assert found(checked(desk, queue="press", handlers=(other,)), "nobody-publishes") == []
    assert [one.ids for one in found(checked(desk, queue="press", handlers=(takes,)), "nobody-publishes")] == [
        ("letter",)
    ]


def test_what_waits_because_of_a_wrong_name_is_told_once(desk: Desk) -> None:
    desk.story("letter", (Kind.PUBLISHED, 0, {"due": desk.now}), queue="letters")

    report = checked(desk, desk.now + PATIENCE.stranded + 1, queue="letter")

    assert [one.code for one in report.findings] == ["nobody-publishes"]


# ---- cost --------------------------------------------------------------------------------------------------------------------


def steps_of_a_survey(path: Path) -> int:
    """Thousands of steps of SQLite's machine."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with closing(connect(path, read_only=True)) as connection:
        connection.set_progress_handler(count, 1_000)
        known = lately.queues(connection)
        survey(connection, 2_000_000_000 * SECOND, bounds=Bounds(newest=200))
        connection.set_progress_handler(None, 0)
    assert known
    return steps


def test_a_survey_of_a_book_ten_times_as_large_costs_no_more(tmp_path: Path) -> None:
    make(tmp_path / "small.db", 4_000, others=0.01, hours=1.0)
    make(tmp_path / "large.db", 40_000, others=0.001, hours=1.0)

    small, large = steps_of_a_survey(tmp_path / "small.db"), steps_of_a_survey(tmp_path / "large.db")

    assert large < 1.5 * small, (small, large)
