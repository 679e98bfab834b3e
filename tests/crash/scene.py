"""A scene: one service on one queue, crashed a number of times, set right by clean workers, and audited."""

from __future__ import annotations

import random
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import msgspec
from boto3.session import Session

from crossfoot.boundaries import Boundary
from crossfoot.queues import kafka, nats, postgres, rabbitmq, redis
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Queue
from crossfoot.queues.sqs import SqsQueue, ensure
from tests.crash.audit import Audit, audit
from tests.crash.job import GOOD, Job, Sent, ids, noted_in, traffic
from tests.crash.nursery import CREDENTIALS, Nursery
from tests.crash.plan import plan_of
from tests.servers.kafka import make_topics

PER_KILL = 20
"""Messages published before each kill: enough for every boundary to be reached as often as the plan says."""

TRIES = 4
"""Lives that may end before they come to the boundary, one after the other."""


class Kill(msgspec.Struct, frozen=True):
    """One death that was ordered."""

    boundary: Boundary
    nth: int
    happened: bool
    said: str = ""
    """Why it did not happen, as far as can be told."""


class Outcome(msgspec.Struct, frozen=True):
    """What a scene came to."""

    kills: list[Kill]
    audit: Audit

    @property
    def missed(self) -> list[Kill]:
        return [kill for kill in self.kills if not kill.happened]


class Scene:
    """Everything a crashed service leaves in one folder.

    Args:
        endpoint: where SQS, Redis, NATS, RabbitMQ, Kafka or PostgreSQL is; without it the queue is embedded.
        seed: decides the messages and the moments of death.
        plain: every message good, its operation its own; so whatever is doubled was doubled by a crash.
    """

    def __init__(
        self, nursery: Nursery, folder: Path, *, seed: int, endpoint: str | None = None, batch: int = 1,
        form: str = "sqlite3", sabotage: str = "", plain: bool = False,
    ) -> None:  # fmt: skip
        self.nursery = nursery
        self.folder = folder
        self.chance = random.Random(seed)
        self.plain = plain
        self.published: list[Sent] = []
        name = queue_name(endpoint)
        self.job = Job(
            path=str(folder / "billing.db"), queue=name, role="work",
            endpoint=endpoint, form=form, batch=batch, sabotage=sabotage, mark=str(folder / "mark"),
            noted=str(folder / "noted"), lease=1.0 if endpoint else 0.5,
        )  # fmt: skip
        if endpoint:
            anyio.run(make_queue, name, endpoint)

    def traffic(self, count: int, *, name: str, mostly: str = GOOD) -> tuple[Sent, ...]:
        return traffic(self.chance, count, name=name, mostly=mostly, plain=self.plain)

    def publish(self, messages: tuple[Sent, ...]) -> None:
        """From a process that lives."""
        code = self.nursery.run(self.job.but(role="publish", messages=messages, sabotage=""))
        assert code == 0, f"publishing ended with {code}:\n{self.nursery.said()}"
        self.published += messages

    def kill(self, boundary: Boundary) -> Kill:
        """Let a process die at the boundary, the n-th time it is reached.

        A life that ended well before it came there proves nothing either way: the next one is tried, with fresh
        messages. One that ended otherwise, or did not end, is told at once.
        """
        kill, ended_well = self._try(boundary)
        for _ in range(TRIES - 1):
            if ended_well:
                kill, ended_well = self._try(boundary)
        return kill

    def _try(self, boundary: Boundary) -> tuple[Kill, bool]:
        plan = plan_of(boundary)
        if plan.role != "open":
            self.publish(self.traffic(PER_KILL, name=f"k{len(self.published)}", mostly=plan.mostly))
        role = self.chance.choice(plan.roles(remote=self.job.endpoint is not None))
        nth = self.chance.randint(1, plan.most(role, batch=self.job.batch > 1))
        optimistic = self.job.batch > 1 and self.chance.random() < 0.5
        job = self.job.but(role=role, boundary=boundary.value, nth=nth, pause=plan.pause, optimistic=optimistic)
        if role == "publish":
            job = job.but(messages=self.traffic(25, name=f"p{self.chance.randrange(16**6):06x}"))
        mark = Path(self.job.mark)
        mark.unlink(missing_ok=True)
        code = self.nursery.run(job)
        self._take_note(job)
        died_there = mark.exists() and mark.read_text() == f"{boundary}\n{nth}"
        if code == -signal.SIGKILL and died_there:
            return Kill(boundary, nth, True), False
        said = f"{role} ended with {code}; mark: {died_there}\n{self.nursery.said(12)}"
        return Kill(boundary, nth, False, said), code == 0

    def pids(self, count: int, **changes: Any) -> list[int]:
        """Start so many workers at once."""
        return [self.nursery.start(self.job.but(**changes)) for _ in range(count)]

    def settle(self, patience: float = 30.0) -> int | None:
        """Clean workers until the books are closed; 0 when they are."""
        return self.nursery.run(self.job.but(role="settle", patience=patience), patience + 30)

    def audit(self) -> Audit:
        return audit(self.job.path, self.published, held=anyio.run(_held, self.job))

    def run(self, boundaries: Sequence[Boundary], *, patience: float = 30.0) -> Outcome:
        """Publish, kill at each of the boundaries, set right, audit."""
        kills = [self.kill(boundary) for boundary in boundaries]
        self.publish(self.traffic(PER_KILL, name="last"))
        code = self.settle(patience)
        found = self.audit()
        if code != 0:
            found.problems.append(f"the clean worker ended with {code}:\n{self.nursery.said(25)}")
        return Outcome(kills, found)

    def _take_note(self, job: Job) -> None:
        """A publisher that died: what it got an answer for must be there, what it asked for may be."""
        if job.role != "publish":
            return
        asked, answered = noted_in(Path(job.noted))
        in_book = {message.id for message in self._booked()}
        self.published += [m for m in job.messages if m.id in answered or (m.id in asked and m.id in in_book)]
        assert not in_book - asked - ids(self.published), "the book knows messages nobody asked for"

    def _booked(self) -> list[Sent]:
        with closing(sqlite3.connect(self.job.path)) as connection:
            rows = connection.execute(
                "SELECT id, type, subject FROM crossfoot_messages WHERE causation IS NULL"
            ).fetchall()
        return [Sent(*row) for row in rows]


