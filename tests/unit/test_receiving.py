"""Of messages that others may have taken up into a book of their own, a publisher's says neither that they are stranded nor that all is
well."""

from __future__ import annotations

from typing import Any

import pytest

from crossfoot.books.entry import Kind
from crossfoot.books.losing import Memory
from crossfoot.books.posting import post_all
from crossfoot.outcomes.alerts.watching import Turn
from crossfoot.recover.checklist.survey import Attached, HandlerTold, Service, survey
from crossfoot.recover.checklist.walk import Report, walk
from tests.unit.alert_rig import Watch, published
from tests.unit.book_rig import QUEUE, Desk, Lectern

pytest_plugins = ["tests.servers.postgres_fixtures", "tests.unit.desk_fixtures"]

LATE = 3_600.0


def woken(desk: Lectern, held: int | None) -> list[Turn]:
    """What an hour's watching comes to, of a queue that holds so much."""
    watch = Watch(desk)
    watch.memory = {QUEUE: Memory(held=held)}
    watch.wait(LATE, every=600)
    return [turn for turn in watch.turns if turn.alert == "stranded"]


def checked(desk: Lectern, held: int | None = None, **service: Any) -> Report:
    post_all(desk.book)
    attached = {QUEUE: Attached(name=QUEUE, held=held)} if held is not None else {}
    with desk.book.reading() as connection:
        return walk(survey(connection, desk.now, service=Service(attached=attached, **service), depth_of=None))


def codes(report: Report) -> list[str]:
    return [one.code for one in report.findings]


def note(report: Report) -> str:
    return next(one.note for one in report.answers if one.question == "balance")


class TestWhatOthersMayHaveTaken:
    @pytest.mark.parametrize("held", [None, 0, 2], ids=["not asked", "empty", "fewer than were sent"])
    def test_nobody_is_woken_and_nobody_accused(self, desk: Lectern, held: int | None) -> None:
        published(desk, "a", "b", "c")
        assert woken(desk, held) == []
        assert codes(checked(desk, held)) == []

    def test_it_is_said_what_cannot_be_known_and_who_knows(self, desk: Lectern) -> None:
        published(desk, "a", "b", "c")
        desk.clock.advance(LATE)
        assert note(checked(desk)) == (
            f"not known: whether anybody received 3 sent to queue {QUEUE}: the book of whoever does tells"
        )
        assert f"3 sent to queue {QUEUE} (which holds 2)" in note(checked(desk, held=2))
        assert note(checked(desk, held=0)) == ""

    def test_of_a_queue_that_holds_all_that_was_ever_sent_everybody_knows(self, desk: Lectern) -> None:
        published(desk, "a", "b", "c")
        (turn,) = woken(desk, 3)
        assert set(turn.told.ids) == {"a", "b", "c"}
        (finding,) = checked(desk, held=3).findings
        assert (finding.code, finding.figures["held by the queue"]) == ("nobody-receives", "3")
        assert set(finding.ids) == {"a", "b", "c"}

    @pytest.mark.parametrize("held", [None, 0, 2])
    def test_nothing_is_called_lost_nor_waited_for_there(self, desk: Lectern, held: int | None) -> None:
        desk.book.start_worker("worker-1", "billing")  # which works another queue
        watch = Watch(desk, messages=LATE, held=held)
        published(desk, "a", "b", "c")
        for _ in range(60):
            desk.book.see_worker(1)
            watch.wait(60, every=60)
        assert watch.turns == []
        attached = {QUEUE: Attached(name=QUEUE, held=held, retention=LATE)}
        post_all(desk.book)
        with desk.book.reading() as connection:
            report = walk(survey(connection, desk.now, service=Service(attached=attached), depth_of=None))
        assert "loss-ahead" not in codes(report)


class TestWhatThisBookWouldKnow:
    def test_a_queue_that_its_workers_took_from_before(self, desk: Lectern) -> None:
        published(desk, "taken", "left")
        desk.write("taken", (Kind.RECEIVED, 1), (Kind.COMMITTED, 1))
        desk.complete("bill:taken", "taken")
        (turn,) = woken(desk, None)
        assert turn.told.ids == ("left",)
        assert codes(checked(desk)) == ["stranded"]

    def test_a_queue_that_its_own_program_is_there_to_receive_from(self, desk: Lectern) -> None:
        published(desk, "a")
        desk.clock.advance(LATE)
        bill = HandlerTold("bill", "case.*", (), in_order=False)
        assert codes(checked(desk, queue=QUEUE, handlers=(bill,))) == ["nobody-receives"]
        assert codes(checked(desk, queue=QUEUE, handlers=())) == [], "a program without handlers only sends"
        assert codes(checked(desk, queue="elsewhere", handlers=(bill,), sends_to=(QUEUE,))) == []

    def test_a_queue_in_its_own_file(self, tmp_path: Any) -> None:
        desk = Desk(tmp_path / "book.db")
        try:
            desk.publish("a")
            (turn,) = woken(desk, None)
            assert turn.told.ids == ("a",)
            assert codes(checked(desk)) == ["nobody-receives"]
        finally:
            desk.close()

    def test_an_episode_is_not_over_because_the_queue_is_asked_no_more(self, desk: Lectern) -> None:
        published(desk, "a")
        assert len(woken(desk, 1)) == 1
        assert woken(desk, None) == []
        assert [turn.change for turn in woken(desk, 0)] == ["closed"]
