"""What real workers log: as JSON, nothing but objects, each of which names the message it is about; and for people, as ever."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.shell import BIN, ENVIRONMENT, SECONDS, crossfoot, run, wait_until
from tests.servers.processes import free_port

PROGRAM = """
import logging, threading, warnings
from contextvars import copy_context
from crossfoot import Crossfoot

logging.getLogger("shop").warning("imported")
app = Crossfoot("billing", attempts=1, unknown_for=0.0)
logger = logging.getLogger("shop.billing")

@app.handler("case.released", operation="bill:{subject}")
def bill(message, tx):
    logger.warning("billing %s", message.subject, extra={"tariff": "B"})
    thread = threading.Thread(target=copy_context().run, args=(logger.warning, "in a thread of its own"))
    thread.start()
    thread.join()
    tx.outcome("invoice.issued")
    tx.send("letter.wanted", subject=message.subject)

@app.handler("letter.wanted")
async def write(message, tx):
    logger.warning("writing")
    warnings.warn("the printer is old", stacklevel=1)
    tx.outcome("letter.written")

@app.handler("case.broken")
def broken(message, tx):
    raise ValueError(f"no such tariff: {message.data}")
"""

CRIES = (
    PROGRAM.replace("case.broken", "case.never")
    + """
class Wreck:
    def __del__(self):
        raise LookupError("in a finalizer")

@app.handler("case.broken", name="cry")
def cry(message, tx):
    logger.warning("groß \\u2028 日本")
    thread = threading.Thread(target=lambda: 1 / 0, name="theirs")
    thread.start()
    thread.join()
    Wreck()
    tx.outcome("cried")
"""
)

PUBLISH = """
import anyio
from billing import app
async def publish():
    for type_, subject in (("case.released", "case-1"), ("case.released", "case-2"), ("case.broken", "case-3")):
        await app.publish(app.message(type_, subject=subject, id=f"id-{subject}", data="s3cret"))
    await app.aclose()
anyio.run(publish)
"""

TRACED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
"""

QUIET: dict[str, Any] = {"PYTHONWARNINGS": "default"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "billing.py").write_text(PROGRAM)
    done = run([str(BIN / "python"), "-c", PUBLISH], tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def records(stderr: str) -> list[dict[str, Any]]:
    """Every line, which must be an object."""
    return [json.loads(line) for line in stderr.split("\n") if line]


def work(folder: Path, *arguments: str, **variables: Any) -> str:
    return str(crossfoot(folder, "worker", "billing:app", "--until-idle", *arguments, **QUIET, **variables).stderr)


def saying(found: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    return [record for record in found if text in record["message"]]


def facts(record: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in names)


@pytest.mark.parametrize("more", [[], ["--batch", "10"], ["--processes", "2"]], ids=["plain", "batch", "processes"])
def test_each_line_is_an_object_that_names_the_message_it_is_about(folder: Path, more: list[str]) -> None:
    found = records(work(folder, "--log-format", "json", *more))

    for text in ("billing case-1", "in a thread of its own"):
        told = {
            facts(record, "logger", "level", "message_id", "subject", "type", "queue", "operation", "handler", "attempt")
            for record in saying(found, text)
        }  # fmt: skip
        assert (
            "shop.billing",
            "WARNING",
            "id-case-1",
            "case-1",
            "case.released",
            "billing",
            "bill:case-1",
            "bill",
            1,
        ) in told
    assert {record["subject"] for record in saying(found, "writing")} == {"case-1", "case-2"}
    warned = {facts(record, "logger", "subject") for record in saying(found, "the printer is old")}
    assert warned <= {("py.warnings", "case-1"), ("py.warnings", "case-2")}, "Python tells a warning once a process"
    assert warned
    assert {record["extra"]["tariff"] for record in saying(found, "billing case")} == {"B"}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record["time"]) for record in found)
    assert all(record["worker"].startswith("billing-") for record in saying(found, "billing case"))
    (dead,) = saying(found, "goes to the dead letters")
    assert facts(dead, "logger", "message_id", "attempt", "handler") == ("crossfoot.worker", "id-case-3", 1, "broken")


MANY = """
import logging
from crossfoot import Crossfoot
app = Crossfoot("billing")

@app.handler("case.released", many=True)
def bill(messages, tx):
    logging.getLogger("shop").warning("billing %d", len(messages))
    for message in messages:
        tx.of(message).outcome("billed")

@app.handler("case.broken")
def broken(message, tx):
    raise RuntimeError("cried")
"""


