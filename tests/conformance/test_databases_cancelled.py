"""A statement that a failed handler left running in PostgreSQL is cancelled there: it would hold its locks, and its processor, as long as
it likes, and the message's next delivery would wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest
from sqlalchemy import text

from crossfoot.books.entry import Kind
from crossfoot.effects.handler import Handler
from crossfoot.effects.operation import operation_key
from crossfoot.message import Message
from tests.conformance.database_forms import POSTGRES_FORMS
from tests.conformance.database_rig import Form, Scene, a_scene, bill

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.server]

PATIENCE = 60.0
SLEEP = "SELECT pg_sleep(3600)"
AT_IT = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE '%pg_sleep(3600)%' AND state = 'active' AND pid <> pg_backend_pid()
"""


@pytest.fixture(params=POSTGRES_FORMS, ids=repr)
async def scene(request: pytest.FixtureRequest, tmp_path: Path, url_for: Callable[[Form], str]) -> AsyncIterator[Scene]:
    form: Form = request.param
    url = url_for(form)
    async with a_scene(form, tmp_path, url) as made:
        yield made
        if at_it(url):
            await anyio.to_thread.run_sync(end_them, url)  # or whoever waits for it hangs the run


def at_it(url: str) -> list[int]:
    """Sessions in which the statement runs."""
    with psycopg.connect(url, autocommit=True) as connection:
        return [pid for (pid,) in connection.execute(AT_IT.encode())]


def end_them(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM ({AT_IT}) AS found".encode())


def wait_until(condition: Callable[[], bool], what: str) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError(f"waited {PATIENCE:g} s until {what}")


def sleeper(scene: Scene, left: list[Any]) -> Handler:
    """A handler that leaves a statement running, and fails."""
    url = str(scene.path)

    def begun() -> None:
        wait_until(lambda: bool(at_it(url)), "the statement ran")

    def leave(message: Message, tx: Any) -> None:
        tx.execute("INSERT INTO effects (id, note) VALUES ('late', '')")
        call = statement_of(scene.form, tx)

        def sleep() -> None:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - told below
                left.append(error)

        threads.append(threading.Thread(target=sleep, daemon=True))
        threads[-1].start()
        begun()
        raise ConnectionError("pricing is down")

    async def aleave(message: Message, tx: Any) -> None:
        await tx.execute("INSERT INTO effects (id, note) VALUES ('late', '')")
        tasks.append(asyncio.ensure_future(statement_of(scene.form, tx)()))
        await anyio.to_thread.run_sync(begun)
        raise ConnectionError("pricing is down")

    threads: list[threading.Thread] = []
    tasks: list[Any] = []
    left.append(tasks)
    function = aleave if scene.form.is_async else leave
    return Handler(
        name="bill", service="billing", type="*", function=function, operation=operation_key(None, handler="bill")
    )


def statement_of(form: Form, tx: Any) -> Callable[[], Any]:
    """As a handler of this form would say it in a thread or a task."""
    if form.orm:
        return lambda: tx.session.execute(text(SLEEP))
    if form.django:
        raw = tx.connection.connection  # Django's own is for its own thread only
        return lambda: raw.execute(SLEEP)
    return lambda: tx.connection.execute(SLEEP)


async def test_it_is_cancelled_on_the_server_and_the_lane_goes_on(scene: Scene) -> None:
    left: list[Any] = []
    with anyio.fail_after(PATIENCE):
        work = scene.work(sleeper(scene, left))
        with pytest.raises(ConnectionError, match="pricing"):
            await scene.perform(work)
        await anyio.to_thread.run_sync(wait_until, lambda: not at_it(str(scene.path)), "it was cancelled")
        assert await scene.perform(scene.work(scene.handler(bill), work.message)) is Kind.COMMITTED
    assert scene.effects == [work.message.id]
    for task in left[0]:
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the driver says of it
            await task
