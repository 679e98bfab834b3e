"""Scenes of the suite over database forms, as fixtures: `scene` is each form in turn, the others are some of them.

A test module has them by `pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.database_forms import FILE_FORMS, FORMS, POSTGRES_FORMS
from tests.conformance.database_rig import Form, Scene, a_scene, furnish
from tests.servers.postgres import Databases


@pytest.fixture(scope="session")
def furnished(postgres: Any) -> Databases:
    """Databases with a book and the business tables."""
    return Databases(postgres, furnish)


@pytest.fixture
def url_for(request: pytest.FixtureRequest) -> Iterator[Callable[[Form], str]]:
    """Gives a furnished database of its own to each form that wants one; the others have a file."""
    with ExitStack() as stack:

        def make(form: Form) -> str:
            if not form.postgres:
                return ""
            databases: Databases = request.getfixturevalue("furnished")
            return stack.enter_context(databases.one())

        yield make


def _scenes(forms: Sequence[Form], name: str) -> Any:
    @pytest.fixture(params=forms, ids=repr, name=name)
    async def scene(
        request: pytest.FixtureRequest, tmp_path: Path, url_for: Callable[[Form], str]
    ) -> AsyncIterator[Scene]:
        async with a_scene(request.param, tmp_path, url_for(request.param)) as made:
            yield made

    return scene


scene = _scenes(FORMS, "scene")
file_scene = _scenes(FILE_FORMS, "file_scene")
postgres_scene = _scenes(POSTGRES_FORMS, "postgres_scene")
sync_scene = _scenes([form for form in FORMS if not form.is_async], "sync_scene")
psycopg_sync_scene = _scenes([form for form in POSTGRES_FORMS if form.name == "psycopg"], "psycopg_sync_scene")
async_scene = _scenes([form for form in FORMS if form.is_async], "async_scene")
file_async_scene = _scenes([form for form in FILE_FORMS if form.is_async], "file_async_scene")
driver_scene = _scenes([form for form in FORMS if not form.orm], "driver_scene")
file_driver_scene = _scenes([form for form in FILE_FORMS if not (form.orm or form.django)], "file_driver_scene")
orm_scene = _scenes([form for form in FORMS if form.orm], "orm_scene")
file_orm_scene = _scenes([form for form in FILE_FORMS if form.orm], "file_orm_scene")
postgres_driver_scene = _scenes([form for form in POSTGRES_FORMS if not form.orm], "postgres_driver_scene")
psycopg_scene = _scenes([form for form in POSTGRES_FORMS if form.name.startswith("psycopg")], "psycopg_scene")
