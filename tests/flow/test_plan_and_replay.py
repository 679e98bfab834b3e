"""What follows from a plan, and what would have happened: pure arithmetic, and the real limits in virtual time."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfoot.errors import UsageError
from crossfoot.flow import Fate, Waste
from crossfoot.flow.planning import Dependency, Service, Weight, check, read
from crossfoot.flow.replaying import Outage, Replay, poisson, replay
from tests.acceptance.pages import ROOT
from tests.acceptance.shell import crossfoot

PAGE = ROOT / "examples" / "flow" / "page.toml"


def told(service: Service) -> list[str]:
    return [f"{one.weight}: {one.about}: {one.text}" for one in check(service)]


def page(*dependencies: Dependency, **more: Any) -> Service:
    return Service(**{"rps": 200, "deadline": 0.3, "dependencies": dependencies, **more})


def test_a_limit_that_can_never_bind_is_named() -> None:
    semaphore = Dependency(name="pricing", seconds=0.08, limit=100)

    assert any(
        "limit of 100 can never bind: at 200 calls/s, each over after 0.3 s at most, 60 are under way" in line
        for line in told(page(semaphore))
    )
    assert not any("never bind" in line for line in told(page(Dependency(name="pricing", seconds=0.08, limit=59))))


def test_a_limit_that_refuses_when_all_is_well_is_wrong() -> None:
    found = told(page(Dependency(name="pricing", seconds=0.08, limit=8)))

    assert "wrong: pricing: its limit of 8 refuses 50% of the calls when all is well" in found
    assert not any(line.startswith("wrong") for line in told(page(Dependency(name="pricing", seconds=0.08, limit=16))))


def test_a_pool_that_will_starve_is_named_and_one_that_does_in_an_outage() -> None:
    always = told(page(Dependency(name="stock", seconds=0.08, pool=10)))
    in_an_outage = told(page(Dependency(name="stock", seconds=0.08, pool=30)))

    assert "wrong: stock: its pool of 10 will starve: 16 connections are in use on average" in always
    assert any(
        line.startswith("outage: stock: its pool of 30 starves in an outage: 60 calls want") for line in in_an_outage
    )
    assert not any("starve" in line for line in told(page(Dependency(name="stock", seconds=0.08, pool=30, limit=30))))


def test_threads_that_everything_waits_for_are_named() -> None:
    found = told(page(Dependency(name="stock", seconds=0.08), threads=40, deadline=2.0))

    assert any("when it is ill, 400 requests want one of 40 threads: everything waits" in line for line in found)
    assert any(
        "40 threads will starve" in line for line in told(page(Dependency(name="stock", seconds=0.2), threads=40))
    )


def test_what_takes_longer_than_it_has_never_answers() -> None:
    assert any("never answers in time" in line for line in told(page(Dependency(name="x", seconds=0.2, share=0.5))))
    assert any(
        "waits 0.3 s for a permit" in line for line in told(page(Dependency(name="x", seconds=0.1, limit=50, wait=0.3)))
    )


def test_without_a_deadline_an_outage_has_no_bounds() -> None:
    found = told(page(Dependency(name="x", seconds=0.1, outage=30), deadline=math.inf))

    assert any("there is no deadline" in line for line in found)
    assert any("in an outage 6,000" in line for line in found)


@given(
    rps=st.floats(0.1, 1e5),
    seconds=st.floats(0.001, 10),
    outage=st.floats(0.001, 100),
    limit=st.none() | st.integers(1, 1000),
)
def test_every_plan_is_judged_and_the_worst_comes_first(
    rps: float, seconds: float, outage: float, limit: int | None
) -> None:
    found = check(page(Dependency(name="x", seconds=seconds, outage=outage, limit=limit), rps=rps))
    order = [list(Weight).index(one.weight) for one in found]

    assert order == sorted(order)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "no \\[service\\]"),
        ({"service": {"rps": 1}, "more": 1}, "more"),
        ({"service": {"rps": 0}}, "rps = 0: more than 0"),
        ({"service": {"rps": 1, "dead_line": 1}}, "did you mean deadline"),
        ({"service": {"rps": 1}, "dependency": [{"name": "x"}]}, "seconds"),
        ({"service": {"rps": 1}, "dependency": [{"name": "x", "seconds": 1, "share": 2}]}, "share = 2: 1 at most"),
        ({"service": {"rps": 1}, "dependency": [{"name": "x", "seconds": 1, "limit": -1}]}, "limit = -1"),
    ],
)
def test_a_plan_that_is_none_is_refused(document: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(document)


# ---- replay -----------------------------------------------------------------------------------------------------------


def incident(limit: int | None, *, adaptive: bool = False, required: bool = False, seconds: float = 9) -> Replay:
    """The page, and pricing is ill from the third second to the sixth."""
    others = [Dependency(name=name, seconds=0.08) for name in ("ratings", "reviews")]
    stock = Dependency(name="stock", seconds=0.08, required=True)
    pricing = Dependency(name="pricing", seconds=0.08, outage=1.5, limit=limit, wait=0.05, required=required)
    arrivals = poisson(200, seconds, random.Random(1))
    return replay(page(stock, *others, pricing), arrivals, [Outage("pricing", 3, 6)], seed=1, adaptive=adaptive)


def parts(found: Replay, begins: int, ends: int) -> Counter[Fate]:
    return sum((one.fates for one in found.seconds[begins:ends]), Counter[Fate]())


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), adaptive=st.booleans())
def test_every_arrival_has_a_fate(seed: int, adaptive: bool) -> None:
    arrivals = list(poisson(50, 3, random.Random(seed)))
    service = page(
        Dependency(name="a", seconds=0.1, limit=3, wait=0.1, calls=1.5),
        Dependency(name="b", seconds=0.1, required=True),
    )

    found = replay(service, arrivals, [Outage("b", 1, 2)], seed=seed, adaptive=adaptive)

    assert sum(found.fates.values()) == sum(one.arrivals for one in found.seconds) == len(arrivals)


def test_the_same_seed_gives_the_same() -> None:
    assert incident(40) == incident(40)


def test_an_optional_branch_costs_its_part_of_the_answer() -> None:
    found = incident(40)
    answered = found.fates[Fate.FULL] + found.fates[Fate.DEGRADED]

    assert answered >= 0.995 * sum(found.fates.values())
    assert parts(found, 0, 3)[Fate.FULL] >= 0.98 * sum(parts(found, 0, 3).values())
    assert parts(found, 4, 5)[Fate.FULL] == 0
    assert parts(found, 7, 9)[Fate.FULL] >= 0.98 * sum(parts(found, 7, 9).values()), "it recovers within a second"
    assert all(one.late(0.99) <= 0.3 * 1.05 for one in found.seconds)


def test_a_required_one_costs_the_answer() -> None:
    assert parts(incident(40, required=True), 4, 5).keys() & {Fate.FULL, Fate.DEGRADED} == set()


def the_incident(limit: int | None, *, share: float = 1.0, adaptive: bool = False, deadline: float = 0.3) -> Replay:
    """The incident in full: 200 requests a second, and pricing is ill from the fifth second to the fifteenth. Little is drawn
    by chance here but arrivals, for services take 80 ms, give or take little."""
    services = [Dependency(name=name, seconds=0.08, required=True) for name in ("stock", "ratings", "reviews")]
    pricing = Dependency(name="pricing", seconds=0.08, outage=1.5, limit=limit, wait=0.05)
    arrivals = poisson(200, 20, random.Random(1))
    service = page(*services, pricing, deadline=deadline)
    return replay(service, arrivals, [Outage("pricing", 5, 15, share)], seed=1, adaptive=adaptive)


def late(found: Replay) -> int:
    return sum(count for cause, (count, _) in found.wasted.items() if cause is Waste.EXPIRED)


def test_the_incident_is_survived_by_what_is_optional_and_finds_its_size() -> None:
    found = the_incident(40, adaptive=True)
    ill, arrivals = parts(found, 5, 15), sum(one.arrivals for one in found.seconds[5:15])

    assert all(one.late(0.99) <= 0.3 * 1.05 for one in found.seconds)
    assert ill[Fate.FULL] + ill[Fate.DEGRADED] >= 0.995 * arrivals
    assert late(found) <= 0.1 * arrivals, "calls of pricing wasted, of what an unbounded page asks"
    healthy = max(one.under_way for one in found.seconds[:5])
    assert max(one.under_way for one in found.seconds[6:15]) <= 1.1 * healthy, "flat"
    assert parts(found, 16, 20)[Fate.FULL] >= 0.99 * sum(parts(found, 16, 20).values()), "recovered within a second"
    assert min(found.limits["pricing"]) <= 2


def test_a_fixed_limit_wastes_more() -> None:
    assert late(the_incident(40)) > 3 * late(the_incident(40, adaptive=True))


def test_of_a_service_that_is_partly_ill_the_other_part_is_had() -> None:
    found = the_incident(40, share=0.3, adaptive=True)
    arrivals = sum(one.arrivals for one in found.seconds[5:15])

    assert parts(found, 5, 15)[Fate.FULL] >= 0.95 * 0.7 * arrivals


def test_an_outage_of_nothing_and_arrivals_out_of_order_are_refused() -> None:
    with pytest.raises(UsageError, match="no dependency is called 'prices'; there are pricing"):
        replay(page(Dependency(name="pricing", seconds=1)), [], [Outage("prices", 0, 1)])
    with pytest.raises(UsageError, match="in order"):
        replay(page(), [2.0, 1.0])


def test_nothing_happens_when_nothing_arrives() -> None:
    assert replay(page(), []).fates == Counter()


# ---- the commands -----------------------------------------------------------------------------------------------------


def test_the_plan_of_the_example_holds(tmp_path: Path) -> None:
    done = crossfoot(tmp_path, "flow", "plan", str(PAGE))
    document = json.loads(crossfoot(tmp_path, "flow", "plan", str(PAGE), "--json").stdout)

    assert done.stdout.startswith("PLAN HOLDS")
    assert {one["weight"] for one in document["findings"]} == {"outage", "note"}


def test_a_plan_that_fails_exits_with_1_and_one_that_cannot_be_read_with_2(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('[service]\nrps = 200\n[[dependency]]\nname = "x"\nseconds = 0.1\nlimit = 2\n')
    (tmp_path / "none.toml").write_text("rps: 200")

    assert "refuses 90%" in crossfoot(tmp_path, "flow", "plan", "bad.toml", code=1).stdout
    for name in ("none.toml", "missing.toml"):
        done = crossfoot(tmp_path, "flow", "plan", name, code=2)
        assert "Traceback" not in done.stderr
        assert name in done.stderr


def test_recorded_arrivals_are_replayed(tmp_path: Path) -> None:
    (tmp_path / "yesterday.txt").write_text("".join(f"{number / 100},GET /\n" for number in range(300)))

    done = crossfoot(
        tmp_path, "flow", "replay", str(PAGE), "--arrivals", "yesterday.txt", "--outage", "pricing:1:2", "--json"
    )

    document = json.loads(done.stdout)
    assert document["arrivals"] == sum(document["fates"].values()) == 300
    assert [second["arrivals"] for second in document["seconds"]] == [100, 100, 100]
    assert document["seconds"][1]["fates"]["degraded"] >= 90


def test_a_replay_is_drawn(tmp_path: Path) -> None:
    done = crossfoot(tmp_path, "flow", "replay", str(PAGE), "--seconds", "2", "--outage", "pricing:1:2")

    assert "REQUESTS" in done.stdout
    assert "~~~~" in done.stdout


@pytest.mark.parametrize("text", ["pricing", "pricing:1", "pricing:a:b"])
def test_an_outage_that_cannot_be_read_is_wrong_use(text: str, tmp_path: Path) -> None:
    assert "NAME:FROM:TO" in crossfoot(tmp_path, "flow", "replay", str(PAGE), "--outage", text, code=2).stderr


def test_the_guide_names_every_key_of_a_plan_and_no_other() -> None:
    guide = (ROOT / "docs" / "guides" / "flow.md").read_text(encoding="utf-8")
    for table, kind in (("[service]", Service), ("[[dependency]]", Dependency)):
        rows = guide.partition(f"| `{table}` | |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
        named = {key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])}
        assert named == {field.name for field in dataclasses.fields(kind)} - {"dependencies"}