def queue_name(endpoint: str | None) -> str:
    """A name nobody has yet, for a queue on that server."""
    if endpoint is None:
        return "embedded"
    name, kind = f"crash-{uuid4().hex[:12]}", endpoint.partition(":")[0]
    known = {
        "redis": f"redis:{name}",
        "nats": f"nats:{name}/billing",
        "amqp": f"rabbitmq:{name}",
        "kafka": f"kafka:{name}?group=billing-{name}&session=1",
        "postgresql": f"postgres:{name}",
    }
    return known.get(kind, f"sqs:{name}")


async def make_queue(name: str, endpoint: str, lease: float = 1.0) -> None:
    kind, _, rest = name.partition(":")
    if kind == "redis":
        await redis.ensure(rest, url=endpoint)
    elif kind == "nats":
        await nats.ensure(name, servers=endpoint, lease=lease)
    elif kind == "rabbitmq":
        await rabbitmq.ensure(rest, url=endpoint)
    elif kind == "kafka":
        await anyio.to_thread.run_sync(make_topics, endpoint, rest.partition("?")[0])
    elif kind == "postgres":
        await postgres.ensure(rest, url=endpoint)
    else:
        await ensure(rest, endpoint_url=endpoint, session=_session())


async def _held(job: Job) -> int:
    queue: Queue
    if job.queue.startswith("redis:"):
        queue = redis.RedisQueue(job.queue.removeprefix("redis:"), url=job.endpoint)
    elif job.queue.startswith("postgres:"):
        queue = postgres.PostgresQueue(job.queue.removeprefix("postgres:"), url=job.endpoint)
    elif job.queue.startswith("nats:"):
        queue = nats.NatsQueue(job.queue, servers=job.endpoint)
    elif job.queue.startswith("rabbitmq:"):
        queue = rabbitmq.RabbitQueue(job.queue, url=job.endpoint)
    elif job.queue.startswith("kafka:"):
        queue = kafka.KafkaQueue(job.queue, servers=job.endpoint)
    elif job.endpoint:
        queue = SqsQueue(job.queue.removeprefix("sqs:"), endpoint_url=job.endpoint, session=_session())
    else:
        queue = EmbeddedQueue(job.path, "billing", ordered=False)
    await queue.open()
    try:
        return (await queue.depth()).held
    finally:
        await queue.close()


def _session() -> Session:
    return Session(
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
    )
