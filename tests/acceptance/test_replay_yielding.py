"""What a replay reads of live traffic: how long it waits, its own members left out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crossfoot.recover.replay.yielding import Yielding
from tests.acceptance.replay_rig import KINDS, Clinic, requested

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.anyio]


@pytest.fixture(params=KINDS)
async def clinic(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Clinic]:
    async with requested(request, tmp_path) as made:
        yield made


def look(clinic: Clinic, yielding: Yielding, number: int) -> None:
    """As of the last thing that was done, whatever has stopped this process since."""
    with clinic.app.book.reading() as connection:
        (now,) = connection.execute("SELECT max(at) FROM crossfoot_operations").fetchone()
        yielding.look(connection, number, clinic.app.queue.name, now)


async def test_live_messages_that_wait_longer_slow_it_down_and_its_own_members_do_not(clinic: Clinic) -> None:
    app, subjects = clinic.app, [f"live-{number}" for number in range(12)]
    await clinic.kill("case.released", *(f"case-{number}" for number in range(12)))
    await clinic.service.publish("case.live", *subjects)
    await clinic.service.work()
    yielding = Yielding(1.2)
    with app.book.reading() as connection:
        yielding.begin(connection, app.queue.name, app.clock.now())
    assert yielding.is_due(app.clock.now())

    clinic.grow_old(3_600)
    clinic.broken.clear()
    number = await clinic.plan()
    await clinic.run(number)
    look(clinic, yielding, number)
    assert yielding.share == 1.0  # its members waited for an hour

    await clinic.service.publish("case.late", *subjects)
    app.book.write(
        lambda connection: connection.execute(
            "UPDATE crossfoot_messages SET at = at - 9000000 WHERE type = 'case.late'"
        )
    )
    await clinic.service.work()
    look(clinic, yielding, number)
    assert yielding.share < 1.0
