"""Real processes that export their spans over HTTP: one trace through two services and two queues."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from crossfoot.queues import nats, redis
from tests.acceptance.otlp import Collector, Told, collecting
from tests.acceptance.shell import BIN, ENVIRONMENT, SECONDS, crossfoot, wait_until
from tests.servers.nats import NatsServer
from tests.servers.processes import free_port
from tests.servers.valkey import Valkey

pytest_plugins = ["tests.servers.nats_fixtures", "tests.servers.valkey_fixtures"]

PROVIDER = """
import os
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

def trace_as(service):
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=os.environ["COLLECTOR"], timeout=2)))
    trace.set_tracer_provider(provider)
"""

BILLING = """
import os
from crossfoot import Crossfoot
from provider import trace_as

trace_as("billing")
LETTERS = os.environ["LETTERS"]
app = Crossfoot("billing", database="billing.db", queue=os.environ["BILLING"], queues=[LETTERS])

@app.handler("case.released", operation="bill:{subject}")
def bill(message, tx):
    tx.outcome("invoice.issued")
    tx.send("letter.wanted", to=[name for name in app.queues if name != app.queue.name][0], subject=message.subject)
"""

LETTERS = """
import os
from crossfoot import Crossfoot
from provider import trace_as

trace_as("letters")
app = Crossfoot("letters", database=os.environ["DATABASE"], queue=os.environ["LETTERS"])

@app.handler("letter.wanted", operation="letter:{subject}")
async def write(message, tx):
    tx.outcome("letter.written")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("provider", PROVIDER), ("billing", BILLING), ("letters", LETTERS)):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def follow(folder: Path, billing: str, letters: str, database: str, **settings: str) -> list[Told]:
    """Publish, and have both services work; the spans from the publish to the letter."""
    with collecting() as collector:
        variables: dict[str, Any] = {
            "COLLECTOR": collector.url, "BILLING": billing, "LETTERS": letters, "DATABASE": database, **settings
        }  # fmt: skip
        crossfoot(folder, "publish", "billing:app", "case.released", "--subject", "case-1", **variables)
        crossfoot(folder, "worker", "billing:app", "--until-idle", **variables)
        crossfoot(folder, "worker", "letters:app", "--until-idle", **variables)
    publish, relay = sorted(
        (span for span in collector.spans if span.name.startswith("send ")), key=lambda span: bool(span.parent)
    )
    return [
        publish, collector.one("billing", "process"), collector.one("billing", "create"), relay,
        collector.one("letters", "process"), *acks(collector),
    ]  # fmt: skip


def acks(collector: Collector) -> list[Told]:
    return [span for span in collector.spans if span.name.startswith("ack ")]


def is_one_trace(spans: list[Told], system: str) -> bool:
    publish, bill, create, relay, letter, *_ = spans
    parents = [span.parent for span in (publish, bill, create, relay, letter)]
    assert parents == ["", publish.id, bill.id, create.id, create.id]
    assert (bill.links, letter.links) == ((publish.id,), (create.id,))
    assert {span.attributes["messaging.system"] for span in spans} == {system}
    assert [span.attributes["crossfoot.fate"] for span in (publish, bill, relay, letter)] == [
        "queued", "settled", "queued", "settled",
    ]  # fmt: skip
    return {span.trace for span in spans} == {publish.trace}


def test_through_two_queues_in_one_file(folder: Path) -> None:
    spans = follow(folder, "embedded:billing", "embedded:letters", "billing.db")

    assert is_one_trace(spans, "sqlite")
    assert [span.name for span in spans[:5]] == [
        "send billing", "process billing", "create letters", "send letters", "process letters",
    ]  # fmt: skip
    assert len(spans) == 5, "an ack in the effect's own transaction is no request"


@pytest.mark.server
@pytest.mark.anyio
@pytest.mark.xdist_group("valkey")
async def test_through_two_streams_of_redis(folder: Path, valkey: Valkey) -> None:
    for name in ("traced-billing", "traced-letters"):
        await redis.ensure(name, url=valkey.url)

    def act() -> list[Told]:
        return follow(
            folder, "redis:traced-billing", "redis:traced-letters", "letters.db", CROSSFOOT_ENDPOINT=valkey.url
        )

    spans = await anyio.to_thread.run_sync(act)
    assert is_one_trace(spans, "redis")
    ack_of_bill, ack_of_letter = spans[5:]
    assert ack_of_bill.attributes["messaging.operation.type"] == "settle"
    assert (ack_of_bill.links, ack_of_letter.links) == ((spans[0].id,), (spans[2].id,))


@pytest.mark.server
@pytest.mark.anyio
@pytest.mark.xdist_group("nats")
async def test_through_two_streams_of_nats(folder: Path, nats_server: NatsServer) -> None:
    for name in ("tracedbilling", "tracedletters"):
        await nats.ensure(f"{name}/{name}", servers=nats_server.url)

    def act() -> list[Told]:
        return follow(
            folder, "nats:tracedbilling/tracedbilling", "nats:tracedletters/tracedletters", "letters.db",
            CROSSFOOT_ENDPOINT=nats_server.url,
        )  # fmt: skip

    assert is_one_trace(await anyio.to_thread.run_sync(act), "nats")


def test_a_collector_that_is_not_there_keeps_nobody_from_working_or_from_leaving(folder: Path) -> None:
    variables: dict[str, Any] = {
        "COLLECTOR": f"http://127.0.0.1:{free_port()}/v1/traces",
        "BILLING": "embedded:billing", "LETTERS": "embedded:letters", "DATABASE": "billing.db",
    }  # fmt: skip
    crossfoot(folder, "publish", "billing:app", "case.released", "--subject", "case-1", code=None, **variables)
    command = [str(BIN / "crossfoot"), "worker", "billing:app"]
    with subprocess.Popen(command, cwd=folder, env=ENVIRONMENT | variables, stderr=subprocess.DEVNULL) as worker:
        try:
            wait_until(folder / "billing.db", "SELECT 1 FROM crossfoot_outcomes")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(SECONDS) == 0
        finally:
            worker.kill()

    balance = json.loads(crossfoot(folder, "balance", "--db", "billing.db", "--json", code=None).stdout)
    assert balance["fates"]["settled"] == 1
    assert balance["unaccounted"] == 0
