"""What the guide on observability says of spans, attributes, events, records and snippets is so."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from opentelemetry.semconv._incubating.attributes import cloudevents_attributes, messaging_attributes
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.semconv.schemas import Schemas

from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.kafka import KafkaQueue
from crossfoot.queues.nats import NatsQueue
from crossfoot.queues.postgres import PostgresQueue
from crossfoot.queues.queue import OWN_SYSTEM, system_of
from crossfoot.queues.rabbitmq import RabbitQueue
from crossfoot.queues.redis import RedisQueue
from crossfoot.queues.sqs import SqsQueue
from crossfoot.tracing import words
from crossfoot.tracing.provider import CONVENTIONS
from crossfoot.tracing.words import Event, Span
from tests.acceptance.otlp import Collector, collecting
from tests.acceptance.pages import DOCS, python_of
from tests.acceptance.shell import crossfoot, run

GUIDE = DOCS / "guides" / "observability.md"


def tables() -> dict[str, list[list[str]]]:
    """The rows of each table of the page, by the first word of its head."""
    found: dict[str, list[list[str]]] = {}
    head = ""
    for line in GUIDE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            head = ""
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not head:
            head = cells[0]
            found[head] = []
        elif not cells[0].startswith("---"):
            found[head].append(cells)
    return found


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_tables_name_every_span_attribute_and_event_that_there_is_and_no_other() -> None:
    spans = {(name, row[2].strip("`")) for row in tables()["operation"] for name in code(row[0])}
    assert spans == {(span.value, span.type) for span in Span}
    assert sorted(name for row in tables()["attribute"] for name in code(row[0])) == sorted(words.ATTRIBUTES)
    assert {name for row in tables()["event"] for name in code(row[0])} == {str(event) for event in Event}


def test_the_systems_it_names_are_those_of_the_adapters() -> None:
    (named,) = [row[2] for row in tables()["attribute"] if code(row[0]) == [words.SYSTEM]]
    adapters = (EmbeddedQueue, PostgresQueue, SqsQueue, RedisQueue, NatsQueue, RabbitQueue, KafkaQueue)

    assert code(named.partition(";")[0]) == [system_of(adapter) for adapter in adapters]
    assert system_of(object()) == OWN_SYSTEM
    assert f"`{OWN_SYSTEM}`" in named


def test_the_names_are_those_of_the_conventions_it_states() -> None:
    stated = [messaging_attributes, cloudevents_attributes, error_attributes]
    known = {value for module in stated for value in vars(module).values() if isinstance(value, str)}
    assert {name for name in words.ATTRIBUTES if not name.startswith("crossfoot.")} <= known
    assert {span.type for span in Span} <= {kind.value for kind in messaging_attributes.MessagingOperationTypeValues}
    adapters = {system_of(adapter) for adapter in (SqsQueue, RabbitQueue, KafkaQueue)}
    assert adapters <= {system.value for system in messaging_attributes.MessagingSystemValues}
    assert Schemas.V1_44_0.value == CONVENTIONS


def work(folder: Path, type_: str, *, more: str = "") -> tuple[Collector, str]:
    """The service of the page works one message, with a collector that listens; its spans, and its log."""
    (folder / "billing.py").write_text(python_of(GUIDE) + more, encoding="utf-8")
    with collecting() as collector:
        endpoint: dict[str, Any] = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url.removesuffix("/v1/traces")}
        arguments = ["--subject", "case-1", "--data", '{"hours": 3}']
        crossfoot(folder, "publish", "billing:app", type_, *arguments, **endpoint)
        done = run([sys.executable, "-c", "from billing import app; app.run(until_idle=True)"], folder, **endpoint)
        assert done.returncode == 0, done.stderr
    return collector, done.stderr


def test_the_service_on_the_page_is_one_trace(tmp_path: Path) -> None:
    collector, _ = work(tmp_path, "case.released")

    names = [span.name for span in collector.spans]
    assert sorted(names) == sorted(
        ["send billing", "process billing", "look up the tariff", "create billing", "send billing", "process billing"]
    )
    assert len({span.trace for span in collector.spans}) == 1
    assert {span.service for span in collector.spans} == {"billing"}
    assert {name for span in collector.spans for name in span.attributes} <= set(words.ATTRIBUTES)


LOOKS = """

@app.handler("case.looked.at")
def look(message, tx):
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("shop").exception("look here", extra={"tariff": 1}, stack_info=True)
    tx.outcome("looked")
"""


def test_the_fields_of_a_record_are_those_of_the_table(tmp_path: Path) -> None:
    _, log = work(tmp_path, "case.looked.at", more=LOOKS)

    (record,) = [json.loads(line) for line in log.splitlines() if "look here" in line]
    fields = {name for row in tables()["field"] for name in code(row[0])}
    others = {"worker", "messages"}
    assert set(record) == fields - others, "only the command knows its worker; a handler that takes a list has others"
