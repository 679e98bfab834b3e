"""A replay under fire: dead letters of three causes, of which one is mended; live traffic beside it; and everything that takes part
is killed at random moments. What it comes to is counted in the business table, without any help of crossfoot's.

    1. so many messages die, of three causes
    2. one cause is mended; its dead letters are planned, and the replay begins; it is paused and resumed in turns, and live traffic is
       measured in windows, alone and beside it
    3. it goes on while the replayer, and workers, are killed
    4. the second cause is mended and replayed, and in the midst of that it is there again: it must abort within two stages
    5. all that is left is planned, though its causes are not mended: it must abort within two stages
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from tests.fire.crew import Crew, Kept
from tests.fire.service_names import CAUSES, LIVE

TABLE = "CREATE TABLE effects (id TEXT, type TEXT, phase TEXT, late REAL)"

TARGET = "tests.fire.service:app"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How large a fire.

    Attributes:
        dead: messages that die.
        kills: of the replayer; and so many workers as `worker_kills`.
        live_rate: messages per second of live traffic; `live_seconds` for how long each window is measured, of which there are
            `windows` alone and as many beside the replay, in turns: whatever else the machine does, it does to both.
        rate, window, stage: of the replay.
        reappears: the stage in which the second cause is there again.
    """

    dead: int = 20_000
    kills: int = 20
    worker_kills: int = 8
    workers: int = 2
    live_rate: float = 40.0
    live_seconds: float = 15.0
    windows: int = 5
    rate: float = 50.0
    window: int = 5
    stage: int = 500
    reappears: int = 5
    seed: int = 1
    patience: float = 1800.0


class Outcome(msgspec.Struct, kw_only=True):
    """What it came to.

    Attributes:
        problems: everything that is not as it should be, in words.
        p50_alone, p99_alone, p50_beside, p99_beside: of live traffic, seconds from publish to effect, without the replay and beside
            it: of the windows' percentiles the medians. `alone` and `beside` have the 99th percentiles of all windows.
        beside_rate: members per second that took effect while live traffic was measured beside the replay.
        reappeared_in_stage, aborted_in_stage: of the replay whose cause was there again; `hopeless_in_stage`: of what was not mended.
        plan_seconds: what the plan of the mended ones took.
    """

    dead: int = 0
    mended: int = 0
    killed_replayers: int = 0
    killed_workers: int = 0
    live: int = 0
    p99_alone: float = 0.0
    p99_beside: float = 0.0
    p50_alone: float = 0.0
    p50_beside: float = 0.0
    alone: list[float] = []
    beside: list[float] = []
    beside_rate: float = 0.0
    plan_seconds: float = 0.0
    replay_seconds: float = 0.0
    reappeared_in_stage: int = 0
    aborted_in_stage: int = 0
    hopeless_in_stage: int = 0
    problems: list[str] = []


