"""The checklist where there is much, or where things look ill and are well: exact counts and ids, and nobody accused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crossfoot.books import sql
from crossfoot.books.cause import Cause
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.failures import standing
from crossfoot.books.posting import post_all
from crossfoot.books.record import Record
from crossfoot.books.stock import Part
from crossfoot.clock import SECOND
from crossfoot.queues.telling import Told
from crossfoot.recover.checklist import survey as surveying
from crossfoot.recover.checklist.findings import SHOWN, Finding
from crossfoot.recover.checklist.survey import Attached, HandlerTold, Service, survey
from crossfoot.recover.checklist.walk import walk
from tests.unit.book_rig import CAUSE, QUEUE, Desk

DAY = 86_400.0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(tmp_path / "book.db")) as desk:
        yield desk


def findings(desk: Desk, code: str, *, part: Part | None = None, **service: Any) -> list[Finding]:
    post_all(desk.book)
    with desk.book.reading() as connection:
        read = survey(connection, desk.now, service=Service(**service), part=part, depth_of=None)
    return [one for one in walk(read).findings if one.code == code]


def attached(name: str = QUEUE, **told: Any) -> dict[str, Attached]:
    retention, dead = told.pop("retention", 14 * DAY), told.pop("dead", None)
    return {name: Attached(name=name, retention=retention, dead=dead, told=Told(**told))}


def many(
    desk: Desk, count: int, *kinds: tuple[Kind, int], queue: str = QUEUE, cause: Cause = CAUSE, prefix: str = "m"
) -> None:
    """So many messages with the same entries, written together."""
    keys = desk.book.keys_of([
        Record(
            queue=queue, source="tests", id=f"{prefix}{number:05}", type="case.released", subject=None, operation=None, correlation=None,
            causation=None, sequence=None, at=desk.now, body=b"{}",
        )
        for number in range(count)
    ])  # fmt: skip
    failed = (Kind.FAILED, Kind.DEAD_LETTERED)
    desk.book.append(
        [
            Entry(
                message=key, kind=kind, attempt=attempt, delivery=attempt, at=desk.now, due=desk.now,
                cause=cause.fingerprint if kind in failed else None,
            )
            for key in keys for kind, attempt in kinds
        ],
        [cause],
    )  # fmt: skip


DIED = ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1), (Kind.DEAD_LETTERED, 1))


# ---- dead letters ----------------------------------------------------------------------------------------------------


def test_of_four_thousand_dead_letters_the_time_to_loss_is_of_all_and_of_each_queue(desk: Desk) -> None:
    many(desk, SHOWN + 200, *DIED, queue="elsewhere", prefix="e")
    many(desk, SHOWN + 500, *DIED)
    desk.clock.advance(12 * DAY)

    (one,) = findings(desk, "loss-ahead", attached=attached(dead_retention=14 * DAY, since_origin=True))

    assert (one.queue, one.count, len(one.ids)) == (QUEUE, SHOWN + 500, SHOWN)
    assert all(id_.startswith("m") for id_ in one.ids)


def test_dead_letters_with_time_left_are_not_called_lost_with_those_that_have_none(desk: Desk) -> None:
    many(desk, 2, *DIED, prefix="old")
    desk.clock.advance(10 * DAY)
    many(desk, 3, *DIED, prefix="new")
    desk.clock.advance(2 * DAY)

    (one,) = findings(desk, "loss-ahead", attached=attached(dead_retention=14 * DAY, since_origin=True))

    assert set(one.ids) == {"old00000", "old00001"}


def test_dead_letters_that_are_booked_are_watched_however_many_there_are(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveying, "standing", lambda *a, **k: [])  # as if none were read one by one
    many(desk, 30, *DIED)

    assert findings(desk, "setting", attached=attached(dead=30)) == []
    assert len(findings(desk, "setting", attached=attached(dead=31))) == 1


def test_of_one_type_the_queues_own_count_says_nothing(desk: Desk) -> None:
    many(desk, 3, *DIED)
    desk.story("other", (Kind.PUBLISHED, 0), type="case.closed")

    assert findings(desk, "setting", part=Part(type="case.closed"), attached=attached(dead=3)) == []


# ---- what waits ------------------------------------------------------------------------------------------------------


def test_a_backlog_behind_what_is_read_one_by_one_is_lost_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveying, "standing", lambda *a, **k: standing(*a, **{**k, "limit": 20}))
    many(desk, 500, (Kind.PUBLISHED, 0))
    desk.clock.advance(600)
    for number in range(60):  # 0.1 a second: 180 in the half hour for which the queue remembers them
        desk.story(f"d{number}", (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.COMMITTED, 1), (Kind.ACKED, 1))

    (one,) = findings(desk, "loss-ahead", attached=attached(retention=1_800.0))

    assert one.count > 300
    assert one.figures["waiting"] == "500"


def test_one_that_is_tried_again_and_again_is_lost_beside_others_that_are_quick(desk: Desk) -> None:
    desk.story("poison", (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1, {"due": desk.now}))
    desk.clock.advance(3 * DAY)
    many(desk, 200, (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.COMMITTED, 1))

    (one,) = findings(desk, "loss-ahead", attached=attached(retention=4 * DAY))

    assert one.ids == ("poison",)


def test_what_is_put_off_is_not_about_to_be_lost_unless_that_is_longer_than_its_queue_remembers(desk: Desk) -> None:
    for id_, days in (("soon", 2.5), ("never", 5.0)):
        due = desk.now + round(days * DAY * SECOND)
        desk.story(id_, (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1, {"due": due}))
    desk.clock.advance(2 * DAY)

    (one,) = findings(desk, "loss-ahead", attached=attached(retention=4 * DAY))

    assert one.ids == ("never",)


def test_what_waits_for_an_event_that_does_not_come_is_told_when_its_time_is_over(desk: Desk) -> None:
    desk.story(
        "early",
        (Kind.PUBLISHED, 0),
        (Kind.RECEIVED, 1),
        (Kind.PARKED, 1, {"due": desk.now}),
        subject="case-1",
        sequence=7,
    )
    assert findings(desk, "stranded") == []
    desk.clock.advance(1_000)

    (one,) = findings(desk, "stranded")

    assert one.ids == ("early",)
    assert "earlier event" in one.text


# ---- twice, and without ---------------------------------------------------------------------------------------------------


def settle(desk: Desk, id_: str, operation: str, *outcomes: str, subject: str = "case-1", **attributes: Any) -> None:
    desk.story(
        id_,
        (Kind.PUBLISHED, 0),
        (Kind.RECEIVED, 1),
        (Kind.COMMITTED, 1),
        (Kind.ACKED, 1),
        subject=subject,
        body=BODY,
        **attributes,
    )
    desk.complete(operation, id_)
    for name in outcomes:
        desk.execute(sql.INSERT_OUTCOME, desk.keys[id_], name, subject, desk.now, None)


BODY = b'{"specversion":"1.0","id":"x","source":"tests","type":"case.released","data":{"amount":7}}'


def itself(id_: str) -> str:
    return f"{QUEUE}|tests|{id_}"


def test_an_operation_that_is_named_after_the_message_is_done_twice_too(desk: Desk) -> None:
    for id_ in ("a", "b"):
        settle(desk, id_, f"charge:{id_}")

    (one,) = findings(desk, "effect-twice")

    assert set(one.ids) == {"a", "b"}
    assert "names the message's id" in one.text


def test_what_is_stored_in_another_form_is_not_compared(desk: Desk) -> None:
    for id_ in ("a", "b"):  # of two amounts, and both are blacked out
        settle(desk, id_, itself(id_))

    assert len(findings(desk, "effect-twice")) == 1
    assert findings(desk, "effect-twice", veiled=True) == []


def test_a_sign_of_life_that_repeats_for_hours_is_no_effect_twice_and_a_burst_is(desk: Desk) -> None:
    for number in range(30):
        settle(desk, f"alive-{number}", itself(f"alive-{number}"), subject="pump-1")
        desk.clock.advance(300)
    assert findings(desk, "effect-twice") == []
    for number in range(5):
        settle(desk, f"again-{number}", itself(f"again-{number}"), subject="case-9")

    (one,) = findings(desk, "effect-twice")

    assert set(one.ids) == {f"again-{number}" for number in range(5)}


def test_what_ends_with_another_outcome_did_not_end_without_one(desk: Desk) -> None:
    for number in range(40):
        ended = {3: ["invoice.waived"], 7: [], 9: ["mail.sent"]}.get(number, ["invoice.issued", "mail.sent"])
        settle(desk, f"m{number}", f"bill:{number}", *ended, subject=f"case-{number}")

    found = {
        name: one
        for one in findings(desk, "no-outcome")
        for name in ("invoice.issued", "mail.sent")
        if name in one.text
    }

    assert set(found["invoice.issued"].ids) == {"m7", "m9"}, "one was waived, and that is an end"
    assert set(found["mail.sent"].ids) == {"m7"}


def test_an_outcome_is_the_habit_of_a_type_on_a_queue_and_not_on_another(desk: Desk) -> None:
    for number in range(60):
        settle(desk, f"m{number}", f"bill:{number}", "invoice.issued", subject=f"case-{number}")
    for number in range(5):
        settle(desk, f"log-{number}", f"log:{number}", subject=f"case-{number}", queue="audit")

    assert findings(desk, "no-outcome") == []


def test_a_dead_letter_is_no_risk_where_its_own_handler_takes_events_in_order(desk: Desk) -> None:
    desk.story("dead", *DIED_ONE, subject="case-1", sequence=1)
    settle(desk, "later", "bill:2", sequence=2)
    ordered = HandlerTold("bill", "case.*", (), True)
    other = HandlerTold("mail", "mail.wanted", (), False)

    assert findings(desk, "stale-replay", handlers=(ordered, other)) == []
    assert len(findings(desk, "stale-replay", handlers=(other,))) == 1


def test_a_dead_letter_is_not_held_against_another_kind_of_events_of_its_subject(desk: Desk) -> None:
    desk.story("dead", *DIED_ONE, subject="case-1", sequence=1, type="bed.taken")
    settle(desk, "alarm", "ring:9", type="alarm.raised", sequence=9)
    assert findings(desk, "stale-replay") == []

    settle(desk, "left", "bed:2", type="bed.left", sequence=2)
    assert len(findings(desk, "stale-replay")) == 1


DIED_ONE: Any = (
    (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1, {"cause": CAUSE.fingerprint}), (Kind.DEAD_LETTERED, 1),
)  # fmt: skip
