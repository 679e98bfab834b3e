"""A replay under fire: dead letters of three causes, of which one is mended; live traffic beside it; and everything that takes part
is killed at random moments. What it comes to is counted in the business table, without any help of crossfoot's.

    1. so many messages die, of three causes
    2. live traffic alone: its 99th percentile, from publish to effect
    3. one cause is mended; its dead letters are planned, and the replay begins, with live traffic beside it: the same percentile
    4. it goes on while the replayer, and workers, are killed
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
        live_rate: messages per second beside the replay; `live_seconds` for how long each phase is measured.
        rate, window: of the replay.
    """

    dead: int = 20_000
    kills: int = 20
    worker_kills: int = 8
    workers: int = 2
    live_rate: float = 20.0
    live_seconds: float = 60.0
    rate: float = 50.0
    window: int = 5
    stage: int = 500
    seed: int = 1
    patience: float = 1800.0


class Outcome(msgspec.Struct, kw_only=True):
    """What it came to.

    Attributes:
        problems: everything that is not as it should be, in words.
        p99_alone, p99_beside: of live traffic, seconds from publish to effect, without the replay and beside it.
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
    plan_seconds: float = 0.0
    replay_seconds: float = 0.0
    aborted_in_stage: int = 0
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
        self.outcome = Outcome(problems=[])

    def run(self) -> Outcome:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute(TABLE)
            connection.commit()
        try:
            self._die()
            self._alone()
            number = self._mend()
            self._under_fire(number)
            self._audit(number)
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

    def _alone(self) -> None:
        self.keepers = [self._kept_worker(kills=0) for _ in range(self.plan.workers)]
        time.sleep(2)
        self.outcome.live += self._live("alone")
        self._wait_for_live()
        self.outcome.p50_alone, self.outcome.p99_alone = self._late("alone")
        self.say(
            f"live traffic alone: p50 {self.outcome.p50_alone * 1000:.1f} ms, p99 {self.outcome.p99_alone * 1000:.1f} ms"
        )

    def _mend(self) -> int:
        (self.folder / "broken-a").unlink()
        self.fingerprint, self.outcome.mended = next(
            found for title, found in self.causes.items() if title.startswith("ValueError")
        )
        began = time.monotonic()
        document = self._json(
            "replay", "plan", TARGET, "--cause", self.fingerprint, "--why", "rounding is mended", "--by", "anna"
        )
        self.outcome.plan_seconds = time.monotonic() - began
        self.members = self._members(document["number"])
        self._see(document["members"] == self.outcome.mended, f"{document['members']} members of {self.outcome.mended}")
        self.say(
            f"a plan of {document['members']:,} members took {self.outcome.plan_seconds:.1f} s, the program's start included"
        )
        return int(document["number"])

    def _under_fire(self, number: int) -> None:
        began = time.monotonic()
        first = self._replayer(number)
        time.sleep(2)
        self.outcome.live += self._live("beside")
        self._see(first.poll() is None, "the replay was over before live traffic beside it was measured")
        self._wait_for_live()
        self.outcome.p50_beside, self.outcome.p99_beside = self._late("beside")
        self.say(
            f"beside the replay: p50 {self.outcome.p50_beside * 1000:.1f} ms, p99 {self.outcome.p99_beside * 1000:.1f} ms"
        )
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
        publisher = self.crew.start(
            sys.executable, "-m", "tests.fire.live", str(self.plan.live_rate), str(self.plan.live_seconds), "fire"
        )
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

    def _not_mended(self) -> None:
        document = self._json("replay", "plan", TARGET, "--why", "somebody hopes", "--by", "otto")
        self._well(self._replayer(document["number"]), 1)
        told = self._json("replay", "show", str(document["number"]), "--db", str(self.path), codes=(0, 1))
        self.outcome.aborted_in_stage = told["stage"] if told["state"] == "aborted" else 0
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

    def _live(self, phase: str) -> int:
        rate, seconds = str(self.plan.live_rate), str(self.plan.live_seconds)
        self._well(self.crew.start(sys.executable, "-m", "tests.fire.live", rate, seconds, phase))
        return int(self.plan.live_rate * self.plan.live_seconds)

    def _wait_for_live(self) -> None:
        query = f"""SELECT (SELECT count(*) FROM crossfoot_messages WHERE type = '{LIVE}')
          - (SELECT count(DISTINCT id) FROM effects WHERE type = '{LIVE}')"""
        until = time.monotonic() + 60
        while self._rows(query)[0][0] and time.monotonic() < until:
            time.sleep(0.1)

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