class Fire:
    """One run in a folder of its own, on a SQLite book with its embedded queue."""

    def __init__(self, folder: Path, plan: Plan, say: Callable[[str], None]) -> None:
        self.folder, self.plan, self.say = folder, plan, say
        self.chance = random.Random(plan.seed)
        self.path = folder / "fire.db"
        self.crew = Crew(
            folder, {"FIRE_FOLDER": str(folder), "FIRE_DATABASE": str(self.path), "CROSSFOOT_DATABASE": str(self.path)}
        )
        self.outcome = Outcome(problems=[], alone=[], beside=[])

    def run(self) -> Outcome:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute(TABLE)
            connection.commit()
        try:
            self._die()
            number = self._mend("a", "ValueError", "rounding is mended")
            self._in_turns(number)
            self._under_fire(number)
            self._audit(number)
            self._reappears()
            self._not_mended()
        finally:
            self.crew.stop()
        return self.outcome

    # ---- the five acts -----------------------------------------------------------------------------------------------

    def _die(self) -> None:
        for cause in CAUSES:
            (self.folder / f"broken-{cause}").touch()
        self._well(self.crew.start(sys.executable, "-m", "tests.fire.fill", str(self.plan.dead)))
        workers = [self.crew.crossfoot("worker", TARGET, "--until-idle") for _ in range(self.plan.workers)]
        for one in workers:
            self._well(one)
        document = self._json("dead", "list", "--by-cause", codes=(0, 1))
        self.outcome.dead = document["count"]
        self.causes = {cause["title"]: (cause["fingerprint"], cause["count"]) for cause in document["causes"]}
        self._see(document["count"] == self.plan.dead, f"{document['count']} died, and not {self.plan.dead}")
        self._see(len(self.causes) == len(CAUSES), f"there are {len(self.causes)} causes")
        self.say(f"{self.outcome.dead:,} messages died of {len(self.causes)} causes")

    def _mend(self, cause: str, title: str, why: str) -> int:
        """Mend a cause, and plan what died of it."""
        (self.folder / f"broken-{cause}").unlink()
        fingerprint, count = next(found for name, found in self.causes.items() if name.startswith(title))
        began = time.monotonic()
        document = self._json("replay", "plan", TARGET, "--cause", fingerprint, "--why", why, "--by", "anna")
        self.outcome.plan_seconds = time.monotonic() - began
        self.outcome.mended = count
        self.members = self._members(document["number"])
        self._see(document["members"] == count, f"{document['members']} members of {count}")
        self.say(
            f"a plan of {document['members']:,} members took {self.outcome.plan_seconds:.1f} s, the program's start included"
        )
        return int(document["number"])

    def _in_turns(self, number: int) -> None:
        """Live traffic in windows: alone, and beside the replay, which is paused and resumed."""
        self.keepers = [self._kept_worker(kills=0) for _ in range(self.plan.workers)]
        late: dict[str, list[tuple[float, float]]] = {"alone": [], "beside": []}
        took, settled = 0.0, 0
        for window in range(self.plan.windows):
            time.sleep(2)
            late["alone"].append(self._live(f"alone-{window}"))
            self.replayer = self._replayer(number)
            time.sleep(2)
            before, began = self._settled(), time.monotonic()
            late["beside"].append(self._live(f"beside-{window}"))
            settled, took = settled + self._settled() - before, took + time.monotonic() - began
            self._see(self.replayer.poll() is None, "the replay was over before live traffic beside it was measured")
            if window < self.plan.windows - 1:
                self.crew.ask("replay", "pause", str(number), "--db", str(self.path))
                self._well(self.replayer, 1)
        out = self.outcome
        out.alone, out.beside = ([p99 for _, p99 in late[name]] for name in ("alone", "beside"))
        out.p50_alone, out.p99_alone = (median(part) for part in zip(*late["alone"], strict=True))
        out.p50_beside, out.p99_beside = (median(part) for part in zip(*late["beside"], strict=True))
        out.beside_rate = settled / took
        self.say(f"live traffic alone: p50 {out.p50_alone * 1000:.1f} ms, p99 {out.p99_alone * 1000:.1f} ms")
        self.say(
            f"beside the replay: p50 {out.p50_beside * 1000:.1f} ms, p99 {out.p99_beside * 1000:.1f} ms, "
            f"{out.beside_rate:.0f} members a second"
        )

    def _settled(self) -> int:
        return int(self._rows("SELECT count(*) FROM effects WHERE type = 'case.a'")[0][0])

    def _under_fire(self, number: int) -> None:
        began = time.monotonic()
        first = self.replayer
        first.send_signal(signal.SIGKILL)
        first.wait()
        for keeper in self.keepers:
            keeper.end()
        each = max(1, self.plan.worker_kills // self.plan.workers)
        self.keepers = [self._kept_worker(kills=each) for _ in range(self.plan.workers)]
        replayer = Kept(
            lambda: self._replayer(number), self.chance, kills=self.plan.kills - 1, least=1.5, most=5.0,
            done=lambda code: code in (0, 1) or self._is_over(number),
        )  # fmt: skip
        replayer.start()
        publisher = self._publisher("fire", 4 * self.plan.live_seconds)
        replayer.join(self.plan.patience)
        self._see(not replayer.is_alive(), f"the replay did not end:\n{self.crew.said()}")
        self._well(publisher)
        self._wait_for_live()
        self.outcome.killed_replayers = replayer.killed + 1
        self.outcome.killed_workers = sum(keeper.killed for keeper in self.keepers)
        self.outcome.replay_seconds = time.monotonic() - began
        # Killed between its last word to the book and its end, the next one is told that there is nothing left to run.
        well = replayer.code == 0 or self._is_over(number)
        self._see(well, f"the replayer ended with {replayer.code}:\n{self.crew.said()}")
        self.say(
            f"{self.outcome.killed_replayers} replayers and {self.outcome.killed_workers} workers were killed; the replay took "
            f"{self.outcome.replay_seconds:.0f} s"
        )

    def _is_over(self, number: int) -> bool:
        return bool(self._json("replay", "show", str(number), codes=(0, 1))["state"] == "finished")

    def _audit(self, number: int) -> None:
        """By the business table, which knows nothing of the book."""
        self._see(self._members(number) == self.members, "the membership changed")
        effects = self._rows("SELECT type, count(*), count(DISTINCT id) FROM effects GROUP BY type")
        counted = {type_: (count, ids) for type_, count, ids in effects}
        for type_, (count, ids) in counted.items():
            self._see(count == ids, f"{count - ids} effects of {type_} were doubled")
        settled = counted.get("case.a", (0, 0))[0]
        self._see(settled == self.outcome.mended, f"{settled} effects of {self.outcome.mended} that were mended")
        self._see({"case.b", "case.c"}.isdisjoint(counted), "what was not mended took effect")
        published = self._rows(f"SELECT count(*) FROM crossfoot_messages WHERE type = '{LIVE}'")[0][0]
        self._see(
            counted.get(LIVE, (0, 0))[0] == published, f"{counted.get(LIVE)} live effects of {published} messages"
        )
        told = self._json("replay", "show", str(number), "--db", str(self.path), codes=(0, 1))
        self._see(told["state"] == "finished", f"it is {told['state']}: {told['note']}")
        self._see(told["ended"] == {"settled": settled}, f"the report says {told['ended']}, and {settled} were counted")
        self._see(told["letters"] == 0, f"{told['letters']} dead letters were not forgotten")
        ids = self._rows(
            "SELECT m.id FROM crossfoot_replay_members r JOIN crossfoot_messages m ON m.key = r.message WHERE r.replay = 1"
        )
        done = self._rows("SELECT id FROM effects WHERE type = 'case.a'")
        self._see(sorted(ids) == sorted(done), "the members are not those that took effect")
        (left,) = self._rows("SELECT count(*) FROM crossfoot_queue WHERE state = 2")[0]
        self._see(left == self.outcome.dead - settled, f"{left} dead letters lie in the queue")
        balance = self._json("balance", "--db", str(self.path), codes=(0, 1))
        broken = {name: one["notes"] for name, one in balance["identities"].items() if one["holds"] is False}
        self._see(
            not broken and balance["unaccounted"] == 0, f"the books do not balance: {broken}, {balance['unaccounted']}"
        )
        verified = self.crew.ask("verify", "--db", str(self.path), "--json", codes=(0, 1))
        self._see(not json.loads(verified)["differences"], f"verify: {verified[:500]}")

    def _reappears(self) -> None:
        """The second cause is mended, and in the midst of its replay it is there again."""
        number = self._mend("b", "KeyError", "tariffs are there")
        replayer = self._replayer(number)
        until = time.monotonic() + self.plan.patience
        while self._stage(number) < self.plan.reappears and replayer.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        (self.folder / "broken-b").touch()
        self.outcome.reappeared_in_stage = self._stage(number)
        self._well(replayer, 1)
        told = self._json("replay", "show", str(number), "--db", str(self.path), codes=(0, 1))
        self.outcome.aborted_in_stage = told["stage"] if told["state"] == "aborted" else 0
        self._see(
            told["state"] == "aborted" and told["stage"] - self.outcome.reappeared_in_stage < 2,
            f"it is {told['state']} in stage {told['stage']}, and its cause was there again in {self.outcome.reappeared_in_stage}",
        )
        self.say(f"the second cause was there again: {told['note']}")
        self._count_reappeared(number, told)

    def _count_reappeared(self, number: int, told: dict[str, Any]) -> None:
        """What is on its way when it aborts still ends; then the report must be what can be counted."""
        self._wait("SELECT count(*) FROM crossfoot_queue WHERE state < 2", "what was on its way")
        told = self._json("replay", "show", str(number), "--db", str(self.path), codes=(0, 1))
        effects, ids = self._rows("SELECT count(*), count(DISTINCT id) FROM effects WHERE type = 'case.b'")[0]
        self._see(effects == ids, f"{effects - ids} effects of case.b were doubled")
        self._see(self._members(number) == self.members, "the membership of the second replay changed")
        (dead,) = self._rows("SELECT count(*) FROM crossfoot_queue WHERE state = 2")[0]
        again = told["ended"].get("dead", 0)
        self._see(dead == self.outcome.dead - self._settled() - effects, f"{dead} dead letters lie in the queue")
        counted = {name: count for name, count in (("settled", effects), ("dead", told["moved"] - effects)) if count}
        self._see(told["ended"] == counted, f"the report says {told['ended']}, and counted is {counted}")
        self._see(
            told["moved"] + told["waiting"] == told["members"], f"{told['moved']} moved, {told['waiting']} waiting"
        )
        self.say(f"{effects:,} took effect before, {again:,} died again, {told['waiting']:,} were left where they were")

    def _not_mended(self) -> None:
        document = self._json("replay", "plan", TARGET, "--why", "somebody hopes", "--by", "otto")
        self._well(self._replayer(document["number"]), 1)
        told = self._json("replay", "show", str(document["number"]), "--db", str(self.path), codes=(0, 1))
        self.outcome.hopeless_in_stage = told["stage"] if told["state"] == "aborted" else 0
        self._see(
            told["state"] == "aborted" and told["stage"] <= 2,
            f"it is {told['state']} in stage {told['stage']}: {told['note']}",
        )
        self.say(f"what was not mended: {told['note']}")
        for keeper in self.keepers:
            keeper.end()

    # ---- parts -------------------------------------------------------------------------------------------------------

    def _replayer(self, number: int) -> Any:
        plan = self.plan
        return self.crew.crossfoot(
            "replay", "run", TARGET, str(number), "--rate", str(plan.rate), "--window", str(plan.window), "--stage", str(plan.stage),
            "--hold", "1", "--json",
        )  # fmt: skip

    def _kept_worker(self, kills: int) -> Kept:
        made = Kept(self.crew.worker, self.chance, kills=kills, least=3.0, most=10.0, done=lambda code: code == 0)
        made.start()
        return made

    def _publisher(self, phase: str, seconds: float) -> Any:
        self.outcome.live += int(self.plan.live_rate * seconds)
        rate = str(self.plan.live_rate)
        return self.crew.start(sys.executable, "-m", "tests.fire.live", rate, str(seconds), phase)

    def _live(self, phase: str) -> tuple[float, float]:
        """Live traffic for one window: its 50th and 99th percentile."""
        self._well(self._publisher(phase, self.plan.live_seconds))
        self._wait_for_live()
        return self._late(phase)

    def _wait_for_live(self) -> None:
        self._wait(
            f"""SELECT (SELECT count(*) FROM crossfoot_messages WHERE type = '{LIVE}')
          - (SELECT count(DISTINCT id) FROM effects WHERE type = '{LIVE}')""",
            "live traffic",
        )

    def _wait(self, query: str, what: str) -> None:
        """Until it answers 0."""
        until = time.monotonic() + 60
        while self._rows(query)[0][0]:
            if time.monotonic() > until:
                self._see(False, f"waited in vain for {what}")
                return
            time.sleep(0.1)

    def _stage(self, number: int) -> int:
        return int(self._rows(f"SELECT stage FROM crossfoot_replays WHERE number = {number}")[0][0])

    def _late(self, phase: str) -> tuple[float, float]:
        late = [
            row[0]
            for row in self._rows(f"SELECT late FROM effects WHERE type = '{LIVE}' AND phase = '{phase}' ORDER BY late")
        ]
        return (late[len(late) // 2], late[int(len(late) * 0.99)]) if late else (0.0, 0.0)

    def _members(self, number: int) -> list[tuple[Any, ...]]:
        return self._rows(
            f"SELECT message, class FROM crossfoot_replay_members WHERE replay = {number} ORDER BY message"
        )

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path, timeout=30)) as connection:
            return connection.execute(query).fetchall()

    def _json(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
        return json.loads(self.crew.ask(*arguments, "--json", codes=codes))

    def _well(self, process: Any, code: int = 0) -> None:
        ended = process.wait(self.plan.patience)
        self._see(ended == code, f"{process.args} ended with {ended}:\n{self.crew.said()}")

    def _see(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.outcome.problems.append(otherwise)
            self.say(f"PROBLEM: {otherwise}")
