"""How far the demo is, on standard error: bars in a terminal, a line now and then in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from crossfoot.demo.progress import Standing
from crossfoot.demo.recovery import Lost
from crossfoot.demo.run import Options
from crossfoot.demo.scene import Watcher
from crossfoot.recover.phrases import plural

EVERY_SECONDS = 5.0
"""Between two lines in a pipe."""


@contextmanager
def progress(options: Options) -> Iterator[Watcher]:
    """Whoever shows how far it is, as long as the block lasts."""
    about = (
        f"the hospital's billing log, {options.messages:,} events at most, seed {options.seed}, queue {options.queue}, "
        f"{plural(options.workers, 'worker process', 'worker processes')}"
    )
    if not sys.stderr.isatty():
        sys.stderr.write(f"{about}\n")
        sys.stderr.flush()
        yield Lines()
        return
    bars = Bars(about)
    with bars.live:
        yield bars


class Lines(Watcher):
    """Lines of text."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()
        self._what = ""
        self._total = 0

    def begin(self, phase: str, total: int) -> None:
        self._what, self._total = phase, total
        self._say(f"{phase}: {total:,}")

    def step(self, now: Standing, published: int, killed: int, waiting: str) -> None:
        if time.monotonic() - self._told >= EVERY_SECONDS:
            self._say(f"{published:,} published; {_told(now, killed)}" + (f"; {waiting}" if waiting else ""))

    def faults_over(self, now: Standing, found: Sequence[Lost]) -> None:
        self._say(f"all faults have happened; the books name {plural(len(found), 'lost message')}")

    def _say(self, text: str) -> None:
        self._told = time.monotonic()
        sys.stderr.write(f"{self._told - self._began:5.1f} s  {text}\n")
        sys.stderr.flush()


class Bars(Watcher):
    """Bars, and a line of figures below them."""

    def __init__(self, about: str) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            TextColumn("{task.description:<9}"), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn(), expand=True
        )
        self._about = about
        self._figures = "starting"
        self._phase: list[Any] = []
        self._done = self._before = 0
        self.live = Live(console=Console(stderr=True), get_renderable=self._draw, refresh_per_second=8, transient=True)

    def begin(self, phase: str, total: int) -> None:
        names = ("published", "handled") if phase == "faults" else ("repaired",)
        self._phase = [self._bars.add_task(name, total=total) for name in names]
        self._before = self._done

    def step(self, now: Standing, published: int, killed: int, waiting: str) -> None:
        self._figures = waiting or _told(now, killed)
        self._done = now.done
        if len(self._phase) == 2:
            self._bars.update(self._phase[0], completed=published)
            self._bars.update(self._phase[1], completed=max(0, now.known - now.in_work))
        else:
            self._bars.update(self._phase[0], completed=now.done - self._before)

    def _draw(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        return Group(Text(self._about), self._bars, Text(self._figures, "dim"))


def _told(now: Standing, killed: int) -> str:
    parts = [f"{now.done:,} settled"]
    parts += [f"{now.fates[name]:,} {name}" for name in ("retrying", "parked") if now.fates.get(name)]
    parts += [f"{now.lost:,} lost"] if now.lost else []
    parts += [f"{plural(killed, 'worker')} killed"] if killed else []
    return ", ".join(parts)
