"""Nothing waits for ever: what bounds a handler's statements, and the book's own, and who may say otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from crossfoot.books.place import place_of
from crossfoot.books.store import Book
from crossfoot.connection import Connection
from crossfoot.message import Message
from tests.conformance.database_forms import POSTGRES_FORMS
from tests.conformance.database_rig import Call, Form, Scene, Sql, a_scene, insert

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.server]

BOUNDS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
SHOW = "SELECT " + ", ".join(f"current_setting('{name}')" for name in BOUNDS)
BORROWED = [form for form in POSTGRES_FORMS if form.orm or form.django]


def looks(found: list[Any]) -> Any:
    """A handler that notes what it is bound by."""

    def story(message: Message, tx: Any) -> Generator[Sql | Call, Any, None]:
        yield insert(message)
        cursor = yield Sql(SHOW)
        row = cursor[0] if isinstance(cursor, list) else (yield Call(lambda _: cursor.fetchone()))
        found.append(tuple(row))

    return story


class TestAHandler:
    @pytest.mark.parametrize("batch", [False, True], ids=["plain", "batch"])
    async def test_waits_half_a_minute_for_a_lock(self, postgres_scene: Scene, batch: bool) -> None:
        found: list[Any] = []
        works = [postgres_scene.work(postgres_scene.handler(looks(found))) for _ in range(2)]
        if batch:
            await postgres_scene.perform_batch(works)
        else:
            for work in works:
                await postgres_scene.perform(work)
        assert found == [("30s", "0", "0")] * 2

    @pytest.mark.parametrize("form", POSTGRES_FORMS, ids=repr)
    async def test_waits_as_long_as_the_connection_says_where_it_says_anything(
        self, form: Form, tmp_path: Path, url_for: Callable[[Form], str]
    ) -> None:
        stated = "?options=-clock_timeout%3D7s%20-cstatement_timeout%3D8s%20-cidle_in_transaction_session_timeout%3D9s"
        if form.name.endswith("asyncpg"):
            stated = "?lock_timeout=7s&statement_timeout=8s&idle_in_transaction_session_timeout=9s"
        found: list[Any] = []
        async with a_scene(form, tmp_path, url_for(form)) as scene, form.database(f"{scene.path}{stated}") as database:
            scene.database = database
            await scene.perform(scene.work(scene.handler(looks(found))))
            await scene.close_session(scene.session)
            scene.session = None
        assert found == [("7s", "8s", "9s")]

    @pytest.mark.parametrize("scene", [form for form in BORROWED if form.name == "sqlalchemy-psycopg"], ids=repr)
    async def test_leaves_nothing_of_it_to_who_uses_the_engine_otherwise(
        self, scene: Form, tmp_path: Path, url_for: Callable[[Form], str]
    ) -> None:
        async with a_scene(scene, tmp_path, url_for(scene)) as made:
            await made.perform(made.work(made.handler(looks([]))))
            engine: Any = made.database
            with engine.engine.connect() as connection:
                assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "0"


class TestTheBook:
    def bounds(self, connection: Connection) -> tuple[Any, ...]:
        return tuple(connection.execute(SHOW).fetchone())

    def test_has_bounds_of_its_own_where_it_is_written(self, postgres_url: str) -> None:
        with closing(Book(postgres_url).open()) as book, book.reading() as connection:
            assert self.bounds(connection) == ("30s", "5min", "1min")

    def test_has_those_that_are_stated(self, postgres_url: str) -> None:
        stated = "?options=-clock_timeout%3D7s%20-cstatement_timeout%3D8s%20-cidle_in_transaction_session_timeout%3D9s"
        with closing(Book(postgres_url + stated).open()) as book, book.reading() as connection:
            assert self.bounds(connection) == ("7s", "8s", "9s")

    def test_is_read_for_as_long_as_that_takes(self, postgres_url: str) -> None:
        with closing(place_of(postgres_url).look_in()) as connection:
            assert self.bounds(connection) == ("30s", "0", "0")

    def test_begins_anew_when_the_server_ended_a_transaction_of_its_that_stood_still(self, postgres_url: str) -> None:
        """A process that was frozen in the midst of one goes on where it was, over a new connection."""
        stated = "?options=-cidle_in_transaction_session_timeout%3D100ms"
        tries: list[int] = []

        def steps(connection: Connection) -> int:
            (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone()
            connection.execute("INSERT INTO crossfoot_facts (name, value) VALUES ('stood', 'still')")
            tries.append(pid)
            if len(tries) == 1:
                gone(postgres_url, pid)
            return int(pid)

        with closing(Book(postgres_url + stated).open()) as book:
            assert book.write(steps) == tries[1] != tries[0]
            with book.reading() as connection:
                found = connection.execute("SELECT count(*) FROM crossfoot_facts WHERE name = 'stood'").fetchone()
        assert tuple(found) == (1,)


def gone(url: str, pid: int) -> None:
    """Wait until the server has ended a session."""
    pause = threading.Event()
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone():
            pause.wait(0.02)
