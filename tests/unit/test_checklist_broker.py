"""What a broker counted for itself, beside what the book has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crossfoot.clock import SECOND
from crossfoot.queues.telling import Counted
from crossfoot.recover.checklist.broker import LATE
from crossfoot.recover.checklist.findings import Finding
from crossfoot.recover.checklist.survey import Attached, Service, survey
from crossfoot.recover.checklist.walk import walk
from tests.unit.book_rig import QUEUE, Desk

STRETCH = 300 * SECOND


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(tmp_path / "book.db")) as desk:
        yield desk


def found(desk: Desk, *counted: Counted) -> list[Finding]:
    service = Service(attached={QUEUE: Attached(name=QUEUE, retention=14 * 86_400.0, counted=counted)})
    with desk.book.reading() as connection:
        report = walk(survey(connection, desk.now, service=service, depth_of=None))
    return [one for one in report.findings if one.code == "received-elsewhere"]


def worked(desk: Desk, count: int) -> Counted:
    """So many messages, and what an exact broker counts of them: in a stretch that ended long enough ago."""
    begin = desk.now
    desk.settle(*[f"m{number}" for number in range(count)])
    desk.clock.advance((STRETCH + LATE) / SECOND)
    return Counted(at=begin, until=begin + STRETCH, sent=count, received=count, deleted=count)


def and_others(counted: Counted, received: int, deleted: int) -> Counted:
    return Counted(
        at=counted.at, until=counted.until, sent=counted.sent,
        received=counted.received + received, deleted=counted.deleted + deleted,
    )  # fmt: skip


def test_counts_that_agree_say_nothing(desk: Desk) -> None:
    assert found(desk, worked(desk, 30)) == []


def test_a_few_that_the_book_does_not_have_prove_nothing(desk: Desk) -> None:
    """A worker that dies before its first entry has received, too."""
    assert found(desk, and_others(worked(desk, 200), 20, 20)) == []


def test_what_somebody_else_receives_and_deletes_is_told_with_both_counts(desk: Desk) -> None:
    (told,) = found(desk, and_others(worked(desk, 30), 20, 20))
    assert told.count == 20
    assert "counts 50 deliveries and 50 deletions, and the workers of this book had 30 and 30" in told.text
    assert told.figures["deleted"] == "50 (30 here)"
    assert [step.command for step in told.next] == [None, "crossfoot balance"]


def test_somebody_who_only_looks_is_told_too(desk: Desk) -> None:
    (told,) = found(desk, and_others(worked(desk, 30), 40, 0))
    assert told.count == 40


def test_what_was_before_the_book_began_is_not_compared(desk: Desk) -> None:
    before = Counted(at=desk.now - 2 * STRETCH, until=desk.now - STRETCH, sent=500, received=500, deleted=500)
    assert found(desk, before, worked(desk, 30)) == []


def test_what_may_still_be_on_its_way_to_the_counters_is_not_compared(desk: Desk) -> None:
    complete = worked(desk, 30)
    late = Counted(at=desk.now - STRETCH, until=desk.now, sent=0, received=300, deleted=300)
    assert found(desk, complete, late) == []


def test_a_message_that_its_worker_buried_was_deleted_by_it(desk: Desk) -> None:
    begin = desk.now
    ids = [f"d{number}" for number in range(30)]
    desk.bury(*ids)
    desk.clock.advance((STRETCH + LATE) / SECOND)
    assert found(desk, Counted(at=begin, until=begin + STRETCH, sent=30, received=30, deleted=30)) == []
