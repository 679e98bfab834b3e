"""Doing what the schedule says, and writing down what was done: when it began and ended, to whom, and whether it met anybody."""

from __future__ import annotations

import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext, suppress

import msgspec

from tests.chaos.disk import Disk
from tests.chaos.schedule import Fault
from tests.chaos.stage import Stage
from tests.servers.ministack import MiniStack
from tests.servers.postgres import Postgres
from tests.servers.valkey import Valkey

FURTHEST = 12.0
"""Seconds a clock steps at most, either way: several leases."""


class Done(msgspec.Struct, frozen=True):
    """One fault that was done.

    Attributes:
        began, ended: seconds since the epoch.
        touched: how many it met: processes, connections, sessions; 0 when nobody was there.
        pid: the process it was done to, 0 for none.
    """

    kind: str
    target: str
    began: float
    ended: float
    touched: int
    pid: int = 0
    note: str = ""


class Faults:
    """Carries out a schedule, each target's faults in a thread of its own, and keeps the record in `faults.jsonl`.

    A server ends with the thread that started it (see `tests.servers.leash`), so the threads stay until `close`.
    """

    def __init__(self, stage: Stage, plan: Sequence[Fault]) -> None:
        self._stage = stage
        self._record = stage.folder / "faults.jsonl"
        self._lock = threading.Lock()
        self._database = threading.Lock()
        """Whoever strikes it and whoever fills its disk take turns: it could not be started on a full one."""
        self._over = threading.Event()
        self._closed = threading.Event()
        self._in_order: list[threading.Event] = []
        self.done: list[Done] = []
        self.failed: list[str] = []
        start = time.monotonic()
        for target in sorted({fault.target for fault in plan}):
            in_order = threading.Event()
            self._in_order.append(in_order)
            mine = [fault for fault in plan if fault.target == target]
            threading.Thread(target=self._torment, args=(mine, start, in_order), daemon=True).start()

    def heal(self) -> None:
        """Begin no more, and wait until everything is in order."""
        self._over.set()
        for in_order in self._in_order:
            in_order.wait()

    def close(self) -> None:
        """Servers that were started again end now."""
        self._closed.set()

    def _torment(self, plan: Sequence[Fault], start: float, in_order: threading.Event) -> None:
        late = 0.0  # a server that takes long to start is given its pause all the same
        try:
            for fault in plan:
                if self._over.wait(max(0.0, start + fault.at + late - time.monotonic())):
                    break
                self._carry_out(fault)
                late = max(late, time.monotonic() - start - fault.at - fault.seconds)
        finally:
            in_order.set()
        self._closed.wait()

    def _carry_out(self, fault: Fault) -> None:
        began = time.time()
        try:
            touched, pid, note = self._do(fault)
        except Exception as error:  # noqa: BLE001 - a fault that cannot be done is reported, and fails the run
            self.failed.append(f"{fault.kind} of {fault.target}: {type(error).__name__}: {error}")
            return
        done = Done(fault.kind, fault.target, began, time.time(), touched, pid, note)
        with self._lock, self._record.open("ab") as record:
            self.done.append(done)
            record.write(msgspec.json.encode(done) + b"\n")

    def _do(self, fault: Fault) -> tuple[int, int, str]:
        """Number of those it met, process, and a note."""
        stage = self._stage
        if fault.target in stage.slots:
            return self._to_process(fault)
        if fault.target in stage.servers:
            with self._database if fault.target == "database" else nullcontext():
                return self._to_server(fault), 0, ""
        if fault.target in stage.cables:
            return self._to_cable(fault), 0, ""
        if fault.target == "disk":
            return self._fill(fault, stage.disk), 0, ""
        return self._to_file(fault), 0, ""

    def _to_process(self, fault: Fault) -> tuple[int, int, str]:
        slot = self._stage.slots[fault.target]
        if fault.kind == "clock step":
            seconds = (2 * fault.chance - 1) * FURTHEST
            slot.clock.advance(seconds)
            self._over.wait(fault.seconds)
            slot.clock.advance(-seconds)
            pid = slot.signal(0)
            return int(pid != 0), pid, f"{seconds:+.1f} s"
        number = {"kill": signal.SIGKILL, "stop": signal.SIGTERM, "freeze": signal.SIGSTOP}[fault.kind]
        pid = slot.signal(number)
        if fault.kind == "freeze":
            self._over.wait(fault.seconds)
            slot.signal(signal.SIGCONT)
        return int(pid != 0), pid, ""

    def _to_server(self, fault: Fault) -> int:
        server = self._stage.servers[fault.target]
        if fault.kind == "hang" and isinstance(server, Postgres):
            return self._while_it_lasts(fault, lambda: server.freeze(whole=True), lambda: server.thaw(whole=True))
        if fault.kind == "hang":
            return self._while_it_lasts(fault, server.freeze, server.thaw)
        if fault.kind == "sessions ended":
            assert isinstance(server, Postgres)
            return len(server.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' "
                "AND pid <> pg_backend_pid()"
            ))  # fmt: skip
        if fault.kind == "memory full":
            assert isinstance(server, Valkey)
            return self._while_it_lasts(fault, lambda: _limit(server, "1mb"), lambda: _limit(server, "0"))
        if fault.kind == "restart":
            assert isinstance(server, Postgres | MiniStack)
            server.stop()
        else:
            server.kill()
        self._over.wait(fault.seconds)
        server.start()
        return 1

    def _to_cable(self, fault: Fault) -> int:
        cable = self._stage.cables[fault.target]
        before = cable.touched
        if fault.kind == "cut":
            cable.cut()
            return cable.touched - before
        begin: dict[str, Callable[[], None]] = {
            "stall": cable.stall,
            "answers late": lambda: cable.delay_answers(0.3 + fault.chance),
            "answers lost": lambda: cable.lose_answers(after=round(fault.chance * 20)),
            "requests lost": cable.cut_requests,
        }
        self._while_it_lasts(fault, begin[fault.kind], cable.heal)
        return cable.touched - before

    def _fill(self, fault: Fault, disk: Disk | None) -> int:
        """A server that went down for it is started again, as an operator does who has made room."""
        assert disk is not None
        with self._database:
            self._while_it_lasts(fault, disk.fill, disk.free)
            server = self._stage.servers.get("database")
            if isinstance(server, Postgres) and not server.answers():
                server.kill()
                server.start()
        return 1

    def _to_file(self, fault: Fault) -> int:
        """Another program takes the file's one lock, and keeps it for a while."""
        with closing(sqlite3.connect(self._stage.truth.database, timeout=20, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            self._over.wait(fault.seconds)
            other.execute("ROLLBACK")
        return 1

    def _while_it_lasts(self, fault: Fault, begin: Callable[[], None], end: Callable[[], None]) -> int:
        begin()
        try:
            self._over.wait(fault.seconds)
        finally:
            end()
        return 1


def _limit(server: Valkey, memory: str) -> None:
    with server.admin() as client:
        client.config_set("maxmemory", memory)


class Watch:
    """Counts the effects from outside, again and again, so that it can be told how long there were no more."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._over = threading.Event()
        self._looks: list[tuple[float, float, int]] = []
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def next_after(self, at: float) -> float | None:
        """Seconds until the first look that saw more effects than the first one after `at`; `None` when none did."""
        looks = [(ended, count) for began, ended, count in self._looks if began > at]
        return next((ended - at for ended, count in looks if count > looks[0][1]), None)

    def _look(self) -> None:
        while not self._over.wait(0.2):
            began = time.time()
            with suppress(Exception):  # it is being restarted, or has no room
                rows = self._stage.rows("SELECT (SELECT count(*) FROM effects) + (SELECT count(*) FROM receipts)")
                self._looks.append((began, time.time(), rows[0][0]))


def a_seed() -> int:
    """For a run that states none."""
    return random.SystemRandom().randrange(2**32)
