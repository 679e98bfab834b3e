"""The books as metrics, and probes: what a machine that watches a service is told."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from crossfoot.cli import serving, worker_probes
from crossfoot.cli.worker_probes import Pulse
from crossfoot.errors import UsageError
from tests.acceptance.pages import ROOT
from tests.acceptance.shell import BIN, ENVIRONMENT, crossfoot, run
from tests.servers.processes import free_port

pytestmark = pytest.mark.anyio

PROGRAM = """
from crossfoot import Crossfoot, Noop

app = Crossfoot("billing", attempts=1)


@app.handler("case.released")
def bill(message, tx):
    if message.subject == "case-0":
        raise RuntimeError("the printer is on fire")
    if message.subject == "case-1":
        return Noop("nothing to bill")
    tx.execute("CREATE TABLE IF NOT EXISTS invoices (subject TEXT)")
    tx.execute("INSERT INTO invoices VALUES (?)", (message.subject,))
"""

PUBLISH = """
import anyio
from billing import app
async def publish():
    await app.publish(*[app.message("case.released", subject=f"case-{number}") for number in range(10)])
    await app.aclose()
anyio.run(publish)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A service that has worked ten messages: one died, one had nothing to do, eight settled."""
    (tmp_path / "billing.py").write_text(PROGRAM)
    assert run([str(BIN / "python"), "-c", PUBLISH], tmp_path).returncode == 0
    crossfoot(tmp_path, "worker", "billing:app", "--until-idle")
    return tmp_path


Samples = dict[tuple[str, ...], float]


def samples(text: str) -> Samples:
    """The value of each sample, by its name and its labels' values in the order of their names."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A command that listens on a port, once it does."""
    port = free_port()
    command = [str(BIN / "crossfoot"), *arguments, "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until = time.monotonic() + 30
        while get(port, "/livez")[0] != 200:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "it does not listen"
            time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.communicate()


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and text; 0 where nobody listens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except ConnectionError:
        return 0, ""
    finally:
        connection.close()


def eventually(port: int, path: str, status: int) -> str:
    until = time.monotonic() + 30
    while (answer := get(port, path))[0] != status:
        assert time.monotonic() < until, f"{path} never answered {status}, but {answer}"
        time.sleep(0.1)
    return answer[1]


def test_they_say_what_the_balance_says(folder: Path) -> None:
    told = samples(crossfoot(folder, "metrics").stdout)
    balance = json.loads(crossfoot(folder, "balance", "--json", code=None).stdout)

    for fate, count in balance["fates"].items():
        assert told["crossfoot_messages", fate, "billing"] == count
    assert told["crossfoot_messages", "settled", "billing"] == 8
    assert told["crossfoot_messages", "dead", "billing"] == told["crossfoot_attention", "dead"] == 1
    assert told["crossfoot_boundary_messages_total", "received", "billing"] == 10
    assert told["crossfoot_queue_copies_total", "billing", "accepted"] == 10
    assert told["crossfoot_unaccounted",] == 0
    assert told["crossfoot_balanced",] == balance["balanced"] == 1
    assert told["crossfoot_workers", "working"] == told["crossfoot_workers", "silent"] == 0
    for name, identity in balance["identities"].items():
        assert told["crossfoot_identity_holds", name] == identity["holds"]


def test_as_json_they_are_the_same(folder: Path) -> None:
    document = json.loads(crossfoot(folder, "metrics", "--json").stdout)
    schema = json.loads((ROOT / "src/crossfoot/cli/schemas/metrics.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema)
    text = samples(crossfoot(folder, "metrics").stdout)

    json_samples: Samples = {
        (one["name"], *(one["labels"][name] for name in sorted(one["labels"]))): one["value"]
        for one in document["metrics"]
    }
    for moving in (("crossfoot_as_of_seconds",), ("crossfoot_sign", "billing", "dead letter age")):
        assert 0 <= text.pop(moving) - json_samples.pop(moving) < 60, moving
    assert json_samples == text


def test_broken_books_and_workers_that_died_show(folder: Path) -> None:
    spoil = (
        "import sqlite3; c = sqlite3.connect('crossfoot.db'); "
        'c.execute("DELETE FROM crossfoot_operations WHERE number = 5"); '
        'c.execute("UPDATE crossfoot_workers SET stopped_at = NULL, seen_at = seen_at - 60000000"); c.commit()'
    )
    assert run([str(BIN / "python"), "-c", spoil], folder).returncode == 0
    told = samples(crossfoot(folder, "metrics").stdout)

    assert told["crossfoot_balanced",] == told["crossfoot_identity_holds", "operations"] == 0
    assert told["crossfoot_workers", "silent"] == 1


def test_served_they_are_fresh_and_the_probe_tells_when_the_book_is_gone(folder: Path) -> None:
    with running(folder, "metrics") as (process, port):
        assert samples(get(port, "/metrics")[1])["crossfoot_messages", "settled", "billing"] == 8
        assert get(port, "/readyz") == (200, "ok\n")
        assert get(port, "/nowhere")[0] == 404
        assert get(port, "/livez", "POST")[0] == 405
        assert run([str(BIN / "python"), "-c", PUBLISH], folder).returncode == 0
        time.sleep(1.1)
        assert samples(get(port, "/metrics")[1])["crossfoot_messages", "queued", "billing"] == 10
        (folder / "crossfoot.db").rename(folder / "away.db")
        assert "there is no file crossfoot.db" in eventually(port, "/readyz", 503)
        assert get(port, "/metrics")[0] == 503
        (folder / "away.db").rename(folder / "crossfoot.db")
        eventually(port, "/metrics", 200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.parametrize("arguments", [["metrics"], ["worker", "billing:app"]])
def test_an_address_that_cannot_be_listened_on_is_refused(folder: Path, arguments: list[str]) -> None:
    for where, message in (("nonsense", "is no address to listen on"), ("127.0.0.1:70000", "is no address")):
        assert message in crossfoot(folder, *arguments, "--listen", where, code=2).stderr
    with running(folder, "metrics") as (_, port):
        told = crossfoot(folder, *arguments, "--listen", str(port), code=2).stderr
    assert f"cannot listen on 127.0.0.1:{port}" in told


@pytest.mark.parametrize("more", [[], ["--processes", "2"]])
def test_a_worker_is_ready_while_it_works(folder: Path, more: list[str]) -> None:
    with running(folder, "worker", "billing:app", *more) as (process, port):
        assert eventually(port, "/readyz", 200) == "ok\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_one_that_has_not_begun_or_is_to_stop_is_alive_and_not_ready() -> None:
    pulse = Pulse()

    assert pulse.live() == ""
    assert "does not work" in pulse.ready()
    pulse.follow(lambda: "")
    assert pulse.ready() == ""
    pulse.follow(lambda: "it stops")
    assert pulse.ready() == "it stops"


async def test_an_event_loop_lives_while_it_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_probes, "BEAT", 0.01)
    monkeypatch.setattr(worker_probes, "DEAD", 0.4)
    pulse = Pulse()
    pulse.follow(lambda: "")
    with anyio.move_on_after(0.8):
        await pulse.beat()
    assert pulse.live() == pulse.ready() == ""

    time.sleep(0.5)  # noqa: ASYNC251 - nothing turns now
    assert "has not turned" in pulse.live()
    assert "has not turned" in pulse.ready()


def test_a_queue_that_is_not_there_hides_nothing_of_the_books(folder: Path) -> None:
    elsewhere: dict[str, Any] = {
        "CROSSFOOT_QUEUE": "redis:billing",
        "CROSSFOOT_ENDPOINT": f"redis://127.0.0.1:{free_port()}",
    }
    spoil = "import sqlite3; c = sqlite3.connect('crossfoot.db'); c.execute('DELETE FROM crossfoot_queue_counts'); c.commit()"
    assert run([str(BIN / "python"), "-c", spoil], folder).returncode == 0
    done = crossfoot(folder, "metrics", **elsewhere)
    told = samples(done.stdout)

    assert told["crossfoot_messages", "settled", "billing"] == 8
    assert ("crossfoot_identity_holds", "holdings") not in told


@pytest.mark.parametrize(
    ("text", "host", "port"), [("9464", "127.0.0.1", 9464), ("0.0.0.0:1", "0.0.0.0", 1), ("[::1]:80", "::1", 80)]  # noqa: S104
)  # fmt: skip
def test_a_port_alone_is_one_of_this_machine(text: str, host: str, port: int) -> None:
    assert serving.address(text) == (host, port)


@pytest.mark.parametrize("text", ["", ":", "host:", "host:x", "host:-1", "host:65536", "host:\u0661"])
def test_what_is_no_address_is_said_to_be_none(text: str) -> None:
    with pytest.raises(UsageError, match="is no address to listen on"):
        serving.address(text)


def test_without_the_library_it_says_what_to_install(folder: Path) -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None; from crossfoot.cli import run; sys.exit(run(['metrics']))"
    )
    done: Any = run([str(BIN / "python"), "-c", program], folder)

    assert done.returncode == 2
    assert "pip install '/path/to/crossfoot[metrics]'" in done.stderr
