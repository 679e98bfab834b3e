"""Several processes on one file: no message is leased to two of them, and a killed one spoils nothing."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from crossfoot.clock import SystemClock
from crossfoot.queues.embedded.store import EmbeddedStore
from tests.unit.embedded_rig import consume, make_file, make_store, messages, rows, work_until_killed

spawn = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_file(tmp_path / "queue.db")


@pytest.fixture
def store(path: Path) -> EmbeddedStore:
    return make_store(path, clock=SystemClock())


def test_processes_that_claim_at_once_never_hold_the_same_message(path: Path, store: EmbeddedStore) -> None:
    sent = 3_000
    store.publish(messages(sent // 2))
    for line in range(10):
        store.publish(messages(sent // 20, partition=f"case-{line}"))
    pipes, processes = [], []
    for _ in range(4):
        ours, theirs = spawn.Pipe(duplex=False)
        process = spawn.Process(target=consume, args=(str(path), theirs))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    given = [receipt for pipe in pipes for receipt in pipe.recv()]
    for process in processes:
        process.join()
    assert sorted(int(receipt.partition(".")[0]) for receipt in given) == list(range(1, sent + 1))
    assert (store.depth().held, store.counts().acked) == (0, sent)


@pytest.mark.crash
def test_processes_killed_at_any_moment_leave_a_sound_file_and_nothing_lost(path: Path, store: EmbeddedStore) -> None:
    seed = int(os.environ.get("CROSSFOOT_SEED", "7"))
    dice = random.Random(seed)
    for _ in range(4):
        pairs = [_start(path) for _ in range(2)]
        for _, pipe in pairs:
            pipe.recv()  # it is at work
        for process, pipe in pairs:
            for _ in range(dice.randrange(30)):
                pipe.recv()
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        assert rows(path, "PRAGMA integrity_check") == [("ok",)], f"seed {seed}"
        depth, counts = store.depth(), store.counts()
        assert counts.accepted == depth.held + counts.acked, f"seed {seed}"
    rows(path, "UPDATE crossfoot_queue SET visible_at = enqueued_at")  # the leases of the dead are over
    left = store.depth().held
    while deliveries := store.claim(200, 60):
        left -= len(deliveries)
        store.ack([delivery.receipt for delivery in deliveries])
    assert (left, store.depth().held) == (0, 0), f"seed {seed}"


def _start(path: Path) -> tuple[SpawnProcess, Pipe]:
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=work_until_killed, args=(str(path), theirs))
    process.start()
    theirs.close()
    return process, ours
