"""A new version of an app beside the old one, on the same queue: what only the new one can handle waits for it, on every queue.

Two worker processes of two programs share a book. The old one hands back what it has no handler for, however often that comes to
it; it buries nothing, and nothing is lost or done twice. A topic of Kafka with one partition is all with one of the two, so what is
handed back there comes to the new version when the old one has left.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import anyio
import pytest

from crossfoot.app import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.queues import rabbitmq
from tests.acceptance.shell import BIN, ENVIRONMENT, crossfoot, fates, rows
from tests.crash.nursery import CREDENTIALS
from tests.crash.scene import make_queue, queue_name

pytest_plugins = [
    f"tests.servers.{name}" for name in (
        "fixtures", "kafka_fixtures", "nats_fixtures", "postgres_fixtures", "rabbitmq_fixtures", "valkey_fixtures",
    )
]  # fmt: skip

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("rolling")]

OLD = """
from crossfoot import Crossfoot

app = Crossfoot("billing")
VERSION = 1


@app.handler("case.released", operation="bill:{subject}")
def bill(message, tx):
    tx.execute("INSERT INTO invoices (subject, version) VALUES (?, ?)", (message.subject, VERSION))
"""

NEW = (
    OLD.replace("VERSION = 1", "VERSION = 2")
    + """

@app.handler("case.reopened", operation="reopen:{subject}")
def reopen(message, tx):
    tx.execute("INSERT INTO invoices (subject, version) VALUES (?, ?)", (message.subject, VERSION))
"""
)

SECONDS = 60.0
OF_EACH = 15

SERVERS = {
    "embedded": None, "postgres": "postgres", "sqs": "ministack", "redis": "valkey", "nats": "nats_server",
    "rabbitmq quorum": "rabbit", "rabbitmq classic": "rabbit", "kafka": "kafka_mock",
}  # fmt: skip
"""The fixture of each queue's server."""


class House(NamedTuple):
    """Both programs, their book and their queue."""

    folder: Path
    app: Crossfoot
    environment: dict[str, str]
    stack: ExitStack

    @property
    def book(self) -> Path:
        return self.folder / "crossfoot.db"

    def publish(self, prefix: str) -> None:
        """Messages of both types."""
        types = ("case.released", "case.reopened")
        messages = [self.app.message(t, subject=f"{t}-{prefix}-{n}") for n in range(OF_EACH) for t in types]
        anyio.run(self._publish, messages)

    async def _publish(self, messages: list[Any]) -> None:
        answers = await self.app.publish(*messages)
        assert len(answers) == len(messages)
        await self.app.queue.close()

    def start(self, version: str) -> subprocess.Popen[bytes]:
        """A worker process of that version; killed at the end, should it still be there."""
        log = self.stack.enter_context((self.folder / f"{version}.log").open("wb"))
        process = subprocess.Popen(
            [str(BIN / "crossfoot"), "worker", f"{version}:app"],
            cwd=self.folder, env=ENVIRONMENT | self.environment, stdout=log, stderr=log,
        )  # fmt: skip
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0

    def invoices(self, where: str = "true") -> list[str]:
        return [subject for (subject,) in rows(self.book, f"SELECT subject FROM invoices WHERE {where} ORDER BY 1")]

    def handed_back(self) -> int:
        """How many of the new type were handed back."""
        query = f"""SELECT count(DISTINCT e.message) FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message
            WHERE e.kind = {Kind.RELEASED.value} AND m.type = 'case.reopened'"""
        ((count,),) = rows(self.book, query)
        return int(count)

    def dead(self) -> list[bytes]:
        """What lies in the queue's own dead letters."""

        async def look() -> list[bytes]:
            await self.app.queue.open()
            try:
                return [held.body async for held in self.app.queue.dead_letters()]
            finally:
                await self.app.queue.close()

        return anyio.run(look)


@pytest.fixture(params=SERVERS)
def house(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    fixture = SERVERS[request.param]
    server = request.getfixturevalue(fixture) if fixture else None
    endpoint = (server.url() if callable(server.url) else server.url) if server else None
    queue = queue_name(endpoint)
    if request.param == "rabbitmq classic":
        queue = f"rabbitmq:rolling-{uuid4().hex[:12]}"
        anyio.run(lambda: rabbitmq.ensure(queue.partition(":")[2], url=endpoint, kind="classic"))
    elif endpoint:
        anyio.run(make_queue, queue, endpoint)
    settings: dict[str, Any] = {
        "queue": queue,
        "endpoint": endpoint,
        "lease": 1.0,
        "backoff": 0.05,
        "backoff_cap": 3.0,
        "attempts": 2,
    }
    environment = {f"CROSSFOOT_{name.upper()}": str(value) for name, value in settings.items() if value is not None}
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    for name, text in (("old", OLD), ("new", NEW)):
        (tmp_path / f"{name}.py").write_text(text)
    app = Crossfoot("billing", database=tmp_path / "crossfoot.db", **settings)
    app.book.open()
    with app.book.writing() as connection:
        connection.execute("CREATE TABLE invoices (subject TEXT, version INT)")
    with ExitStack() as stack:
        yield House(tmp_path, app, environment | CREDENTIALS, stack)
    app.book.close()


def eventually(condition: Callable[[], Any], what: str) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, f"waited {SECONDS:g} s for {what}"
        time.sleep(0.1)


@pytest.mark.timeout(2 * SECONDS)
def test_two_versions_side_by_side_lose_nothing_and_the_old_one_buries_nothing(
    house: House, request: pytest.FixtureRequest
) -> None:
    house.publish("before")
    old = house.start("old")
    eventually(lambda: len(house.invoices()) == OF_EACH, "what the old version knows")
    eventually(lambda: house.handed_back() == OF_EACH, "the old version to hand back what it does not know")

    new = house.start("new")
    house.publish("meanwhile")
    eventually(lambda: len(house.invoices("subject LIKE 'case.released%'")) == 2 * OF_EACH, "what both know")
    if "kafka" not in request.node.name:
        eventually(lambda: len(house.invoices()) == 4 * OF_EACH, "the new version to do the rest beside the old one")
    house.stop(old)
    house.publish("after")
    eventually(lambda: len(house.invoices()) == 6 * OF_EACH, "the new version to do everything")
    house.stop(new)

    told = json.loads(crossfoot(house.folder, "balance", "--json", code=None, **house.environment).stdout)
    assert {fate for _, _, fate in fates(house.book)} == {"settled"}
    assert told["unaccounted"] == 0
    assert len(set(house.invoices())) == len(house.invoices()) == told["published"] == 6 * OF_EACH
    assert len(house.invoices("subject LIKE 'case.reopened%' AND version = 2")) == 3 * OF_EACH
    assert house.dead() == []