def test_a_line_of_a_handler_that_has_several_in_hand_names_none_of_them(folder: Path) -> None:
    (folder / "billing.py").write_text(MANY)
    for number in range(3):
        crossfoot(folder, "publish", "billing:app", "case.released", "--subject", f"more-{number}")
    said = work(folder, "--log-format", "json", "--batch", "10", "--concurrency", "1")
    found = {
        facts(record, "message", "handler", "messages", "message_id", "operation")[: 3 if record.get("messages") else 4]
        for record in saying(records(said), "billing ")
    }
    several = {(f"billing {count}", "bill", count) for count in range(2, 6)}
    assert several & found
    assert all(one in several or (one[:3] == ("billing 1", "bill", None) and one[3]) for one in found)


def test_neither_payloads_nor_the_texts_of_exceptions_are_logged(folder: Path) -> None:
    told = work(folder, "--log-format", "json", "--verbose")

    assert saying(records(told), "ValueError at billing:broken")
    assert "s3cret" not in told
    assert "no such tariff" not in told


def test_for_people_it_is_as_ever(folder: Path) -> None:
    lines = work(folder).splitlines()

    assert any(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING billing case-1", line) for line in lines)
    with pytest.raises(ValueError, match="Extra data"):
        records("\n".join(lines))


@pytest.mark.parametrize("how", ["environment", "file", "program"])
def test_it_may_be_a_setting(folder: Path, how: str) -> None:
    if how == "program":
        program = (folder / "billing.py").read_text()
        quiet = 'logging.getLogger("shop").warning("imported")\n'
        (folder / "billing.py").write_text(
            program.replace(quiet, "").replace("attempts=1", "attempts=1, log_format='json'")
        )
    if how == "file":
        (folder / "crossfoot.toml").write_text('log_format = "json"\n')
    told = work(folder, **({"CROSSFOOT_LOG_FORMAT": "json"} if how == "environment" else {}))

    assert saying(records(told), "billing case-1")


def test_a_format_that_is_none_is_refused(folder: Path) -> None:
    told = crossfoot(folder, "worker", "billing:app", code=2, CROSSFOOT_LOG_FORMAT="xml").stderr

    assert "log_format = 'xml': it is one of text, json" in told


def test_notes_and_complaints_are_objects_too(folder: Path) -> None:
    command = [str(BIN / "crossfoot"), "worker", "billing:app", "--log-format", "json"]
    worker = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT | QUIET, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        wait_until(folder / "crossfoot.db", "SELECT 1 FROM crossfoot_workers")
        worker.send_signal(signal.SIGTERM)
        _, told = worker.communicate(timeout=SECONDS)
        assert worker.returncode == 0
    finally:
        worker.kill()
        worker.wait()
    assert {facts(record, "logger", "level") for record in saying(records(told), "stopping: waits")} == {
        ("crossfoot.cli", "INFO")
    }

    endpoint = f"http://127.0.0.1:{free_port()}"
    told = crossfoot(
        folder, "worker", "billing:app", "--log-format", "json", code=2, CROSSFOOT_QUEUE="sqs:billing",
        CROSSFOOT_ENDPOINT=endpoint, CROSSFOOT_REGION="eu-central-1", AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test", **QUIET,
    ).stderr  # fmt: skip
    assert records(told)[-1]["level"] == "CRITICAL"
    assert "queue billing cannot be reached" in records(told)[-1]["message"]


def test_a_traced_handler_logs_its_trace_and_span(folder: Path) -> None:
    (folder / "billing.py").write_text(TRACED + PROGRAM)
    found = saying(records(work(folder, "--log-format", "json")), "writing")

    assert all(re.fullmatch("[0-9a-f]{32}", record["trace_id"]) for record in found)
    assert all(re.fullmatch("[0-9a-f]{16}", record["span_id"]) for record in found)


def test_where_nobody_traces_the_trace_that_the_message_carries_is_logged(folder: Path) -> None:
    event = {
        "specversion": "1.0", "type": "letter.wanted", "source": "elsewhere", "id": "1", "subject": "case-9",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }  # fmt: skip
    (folder / "events.jsonl").write_text(json.dumps(event))
    crossfoot(folder, "publish", "billing:app", "--file", "events.jsonl")
    found = saying(records(work(folder, "--log-format", "json")), "writing")

    (record,) = [one for one in found if one["subject"] == "case-9"]
    assert facts(record, "trace_id", "span_id") == ("4bf92f3577b34da6a3ce929d0e0e4736", None)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_what_nobody_catches_is_an_object_too_and_whatever_the_locale_it_is_utf_8(folder: Path, encoding: str) -> None:
    (folder / "billing.py").write_text(CRIES)
    command = [str(BIN / "crossfoot"), "worker", "billing:app", "--until-idle", "--log-format", "json"]
    found = records(run(command, folder, PYTHONIOENCODING=encoding).stderr)

    assert [record["subject"] for record in saying(found, "groß \u2028 日本")] == ["case-3"]
    (thread,) = saying(found, "thread theirs ended by an exception")
    assert "ZeroDivisionError" in thread["exception"]
    (finalizer,) = saying(found, "Wreck.__del__")
    assert "in a finalizer" in finalizer["exception"]
