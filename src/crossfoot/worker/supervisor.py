"""Several worker processes of one service: started, watched, replaced, and stopped together.

A Python process uses one core, so a service that needs more runs several, which share nothing but queue and database.
A process that dies is replaced, after a pause that doubles while it keeps on dying: what it held comes again when its
leases are over. On request all are replaced one by one by processes that load the program's code anew, each old one
leaving only when its successor works.

Supervisor and process are joined by a pair of sockets. The process says on it that it works, and at the end what it did;
and when it is closed, by whatever death of the supervisor's, the process stops in order.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import anyio
import anyio.abc
import msgspec

logger = logging.getLogger("crossfoot.worker")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a process that died is replaced: the first time, and at most."""

SOUND = 60.0
"""Seconds after which a process is believed to be sound, and its next death is the first again."""

PATIENCE = 60.0
"""Seconds a successor may take to begin, before it is given up; and an old process to leave, before the next one's turn comes."""

UNUSABLE = 2
"""The exit code of a process that cannot work: wrong settings, no queue, no database. It has said why."""


LAST_WORDS = 1.0
"""Seconds to hear a process that has ended; a child of its own may keep the line open for ever."""


class Ready(msgspec.Struct, tag=True):
    """A process says that it works now."""


class Trouble(msgspec.Struct, tag=True):
    """A process cannot receive from its queue. When it can again, it is ready."""

    why: str


class Report(msgspec.Struct, tag=True):
    """What one process did in its life."""

    worker: str
    deliveries: int
    ends: dict[str, int]


Word = Ready | Trouble | Report
"""What a process says."""

IDLE = "it does not work: it starts, or it stops"


class Silence(msgspec.Struct, frozen=True):
    """A process that works has not been heard of for so long."""

    who: str
    seconds: float


