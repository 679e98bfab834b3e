"""The worker processes: started, killed for real, replaced, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random

import anyio
import anyio.abc
import msgspec

from crossfoot.demo.plan import Act, Fault
from crossfoot.demo.process import Orders
from crossfoot.demo.record import Record
from crossfoot.demo.shield import aim
from crossfoot.errors import CrossfootError

STOPPING_SECONDS = 40.0
"""A worker that stops finishes what it has begun, which may be a handler that outlasts its lease."""


MOST_WORDS = 1500
"""Characters of a worker's last words that are told, in whole lines."""


class DemoBroken(CrossfootError):
    """The demo itself did not work as it should: a finding about crossfoot, or about this machine."""


class Member(msgspec.Struct):
    """One worker process."""

    label: str
    process: anyio.abc.Process
    name: str = ""
    """What the book calls it, once it works."""
    mortal: bool = True
    """Whether it may be killed."""
    over: bool = False
    """Whether it is meant to be gone."""


class Crew:
    """The worker processes of one demo.

    Args:
        folder: for their orders, logs and shields.
        environment: on top of this process's own, whose settings for crossfoot they do not see.
    """

    def __init__(self, folder: Path, acts: Mapping[str, Act], record: Record, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._acts = dict(acts)
        self._record = record
        own = {name: value for name, value in os.environ.items() if not name.startswith("CROSSFOOT_")}
        self._environment = {**own, **environment}
        self._started = 0
        self.members: list[Member] = []

    async def start(self, settings: Mapping[str, object], *, mortal: bool = True) -> Member:
        """Start a worker, and wait until it receives.

        Raises:
            DemoBroken: it ends before.
        """
        self._started += 1
        label = f"worker-{self._started}"
        orders = Orders(worker=label, folder=str(self._folder), acts=self._acts, settings=dict(settings))
        path = self._folder / f"{label}.json"
        path.write_bytes(msgspec.json.encode(orders))
        with (self._folder / f"{label}.log").open("wb") as output:
            process = await anyio.open_process(
                [sys.executable, "-m", "crossfoot.demo.process", str(path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
                cwd=self._folder, env=self._environment, start_new_session=True,
            )  # fmt: skip
        member = Member(label, process, mortal=mortal)
        self.members.append(member)
        member.name = await self._name_of(member)
        return member

    async def kill(self, chance: Random) -> Member | None:
        """Kill one at random, with SIGKILL. `None` when none may be killed at this moment."""
        candidates = [one for one in self.members if one.mortal and one.name and not one.over]
        chance.shuffle(candidates)
        for member in candidates:
            with aim(self._folder, member.label) as clear:
                if not clear or member.process.returncode is not None:
                    continue
                member.over = True
                member.process.kill()
                await member.process.wait()
            self._record.note(Fault.KILLED, member.name)
            return member
        return None

    def check(self) -> None:
        """See that nobody left who should be here.

        Raises:
            DemoBroken: with the last words of who did.
        """
        for member in self.members:
            if not member.over and member.process.returncode is not None:
                raise DemoBroken(f"{member.label} ended by itself ({member.process.returncode}): {self._words(member)}")

    async def stop(self) -> None:
        """Have all of them finish and leave.

        Raises:
            DemoBroken: one does not leave in time, or not in order.
        """
        leaving = [member for member in self.members if not member.over]
        for member in leaving:
            member.over = True
            member.process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(STOPPING_SECONDS):
            for member in leaving:
                await member.process.wait()
        for member in leaving:
            if member.process.returncode != 0:
                raise DemoBroken(f"{member.label} did not stop in order: {self._words(member)}")

    async def close(self) -> None:
        """End them all, whatever they do."""
        with anyio.CancelScope(shield=True):
            for member in self.members:
                if member.process.returncode is None:
                    member.process.kill()
            for member in self.members:
                await member.process.aclose()

    async def _name_of(self, member: Member) -> str:
        said = b""
        assert member.process.stdout is not None
        try:
            while not said.endswith(b"\n"):
                said += await member.process.stdout.receive()
        except anyio.EndOfStream:
            await member.process.wait()
            member.over = True
            raise DemoBroken(f"{member.label} did not start: {self._words(member)}") from None
        return said.decode().removeprefix("ready ").strip()

    def _words(self, member: Member) -> str:
        text = (self._folder / f"{member.label}.log").read_text(encoding="utf-8", errors="replace").strip()
        last = text[-MOST_WORDS:]
        return (last.partition("\n")[2] if len(text) > MOST_WORDS else last) or last or "it said nothing"
