"""Failures by cause: since when, also where the cause had been over and came back."""

from __future__ import annotations

from crossfoot.books.failures import Failed, Standing
from crossfoot.books.fate import Fate
from crossfoot.books.queries import CauseRow, WorkerRow
from crossfoot.clock import SECOND, Micros
from crossfoot.recover.checklist.grouped import Background, CauseGroup, grouped
from crossfoot.recover.phrases import worker_name

MINUTE = 60 * SECOND


def dead(id_: str, *, sent: Micros, failed: Micros) -> Standing:
    return Standing(
        key=failed, queue="shop", source="shop", id=id_, type="order.placed", subject=None, sequence=None, fate=Fate.DEAD, marks=0,
        latest=0, due=0, at=sent, sent_at=sent, failed=Failed(cause="f1", at=failed, worker=1, details="{}"),
    )  # fmt: skip


def worker_at(started_at: Micros) -> WorkerRow:
    return WorkerRow(
        number=1, name="shop", service="shop", host="here", pid=1, version="0.1.0", started_at=started_at, seen_at=started_at,
        stopped_at=None,
    )  # fmt: skip


def one(*members: Standing, first_at: Micros, started_at: Micros = 0) -> CauseGroup:
    cause = CauseRow(fingerprint="f1", kind="ValueError", title="ValueError at shop:9", frames="", first_at=first_at)
    (group,) = grouped(members, Background({"f1": cause}, [worker_at(started_at)], {}))
    return group


def test_a_cause_that_came_back_began_when_it_came_back() -> None:
    back = 60 * MINUTE

    group = one(dead("late", sent=back - MINUTE, failed=back), first_at=2 * MINUTE, started_at=back - 2 * MINUTE)

    assert (group.first_at, group.last_at, group.known_at) == (back, back, 2 * MINUTE)
    assert group.changes == (f"{worker_name(worker_at(back - 2 * MINUTE))} had started 2 min before",)


def test_a_cause_that_lasts_began_with_its_first_failure() -> None:
    """It was booked at the first of several tries."""
    group = one(
        dead("early", sent=MINUTE, failed=9 * MINUTE),
        dead("late", sent=8 * MINUTE, failed=10 * MINUTE),
        first_at=2 * MINUTE,
    )

    assert (group.first_at, group.last_at, group.known_at) == (2 * MINUTE, 10 * MINUTE, None)
