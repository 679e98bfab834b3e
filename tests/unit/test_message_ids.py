"""Ids: they tell the time, increase, and are never shared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.clock import ManualClock
from crossfoot.message.ids import Ids

UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def test_ids_are_uuids_of_version_7_that_tell_the_time() -> None:
    clock = ManualClock()

    id = Ids(clock).next()

    assert re.fullmatch(UUID7, id)
    assert int(id.replace("-", "")[:12], 16) == clock.now() // 1_000
    assert UUID(id).version == 7


@given(st.lists(st.floats(-3, 3), max_size=50))
def test_ids_increase_whatever_the_clock_does(steps: list[float]) -> None:
    clock = ManualClock()
    ids = Ids(clock)
    made = [ids.next()]
    for step in steps:
        clock.advance(step)
        made.append(ids.next())

    assert made == sorted(set(made))
    assert all(re.fullmatch(UUID7, id) for id in made)


def test_ids_move_on_to_the_next_millisecond_when_one_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: b"\xff" * count)
    ids = Ids(ManualClock())

    first, second = ids.next(), ids.next()

    assert first < second
    assert re.fullmatch(UUID7, second)
    assert int(second.replace("-", "")[:12], 16) == int(first.replace("-", "")[:12], 16) + 1


class Hesitant(Ids):
    """Lets other threads go first at the worst moment: between reading the last id and writing the next."""

    @property
    def _last(self) -> int:
        last = self._kept
        time.sleep(0)
        return last

    @_last.setter
    def _last(self, last: int) -> None:
        self._kept = last


def test_threads_never_share_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", bytes)  # no luck to hide behind
    ids = Hesitant(ManualClock())
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda own=own: own.extend(ids.next() for _ in range(200))) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(own == sorted(own) for own in made)
    assert len({id for own in made for id in own}) == 800


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_makes_ids_of_its_own_even_if_the_lock_was_held() -> None:
    program = """
import os
from crossfoot.message import ids
ids.new_id()
ids._ids._lock.acquire()
for child in range(4):
    if os.fork() == 0:
        os.write(1, "".join(ids.new_id() + chr(10) for _ in range(100)).encode())
        os._exit(0)
for child in range(4):
    os.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)

    made = done.stdout.split()
    assert len(made) == len(set(made)) == 400
