"""What a handler says from several threads at once: all of it is kept."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from crossfoot.clock import SystemClock
from crossfoot.effects.handler import Handler
from crossfoot.effects.hold import Hold
from crossfoot.effects.work import Work
from crossfoot.message import Message

THREADS = 8


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_the_first_words_of_many_threads_are_all_kept() -> None:
    handler = Handler(name="h", service="s", type="t", function=lambda message, tx: None, operation=lambda message: "o")
    for _ in range(200):
        hold = Hold(key=1, delivery=1, attempt=1, worker=1, queue="q", body=b"")
        work = Work(handler, Message(type="t", source="s"), hold, SystemClock())
        together = threading.Barrier(THREADS)

        def speak(work: Work = work, together: threading.Barrier = together) -> None:
            together.wait()
            work.tell().receipts.append("stripe:1")

        threads = [threading.Thread(target=speak) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert work.told is not None
        assert len(work.told.receipts) == THREADS
