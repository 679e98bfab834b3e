"""One run: publish and work under faults, then heal, let everything come to its end, and judge."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import msgspec

from tests.chaos.faults import Done, Faults, Watch
from tests.chaos.oracle import IS_CLOSED, Verdict, judge
from tests.chaos.schedule import schedule
from tests.chaos.stage import SPARED, Options, Stage, staged

LEAVING = 30.0
"""Seconds a process has to leave in order."""

RESTARTS = ("restart", "crash", "hang")


class Report(msgspec.Struct, kw_only=True):
    """What a run came to.

    Attributes:
        faults: how often each kind was done, and `missed` how many of all met nobody.
        recovery: the most seconds from the end of a server's restart, crash or hang to the next effect.
        closing: seconds from the end of all faults until every message had its fate.
        disk: whether there was a disk to fill up.
        folder: where everything is that the run left; empty when it was removed.
        spared: what the pair does not suffer, and why not; empty for most.
    """

    pair: str
    seed: int
    seconds: float
    messages: int
    published: int
    faults: dict[str, int]
    missed: int
    recovery: float | None
    closing: float | None
    verdict: Verdict
    endings: dict[str, int]
    folder: str
    disk: bool
    spared: str

    @property
    def clean(self) -> bool:
        return self.verdict.clean and self.closing is not None


def run(options: Options, folder: Path) -> Report:
    """Do it. The folder keeps the logs, the notes and the record of faults.

    Raises:
        CannotBeHad: a server is not to be had on this machine.
    """
    with ExitStack() as kept:
        stage = kept.enter_context(staged(options, folder))
        plan = [] if options.calm else schedule(options.seed, options.seconds, stage.targets())
        first_steps(stage)
        watch = Watch(stage)
        faults = Faults(stage, plan)
        kept.callback(faults.close)
        keep(stage, options.seconds)
        faults.heal()
        closing = settle(stage)
        watch.close()
        endings = [ended for slot in stage.slots.values() for ended in slot.endings]
        verdict = judge(stage, endings)
        verdict.problems += faults.failed
        verdict.problems += _traces(stage)
        if closing is None:
            verdict.problems.append(f"not everything had come to its end after {options.patience:g} s")
        return Report(
            pair=options.pair, seed=options.seed, seconds=options.seconds, messages=_count(stage), published=verdict.asked,
            faults=dict(Counter(f"{done.kind} ({_sort(done)})" for done in faults.done)),
            missed=sum(done.touched == 0 for done in faults.done), recovery=_recovery(faults.done, watch),
            closing=closing, verdict=verdict, endings=dict(Counter(_ending(e.slot, e.code) for e in endings)),
            folder=str(folder), disk=stage.disk is not None, spared=SPARED.get(options.pair.partition("/")[2], ""),
        )  # fmt: skip


def first_steps(stage: Stage) -> None:
    """Until the first effect: a service that cannot begin says nothing about faults.

    Raises:
        RuntimeError: there was none.
    """
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for slot in stage.slots.values():
            slot.keep()
        if stage.rows("SELECT count(*) FROM effects")[0][0]:
            return
        time.sleep(0.1)
    said = "\n".join(slot.log.read_text()[-2000:] for slot in stage.slots.values())
    raise RuntimeError(f"there was no effect within a minute:\n{said}")


def keep(stage: Stage, seconds: float) -> None:
    """Have processes run for so long; those that end are started again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for slot in stage.slots.values():
            slot.keep()
        time.sleep(0.05)


def settle(stage: Stage) -> float | None:
    """The publisher leaves; the workers go on until everything has its fate, and leave. Seconds that took."""
    start = time.monotonic()
    stage.slots["publisher"].leave(LEAVING)
    took: float | None = None
    while took is None and time.monotonic() < start + stage.options.patience:
        keep(stage, 0.3)
        if stage.rows(IS_CLOSED)[0][0] == 0:
            took = time.monotonic() - start
    for slot in stage.workers:
        slot.leave(LEAVING)
    return took


def _traces(stage: Stage) -> list[str]:
    """A fault in crossfoot itself, which no fault from outside may bring out."""
    return [
        f"{name} ended in a traceback: see {slot.log}"
        for name, slot in stage.slots.items()
        if slot.log.exists() and "Traceback (most recent call last)" in slot.log.read_text(errors="replace")
    ]


def _count(stage: Stage) -> int:
    return int(stage.rows("SELECT count(*) FROM crossfoot_messages")[0][0])


def _recovery(done: list[Done], watch: Watch) -> float | None:
    """`None` where no server was struck."""
    waits = [watch.next_after(one.ended) for one in done if one.kind in RESTARTS]
    return max((wait for wait in waits if wait is not None), default=None)


def _sort(done: Done) -> str:
    """Without the number: worker 1 and worker 2 are workers."""
    return done.target.rstrip(" 0123456789")


def _ending(slot: str, code: int) -> str:
    how = f"signal {-code}" if code < 0 else f"exit {code}"
    return f"{slot.rstrip(' 0123456789')}, {how}"
