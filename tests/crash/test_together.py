"""Several workers at once on one queue, and workers that freeze past their lease."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from crossfoot.books.entry import Kind
from tests.crash.job import FORMS, GOOD, Sent
from tests.crash.nursery import Nursery
from tests.crash.scene import Scene

pytestmark = [pytest.mark.crash, pytest.mark.server]

QUEUES = pytest.mark.parametrize("queue", ["embedded", "sqs", "redis", "postgres"])


@pytest.fixture
def scene_on(nursery: Nursery, request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> Callable[..., Scene]:
    def make(queue: str, **options: object) -> Scene:
        endpoint = request.getfixturevalue(queue).url if queue != "embedded" else None
        scene = Scene(nursery, tmp_path, seed=seed, endpoint=endpoint, **options)  # type: ignore[arg-type] # keywords of its own
        scene.job = scene.job.but(hold=str(tmp_path / "hold"))
        return scene

    return make


def eventually(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def kinds(path: str, id_: str) -> list[Kind]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            """SELECT e.kind FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message
            WHERE m.id = ? ORDER BY e.id""",
            (id_,),
        ).fetchall()
    return [Kind(kind) for (kind,) in rows]


@QUEUES
@pytest.mark.parametrize("batch", [1, 4], ids=["plain", "batch"])
def test_two_workers_with_short_leases_and_duplicates_settle_every_operation_once(
    queue: str, batch: int, scene_on: Callable[..., Scene], seed: int
) -> None:
    scene = scene_on(queue, batch=batch, form=FORMS[seed % len(FORMS)])
    scene.job = scene.job.but(hold="")
    scene.publish(scene.traffic(60, name="case"))

    pids = scene.pids(2, pause=0.02)
    assert [scene.nursery.wait(pid) for pid in pids] == [0, 0], scene.nursery.said()

    assert scene.settle() == 0
    found = scene.audit()
    assert found.clean, f"CRASH_SEED={seed}: {found}"


@QUEUES
@pytest.mark.parametrize("form", FORMS)
def test_a_worker_that_wakes_up_after_its_lease_does_not_commit_a_second_effect(
    queue: str, form: str, scene_on: Callable[..., Scene]
) -> None:
    """Frozen in the handler, before its transaction; meanwhile another one did the work."""
    scene = scene_on(queue, form=form, plain=True)
    if not form.startswith(("sqlalchemy", "django")):
        _wake_up_late(scene, expect=(Kind.SUPPRESSED, Kind.FAILED))
        return
    # There the transaction begins before the handler: who freezes inside it holds everybody up, and loses nothing.
    _wake_up_holding_the_lock(scene)


@QUEUES
def test_a_worker_that_freezes_inside_its_transaction_holds_the_others_up_and_nothing_is_doubled(
    queue: str, scene_on: Callable[..., Scene]
) -> None:
    scene = scene_on(queue, plain=True)
    scene.job = scene.job.but(hold_inside=True)
    _wake_up_holding_the_lock(scene)


def _wake_up_late(scene: Scene, *, expect: tuple[Kind, ...]) -> None:
    case = Sent("frozen", GOOD, "case-frozen")
    scene.publish((case,))
    hold = Path(scene.job.hold)
    (frozen,) = scene.pids(1)
    eventually(hold.exists, "the first worker to be inside its handler")
    scene.nursery.stop(frozen)

    other = scene.job.but(hold="", role="settle")
    assert scene.nursery.run(other) == 0, scene.nursery.said()
    before = kinds(scene.job.path, case.id)
    assert before.count(Kind.COMMITTED) == 1

    hold.unlink()
    scene.nursery.go_on(frozen)
    assert scene.nursery.wait(frozen) == 0, scene.nursery.said()
    assert hold.with_suffix(".passed").exists(), "the frozen handler never went on"
    late = kinds(scene.job.path, case.id)[len(before) :]
    assert set(late) & set(expect), f"the late delivery left no trace: {late}"
    assert Kind.COMMITTED not in late

    assert scene.nursery.run(other) == 0
    found = scene.audit()
    assert found.clean, found


def _wake_up_holding_the_lock(scene: Scene) -> None:
    scene.publish((Sent("frozen", GOOD, "case-frozen"),))
    hold = Path(scene.job.hold)
    (frozen,) = scene.pids(1)
    eventually(hold.exists, "the first worker to be inside its transaction")
    scene.nursery.stop(frozen)
    (waiting,) = scene.pids(1, role="settle", hold="")
    until = time.monotonic() + 2 * scene.job.lease
    eventually(lambda: time.monotonic() > until, "the lease to be over")
    assert kinds(scene.job.path, "frozen").count(Kind.COMMITTED) == 0

    hold.unlink()
    scene.nursery.go_on(frozen)
    assert scene.nursery.wait(frozen) == 0, scene.nursery.said()
    assert scene.nursery.wait(waiting) == 0, scene.nursery.said()
    assert kinds(scene.job.path, "frozen").count(Kind.COMMITTED) == 1
    found = scene.audit()
    assert found.clean, found


@pytest.mark.parametrize("signals", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_told_to_end_by_an_unhandled_signal_loses_nothing_either(
    signals: signal.Signals, scene_on: Callable[..., Scene]
) -> None:
    import os

    scene = scene_on("embedded", plain=True)
    scene.publish(scene.traffic(20, name="case"))
    (pid,) = scene.pids(1, pause=0.05)
    eventually(Path(scene.job.hold).exists, "a handler to run")
    Path(scene.job.hold).unlink()
    os.kill(pid, signals)
    assert scene.nursery.wait(pid) != 0
    scene.job = scene.job.but(hold="")
    assert scene.settle() == 0
    found = scene.audit()
    assert found.clean, found
