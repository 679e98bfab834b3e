"""`crossfoot check` on queues elsewhere: how real servers are set, and what that may lose; and an incident on SQS."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import pytest
from boto3.session import Session

from crossfoot import Crossfoot
from crossfoot.cli.check_queues import service_of
from crossfoot.clock import SECOND
from crossfoot.message import Message
from crossfoot.queues.kafka.checks import told as told_by_kafka
from crossfoot.queues.nats import NatsQueue
from crossfoot.queues.nats import ensure as ensure_nats
from crossfoot.queues.queue import Queue
from crossfoot.queues.rabbitmq.checks import told as told_by_rabbitmq
from crossfoot.queues.rabbitmq.probing import Settings
from crossfoot.queues.redis import RedisQueue
from crossfoot.queues.redis import ensure as ensure_redis
from crossfoot.queues.sqs import SqsQueue, ensure
from crossfoot.queues.telling import TellsSettings, Told
from crossfoot.recover.checklist.survey import Service
from crossfoot.recover.checklist.walk import Report
from tests.acceptance import incidents
from tests.acceptance.incidents import Expected, Town, publish, work
from tests.acceptance.town import checked, first_is
from tests.servers.nats import NatsServer
from tests.servers.processes import Server
from tests.servers.valkey import Valkey

pytest_plugins = [
    "tests.acceptance.town_fixtures", "tests.servers.fixtures", "tests.servers.nats_fixtures", "tests.servers.valkey_fixtures",
]  # fmt: skip

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_environment")]


def settings_found(report: Report) -> list[str]:
    return [one.text.partition(": ")[2] for one in report.findings if one.code == "setting"]


def told(queue: Queue) -> Told:
    async def ask() -> Told:
        await queue.open()
        try:
            assert isinstance(queue, TellsSettings)
            return await queue.told()
        finally:
            await queue.close()

    return anyio.run(ask)


class TestSqs:
    @pytest.fixture
    def on_sqs(self, ministack: Server, aws: Session, monkeypatch: pytest.MonkeyPatch) -> Any:
        for name, value in (
            ("ACCESS_KEY_ID", "test"),
            ("SECRET_ACCESS_KEY", "test"),
            ("DEFAULT_REGION", "eu-central-1"),
        ):
            monkeypatch.setenv(f"AWS_{name}", value)

        def make(**settings: Any) -> str:
            name = f"billing-{uuid4().hex[:8]}"
            return anyio.run(lambda: ensure(name, endpoint_url=ministack.url, session=aws, **settings))

        return make

    def service(self, town: Town, name: str, ministack: Server, **settings: Any) -> Crossfoot:
        app = town.service(queue=f"sqs:{name}", endpoint=ministack.url, **settings)

        @app.handler("case.released", operation="bill:{subject}")
        def bill(message: Message, tx: Any) -> None:
            town.insert(message, tx)

        return app

    def test_a_batch_that_is_partly_refused(self, in_a_file: Town, ministack: Server, on_sqs: Any) -> None:
        app = self.service(in_a_file, on_sqs(), ministack)
        messages = [
            app.message("case.released", subject=subject, data={"notes": "x" * (1_100_000 if number in (2, 9) else 10)})
            for number, subject in enumerate(incidents.cases(10), 1)
        ]
        anyio.run(lambda: app.publish(*messages))
        work(app, 3.0)

        first_is(checked(app), Expected("refused", incidents.ids([messages[1], messages[8]]), app, ("accepted 8",)))

    def test_a_queue_with_every_dangerous_setting_is_told_each_of_them(
        self, in_a_file: Town, ministack: Server, on_sqs: Any
    ) -> None:
        app = self.service(in_a_file, on_sqs(max_attempts=None, retention=3_600.0, visibility=1.0), ministack)

        found = settings_found(checked(app))

        assert [text for text in found if "forgets after 1 h" in text]
        assert [text for text in found if "no place for dead letters" in text]

    def test_a_queue_that_is_well_set_is_told_nothing(self, in_a_file: Town, ministack: Server, on_sqs: Any) -> None:
        app = self.service(in_a_file, on_sqs(), ministack)
        publish(app, "case.released", *incidents.cases(3))
        work(app, 2.0)

        report = checked(app)

        assert [(one.code, one.text) for one in report.findings] == []

    def counted(
        self, app: Crossfoot, moto: Server, aws: Session, monkeypatch: pytest.MonkeyPatch, at: datetime
    ) -> Service:
        """What a check learns when CloudWatch has counted seven deliveries then."""
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", moto.url)
        name = app.queue.name
        dimensions = [{"Name": "QueueName", "Value": name}]
        data: list[Any] = [
            {"MetricName": f"NumberOfMessages{what}", "Dimensions": dimensions, "Timestamp": at, "Value": count}
            for what, count in (("Sent", 9), ("Received", 3), ("Received", 4), ("Deleted", 6))
        ]
        cloudwatch: Any = aws.client("cloudwatch", endpoint_url=moto.url)
        cloudwatch.put_metric_data(Namespace="AWS/SQS", MetricData=data)
        return service_of(app.book.path, [name], None, ask=True, now=time.time_ns() // 1000)

    def test_what_cloudwatch_counted_is_asked_for(
        self,
        in_a_file: Town,
        ministack: Server,
        moto: Server,
        aws: Session,
        on_sqs: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        app = self.service(in_a_file, on_sqs(), ministack)
        for name in ("DATABASE", "QUEUE", "ENDPOINT"):
            value = {"DATABASE": app.book.path, "QUEUE": f"sqs:{app.queue.name}", "ENDPOINT": ministack.url}[name]
            monkeypatch.setenv(f"CROSSFOOT_{name}", str(value))
        at = datetime.now(UTC) - timedelta(hours=1)

        told = self.counted(app, moto, aws, monkeypatch, at)

        (sums,) = told.attached[app.queue.name].counted
        assert (sums.sent, sums.received, sums.deleted) == (9, 7, 6)
        assert sums.at <= int(at.timestamp() * SECOND) < sums.until
        assert told.unasked == ()

    def test_a_cloudwatch_that_does_not_answer_is_named_and_hides_nothing_else(
        self, in_a_file: Town, ministack: Server, on_sqs: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app = self.service(in_a_file, on_sqs(), ministack)
        for name, value in (("QUEUE", f"sqs:{app.queue.name}"), ("ENDPOINT", ministack.url)):
            monkeypatch.setenv(f"CROSSFOOT_{name}", value)
        now = time.time_ns() // 1000

        without = service_of(app.book.path, [app.queue.name], None, ask=True, now=now)
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", "http://127.0.0.1:9")
        told = service_of(app.book.path, [app.queue.name], None, ask=True, now=now)

        assert (without.attached[app.queue.name].counted, without.unasked) == ((), ())
        assert told.attached[app.queue.name].told == without.attached[app.queue.name].told != Told()
        (unasked,) = told.unasked
        assert unasked.startswith(f"queue {app.queue.name} (CloudWatch could not be asked")

    def test_dead_letters_that_nobody_watches(
        self, in_a_file: Town, ministack: Server, on_sqs: Any, aws: Session
    ) -> None:
        name = on_sqs(max_attempts=1, visibility=0.0)
        app = self.service(in_a_file, name, ministack)
        publish(app, "case.released", "case-1")
        client = aws.client("sqs", endpoint_url=ministack.url)
        url = client.get_queue_url(QueueName=name)["QueueUrl"]
        dead = client.get_queue_url(QueueName=f"{name}-dead")["QueueUrl"]
        until = time.monotonic() + 20
        while True:  # somebody else receives, fails, and goes away: SQS itself gives it up
            client.receive_message(QueueUrl=url, VisibilityTimeout=0)
            shown = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["ApproximateNumberOfMessages"])
            if int(shown["Attributes"]["ApproximateNumberOfMessages"]):
                break
            assert time.monotonic() < until

        assert [text for text in settings_found(checked(app)) if "1 dead letter of it is not in the book" in text]

    def test_dead_letters_that_are_forgotten_before_anybody_reads_them(
        self, ministack: Server, aws: Session, on_sqs: Any
    ) -> None:
        name = on_sqs(retention=345_600.0)
        client = aws.client("sqs", endpoint_url=ministack.url)
        dead = client.get_queue_url(QueueName=f"{name}-dead")["QueueUrl"]
        client.set_queue_attributes(QueueUrl=dead, Attributes={"MessageRetentionPeriod": "86400"})

        answer = told(SqsQueue(name, endpoint_url=ministack.url, session=aws))

        assert (answer.dead_retention, answer.since_origin, answer.buries) == (86_400.0, True, True)


@pytest.mark.xdist_group("nats")
def test_nats_says_what_one_replica_may_lose(nats_server: NatsServer) -> None:
    async def make() -> str:
        return await ensure_nats(f"orders-{uuid4().hex[:8]}/billing", servers=nats_server.url, max_attempts=3)

    name = anyio.run(make)

    answer = told(NatsQueue(name, servers=nats_server.url))

    assert [text for text in answer.warnings if "sync_interval" in text]
    assert [text for text in answer.warnings if "max_deliver" in text]
    assert answer.figures["max_deliver"] == "3"
    assert answer.buries


@pytest.mark.xdist_group("valkey")
def test_redis_says_what_its_server_may_forget(valkey: Valkey) -> None:
    async def make() -> str:
        return await ensure_redis(f"orders-{uuid4().hex[:8]}", url=valkey.url)

    name = anyio.run(make)
    with valkey.admin() as client:
        before = {one: client.config_get(one)[one] for one in ("maxmemory", "maxmemory-policy")}
        client.config_set("maxmemory", "500mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            answer = told(RedisQueue(name, url=valkey.url))
        finally:
            for one, value in before.items():
                client.config_set(one, value)

    assert [text for text in answer.warnings if "evict" in text]
    assert answer.figures["maxmemory-policy"] == "allkeys-lru"


def test_rabbitmq_says_that_a_full_queue_drops_its_oldest() -> None:
    answer = told_by_rabbitmq(Settings(arguments={"x-queue-type": "quorum", "x-max-length": 10}, version=(3, 13)))

    assert [text for text in answer.warnings if "x-overflow" in text]
    assert told_by_rabbitmq(Settings(arguments={"x-queue-type": "quorum"}, version=(3, 13))).warnings == ()


def test_kafka_says_how_many_replicas_stand_for_an_ack() -> None:
    well = {"min.insync.replicas": "2", "retention.ms": "604800000", "cleanup.policy": "delete"}

    assert told_by_kafka(well).warnings == ()
    assert told_by_kafka(well).figures["acks"] == "all"
    (warning,) = told_by_kafka({**well, "min.insync.replicas": "1"}).warnings
    assert "min.insync.replicas" in warning
