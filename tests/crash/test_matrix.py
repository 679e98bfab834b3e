"""Killed at every boundary, on every queue, one by one and in batches: nothing is lost, doubled or unaccounted for.

Here every boundary is crashed at a few times; `python -m tests.crash` does it many times and prints the table.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from crossfoot.boundaries import Boundary
from tests.crash.job import FORMS
from tests.crash.nursery import Nursery
from tests.crash.plan import PLANS, boundaries, plan_of
from tests.crash.scene import Scene

pytest_plugins = ["tests.servers.kafka_fixtures", "tests.servers.nats_fixtures", "tests.servers.rabbitmq_fixtures"]

KILLS = 3

SLOW = {("replaying", "sqs"): 1}
"""Kills at each boundary where a life takes some ten seconds: all that ever died dies again in each, and SQS delays a retry by whole
seconds. `make crash ARGS='--queue sqs'` has as many there as anywhere."""

GROUPS = {
    "receiving": (Boundary.AFTER_RECEIVE, Boundary.AFTER_RECEIVED_ENTRY, Boundary.DURING_EXTENSION),
    "handling": (Boundary.INSIDE_HANDLER, Boundary.INSIDE_BATCH, Boundary.BEFORE_COMMIT),
    "settling": (Boundary.AFTER_COMMIT, Boundary.AFTER_ACK, Boundary.DURING_POSTING),
    "sending": (Boundary.BEFORE_SEND, Boundary.AFTER_SEND),
    "burying": (Boundary.BEFORE_DEAD_LETTER, Boundary.AFTER_DEAD_LETTER),
    "migrating": (Boundary.DURING_MIGRATION,),
    "replaying": (
        Boundary.PLANNING_REPLAY,
        Boundary.BEFORE_MOVE,
        Boundary.AFTER_MOVE,
        Boundary.BETWEEN_STAGES,
        Boundary.BEFORE_FORGET,
        Boundary.AFTER_FORGET,
    ),
}


def test_every_boundary_is_crashed_at() -> None:
    assert set(PLANS) == set(Boundary)
    assert sorted(boundary for group in GROUPS.values() for boundary in group) == sorted(Boundary)
    assert all(plan_of(boundary).times > 0 for boundary in Boundary)


@pytest.mark.crash
@pytest.mark.server
@pytest.mark.parametrize("queue", ["embedded", "sqs", "redis", "nats", "rabbitmq", "kafka", "postgres"])
@pytest.mark.parametrize("batch", [1, 4], ids=["plain", "batch"])
@pytest.mark.parametrize("group", GROUPS)
def test_killed_while(
    group: str, batch: int, queue: str, nursery: Nursery, request: pytest.FixtureRequest, tmp_path: Path, seed: int
) -> None:
    server = {"embedded": None, "nats": "nats_server", "rabbitmq": "rabbit", "kafka": "kafka_mock"}.get(queue, queue)
    endpoint = request.getfixturevalue(server).url if server is not None else None
    chance = random.Random(f"{seed} {group} {batch} {queue}")
    form = chance.choice(FORMS)
    places = [place for place in GROUPS[group] if place in boundaries(batch=batch > 1, queue=queue)]
    places *= SLOW.get((group, queue), KILLS)
    chance.shuffle(places)
    scene = Scene(nursery, tmp_path, seed=chance.randrange(2**32), endpoint=endpoint, batch=batch, form=form)

    outcome = scene.run(places)

    story = f"CRASH_SEED={seed}, {form}: {[(kill.boundary.value, kill.nth) for kill in outcome.kills]}"
    assert not outcome.missed, f"never reached: {outcome.missed}; {outcome.audit}; {story}"
    assert outcome.audit.clean, f"{outcome.audit}; {story}"