class Member:
    """One process."""

    def __init__(self, number: int, process: anyio.abc.Process, line: socket.socket) -> None:
        self.number = number
        self.process = process
        self.started = anyio.current_time()
        self.works = False
        self.trouble = ""
        """Why it cannot receive."""
        self.heard = time.monotonic()
        """When it last said anything; it does so at every beat of its event loop."""
        self.report: Report | None = None
        self.settled = anyio.Event()
        """Set when it works, or has ended before."""
        self.over = anyio.Event()
        """Set when it has ended, and was heard to its end."""
        self._line = line

    async def live(self) -> None:
        """Hear what it says, until it ends."""
        with self._line:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen)
                await self.process.wait()
                tasks.cancel_scope.deadline = anyio.current_time() + LAST_WORDS
        self.settled.set()
        self.over.set()

    def stop(self) -> None:
        """Have it finish what it has begun, and leave."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()

    @property
    def end(self) -> str:
        """How it ended, in words."""
        code = self.process.returncode
        if code is not None and code < 0:
            return f"was ended by {_name(-code)}"
        return f"ended with code {code}"

    async def _listen(self) -> None:
        said = b""
        while True:
            await anyio.wait_readable(self._line)
            try:
                part = self._line.recv(65536)
            except ConnectionError:
                return
            if not part:
                return
            self.heard = time.monotonic()
            *lines, said = (said + part).split(b"\n")
            for line in filter(None, lines):  # an empty one is a heartbeat
                self._hear(msgspec.json.decode(line, type=Word))

    def _hear(self, word: Word) -> None:
        if isinstance(word, Ready):
            self.works, self.trouble = True, ""
            self.settled.set()
        elif isinstance(word, Trouble):
            self.trouble = word.why
        else:
            self.report = word


class Supervisor:
    """Keeps a number of worker processes running.

    Args:
        command: the command line of a process, given the number of the file descriptor that it is to report on.
        processes: how many.
        until_idle: whether a process that leaves by itself is done; otherwise another takes its place.
    """

    def __init__(self, command: Callable[[int], Sequence[str]], processes: int, *, until_idle: bool = False) -> None:
        self._command = command
        self._count = processes
        self._until_idle = until_idle
        self._stopping = anyio.Event()
        self._code = 0
        self._replacing = anyio.Lock()
        self._members: dict[int, Member] = {}
        self._heirs: dict[int, Member] = {}
        self._tasks: anyio.abc.TaskGroup
        self.reports: list[Report] = []
        """What the processes did that said so at their end; one that is killed says nothing."""

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def matter(self) -> str:
        """Why none of the processes can work; nothing when one can. From any thread."""
        at_work = [one for one in list(self._members.values()) if one.works and one.process.returncode is None]
        if self.stopping or not at_work:
            return IDLE
        return "" if any(not one.trouble for one in at_work) else at_work[0].trouble

    def longest_silence(self) -> Silence | None:
        """Who of those that work has not been heard of for longest. From any thread."""
        now = time.monotonic()
        silences = [
            Silence(f"worker process {one.number} (pid {one.process.pid})", now - one.heard)
            for one in list(self._members.values())
            if one.works and one.process.returncode is None
        ]
        return max(silences, key=lambda silence: silence.seconds, default=None)

    def stop(self) -> None:
        """Have all finish and leave. To be called in the event loop."""
        self._stopping.set()
        for member in self._everybody():
            member.stop()

    def kill(self) -> None:
        """End all at once."""
        for member in self._everybody():
            member.kill()

    async def run(self) -> int:
        """Supervise until all have left.

        Returns:
            The exit code: that of the first process when it could not work at all, and has said why; else 0.
        """
        try:
            async with anyio.create_task_group() as self._tasks:
                first = await self._start(1)
                await first.settled.wait()  # it migrates the book; and what is wrong with all of them is said once
                code = first.process.returncode or 0
                if not first.works and code > 0:
                    return code
                for number in range(1, self._count + 1):
                    self._tasks.start_soon(self._keep, number)
        finally:
            self.kill()
            with anyio.CancelScope(shield=True):
                for member in self._everybody():
                    await member.process.aclose()
        return self._code

    async def replace(self) -> None:
        """Replace all, one by one, by processes that load the program anew. One that does not come up replaces nobody."""
        async with self._replacing:
            for number in list(self._members):
                if self.stopping or number not in self._members:
                    return
                if number in self._heirs:
                    continue  # one that was to leave has not left yet
                try:
                    heir = await self._start(number, heir=True)
                except OSError as error:
                    logger.error("no new worker process can be started, the old ones go on: %s", error)
                    return
                with anyio.move_on_after(PATIENCE):
                    await heir.settled.wait()
                if not heir.settled.is_set():
                    heir.kill()
                    await heir.settled.wait()
                if not heir.works:
                    self._heirs.pop(number, None)
                    logger.error("the new worker process %d %s: the old ones go on", number, heir.end)
                    return
                old = self._members.get(number)
                if old is not None and old is not heir:
                    old.stop()
                    with anyio.move_on_after(PATIENCE):
                        await old.over.wait()

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _everybody(self) -> list[Member]:
        return [*self._members.values(), *self._heirs.values()]

    async def _start(self, number: int, *, heir: bool = False) -> Member:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs, _closed_on_error(ours):
            process = await anyio.open_process(
                self._command(theirs.fileno()), stdin=subprocess.DEVNULL, stdout=None, stderr=None,
                pass_fds=(theirs.fileno(),), start_new_session=True,  # Ctrl-C is for the supervisor, who passes it on once
            )  # fmt: skip
        member = Member(number, process, ours)
        (self._heirs if heir else self._members)[number] = member
        self._tasks.start_soon(member.live)
        if self.stopping:
            member.stop()
        return member

    async def _keep(self, number: int) -> None:
        """See that there is a process of that number, until all are to leave."""
        deaths = 0
        while not (self.stopping and number not in self._members):
            try:
                member = self._members.get(number) or await self._start(number)
            except OSError as error:  # no memory, no more processes: perhaps later
                deaths += 1
                logger.warning("worker process %d cannot be started: %s", number, error)
                await self._sleep(deaths)
                continue
            await member.over.wait()
            del self._members[number]
            if member.report is not None:
                self.reports.append(member.report)
            heir = self._heirs.get(number)
            if heir is not None:  # it may be on its way still
                await heir.settled.wait()
                self._heirs.pop(number, None)
            if heir is not None and heir.works:
                self._members[number] = heir
            elif self._is_over(member):
                return
            else:
                sound = anyio.current_time() - member.started > SOUND or member.process.returncode == 0
                deaths = 1 if sound else deaths + 1
                await self._pause(member, deaths)

    def _is_over(self, member: Member) -> bool:
        """Whether nobody is to take its place."""
        code = member.process.returncode
        if self._until_idle and code == UNUSABLE:
            self._code = UNUSABLE
            self.stop()
        return self.stopping or (self._until_idle and code == 0 and member.report is not None)

    async def _pause(self, member: Member, deaths: int) -> None:
        seconds = _pause(deaths)
        logger.warning(
            "worker process %d (pid %d) %s; the next one starts in %.1f s",
            member.number,
            member.process.pid,
            member.end,
            seconds,
        )
        await self._sleep(deaths)

    async def _sleep(self, deaths: int) -> None:
        with anyio.move_on_after(_pause(deaths)):
            await self._stopping.wait()


@contextmanager
def _closed_on_error(line: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        line.close()
        raise


def _name(number: int) -> str:
    """Most signals have one; of those for real time only the first and the last."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _pause(deaths: int) -> float:
    """Seconds until the next start after so many deaths in a row."""
    return float(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(deaths - 1, 10)))


class Line:
    """The process's end of the line to its supervisor."""

    def __init__(self, descriptor: int) -> None:
        self._line = socket.socket(fileno=descriptor)
        self._line.set_inheritable(False)
        self._unsaid = b""

    def say(self, word: Word) -> None:
        """Tell the supervisor; when it listens again, if it does not now."""
        self._unsaid += msgspec.json.encode(word) + b"\n"
        self._speak()

    def beat(self) -> None:
        """Say that the event loop turns. Where the supervisor does not listen for hours, that is not said rather than waited for."""
        self._unsaid = self._unsaid or b"\n"
        self._speak()

    def _speak(self) -> None:
        """Never waits: the event loop that speaks here has leases to extend."""
        with suppress(OSError):  # nobody hears it, or not now
            self._unsaid = self._unsaid[self._line.send(self._unsaid, socket.MSG_DONTWAIT) :]

    async def closed(self) -> None:
        """Wait until the supervisor is gone."""
        await anyio.wait_readable(self._line)
