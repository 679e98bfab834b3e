"""A table of the book's that is removed under a worker is no delivery's fault: nobody's message is tried again for it, and dies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crossfoot.errors import SchemaMismatch
from tests.conformance.database_forms import FORMS
from tests.conformance.database_rig import Form, Scene, a_scene, bill, furnish

pytest_plugins = ["tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.server]


@pytest.fixture(params=FORMS, ids=repr)
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    """In a database that no other test uses afterwards."""
    form: Form = request.param
    url = request.getfixturevalue("postgres_url") if form.postgres else ""
    if url:
        furnish(url)
    async with a_scene(form, tmp_path, url) as made:
        yield made


@pytest.mark.parametrize("table", ["crossfoot_operations", "crossfoot_entries"])
async def test_a_table_of_the_book_s_that_is_gone_is_told_as_that(scene: Scene, table: str) -> None:
    """It fails before the handler, and with what is written after it."""
    works = [scene.work(scene.handler(bill)) for _ in range(2)]
    await scene.perform(works[0])
    scene.write(f"DROP TABLE {table}")

    with pytest.raises(SchemaMismatch, match=f"not all there .*{table}") as told:
        await scene.perform(works[1])
    assert "crossfoot worker MODULE:NAME" in str(told.value)
    assert scene.effects == [works[0].message.id]


async def test_a_table_of_the_user_s_that_is_gone_is_its_delivery_s_matter(scene: Scene) -> None:
    work = scene.work(scene.handler(bill))
    scene.write("DROP TABLE effects")
    with pytest.raises(Exception, match="effects") as told:
        await scene.perform(work)
    assert not isinstance(told.value, SchemaMismatch)
