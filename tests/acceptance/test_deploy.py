"""What `examples/deploy` hands to Compose, systemd and Kubernetes is what crossfoot has: its commands are run, their probes are asked, and
they stop in time."""

from __future__ import annotations

import http.client
import inspect
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossfoot.settings import PREFIX, Settings
from tests.acceptance.pages import ROOT
from tests.acceptance.shell import BIN, ENVIRONMENT, SECONDS, TYPED, crossfoot
from tests.conftest import report_unavailable
from tests.servers.processes import free_port
from tests.servers.run import HOST

pytest_plugins = ["tests.servers.postgres_fixtures"]

DEPLOY = ROOT / "examples" / "deploy"
UNIT = DEPLOY / "crossfoot-billing.service"

Options = dict[str, Any]


@cache
def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return services


@cache
def containers() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Kubernetes' containers by name, each with the pod it is in."""
    pods = [one["spec"]["template"]["spec"] for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())]
    return {container["name"]: (container, pod) for pod in pods for container in pod["containers"]}


@cache
def unit() -> dict[str, str]:
    """What the unit sets, each once."""
    lines = [line.partition("=") for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    names = [name for name, _, _ in lines if name not in ("After", "Wants")]
    assert len(names) == len(set(names))
    return {name: value for name, _, value in lines}


def commands() -> dict[str, list[str]]:
    """Every command of crossfoot's that is started, without the folder it is in."""
    started = shlex.split(unit()["ExecStart"])
    return {
        "compose worker": compose()["worker"]["command"],
        "compose metrics": compose()["metrics"]["command"],
        "systemd": [Path(started[0]).name, *started[1:]],
        "kubernetes worker": containers()["worker"][0]["command"],
        "kubernetes metrics": containers()["metrics"][0]["command"],
    }


WORKERS = [name for name, command in commands().items() if command[1] == "worker"]


def listening(command: list[str]) -> tuple[str, int]:
    host, _, port = command[command.index("--listen") + 1].rpartition(":")
    return host, int(port)


# ---- what the files say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", commands())
def test_a_command_and_its_flags_are_crossfoots(name: str) -> None:
    program, subcommand, *words = commands()[name]
    flags = set(re.findall(r"--[a-z][a-z-]*", crossfoot(ROOT, subcommand, "--help").stdout))

    assert program == "crossfoot"
    assert {word for word in words if word.startswith("-")} <= flags


def test_a_variable_is_a_setting() -> None:
    named = {*compose()["worker"]["environment"], *compose()["metrics"]["environment"]} - {"PGPASSWORD"}

    assert {name.removeprefix(PREFIX).lower() for name in named} <= set(Settings.__struct_fields__)


def test_a_probe_asks_the_port_that_the_command_listens_on() -> None:
    for container, _ in containers().values():
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        probes = {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")}
        assert {ports[probe["port"]] for probe in probes.values()} == {listening(container["command"])[1]}
        assert probes["livenessProbe"]["path"] == "/livez"
        assert probes["readinessProbe"]["path"] == "/readyz"

    checked = compose()["worker"]["healthcheck"]["test"][-1]
    assert f":{listening(compose()['worker']['command'])[1]}/readyz" in checked
    assert compose()["metrics"]["ports"] == ["127.0.0.1:9464:9464"]
    assert listening(compose()["metrics"]["command"])[1] == 9464


def test_whoever_stops_a_worker_waits_longer_than_it_waits_for_its_handlers() -> None:
    grace = inspect.signature(Settings).parameters["grace"].default

    assert int(compose()["worker"]["stop_grace_period"].removesuffix("s")) >= grace + 10
    assert int(unit()["TimeoutStopSec"]) >= grace + 10
    assert containers()["worker"][1]["terminationGracePeriodSeconds"] >= grace + 10


def test_the_supervisor_alone_is_told_to_stop_and_is_started_again_whatever_it_ends_with() -> None:
    assert (unit()["KillMode"], unit()["Restart"]) == ("mixed", "always")
    assert unit()["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert {service["restart"] for service in compose().values()} == {"unless-stopped"}


def test_the_image_runs_a_command_and_no_shell() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    (command,) = [line.removeprefix("CMD ") for line in lines if line.startswith("CMD")]
    extras = [line.partition("$wheel[")[2].partition("]")[0] for line in lines if "$wheel[" in line]

    assert yaml.safe_load(command) == ["crossfoot", "worker", "billing:app"]
    assert extras == ["postgres,metrics"]


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        report_unavailable(request.config, "systemd-analyze", "it is not installed")
        pytest.skip("there is no systemd-analyze")
    installed = UNIT.read_text().replace("/srv/billing/.venv/bin/crossfoot", str(BIN / "crossfoot"))
    here = tmp_path / UNIT.name
    here.write_text(installed)
    done = subprocess.run(
        [program, "verify", "--man=no", str(here)], capture_output=True, text=True, timeout=SECONDS, check=False
    )

    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []
    assert done.returncode == 0, done.stderr


# ---- what the commands do --------------------------------------------------------------------------------------------


def ask(port: int, path: str) -> int:
    """The answer's status; 0 where nobody answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@contextmanager
def started(command: list[str], folder: Path, database: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """That command, as it stands but for its port, which may be taken here; and the port it has. Killed on leaving."""
    host, wanted = listening(command)
    port = free_port()
    words = [word.replace(f"{host}:{wanted}", f"{host}:{port}") for word in command]
    process = subprocess.Popen(
        [str(BIN / words[0]), *words[1:]], cwd=folder, env=ENVIRONMENT | {f"{PREFIX}DATABASE": database},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + SECONDS
        while ask(port, "/readyz") != 200:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until, f"{words} was not ready after {SECONDS:g} s"
            time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.communicate()


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_answers_its_probes_works_and_stops_when_it_is_told(
    name: str, tmp_path: Path, postgres_url: str
) -> None:
    folder = Path(shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=TYPED))
    with started(commands()[name], folder, postgres_url) as (worker, port):
        assert [ask(port, path) for path in ("/livez", "/readyz")] == [200, 200]
        arguments = ["--subject", "case-1", "--sequence", "1", "--data", '{"amount": 7}']
        crossfoot(folder, "publish", "billing:app", "case.released", *arguments, CROSSFOOT_DATABASE=postgres_url)
        until = time.monotonic() + SECONDS
        while (
            "SETTLED"
            not in crossfoot(folder, "why", "case-1", code=None, CROSSFOOT_DATABASE=postgres_url).stdout.upper()
        ):
            assert time.monotonic() < until, crossfoot(
                folder, "tail", "--no-follow", CROSSFOOT_DATABASE=postgres_url
            ).stdout
            time.sleep(0.1)

        worker.send_signal(signal.SIGTERM)
        said, _ = worker.communicate(timeout=SECONDS)

    assert worker.returncode == 0, said
    balance = crossfoot(folder, "balance", CROSSFOOT_DATABASE=postgres_url).stdout
    assert balance.startswith("1 published = 1 with a fate")


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize("name", [name for name in commands() if name not in WORKERS])
def test_the_exporter_answers_its_probes_and_tells_of_the_book(name: str, tmp_path: Path, postgres_url: str) -> None:
    folder = Path(shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=TYPED))
    arguments = ["--subject", "case-1", "--sequence", "1", "--data", '{"amount": 7}']
    crossfoot(folder, "publish", "billing:app", "case.released", *arguments, CROSSFOOT_DATABASE=postgres_url)
    with started(commands()[name], folder, postgres_url) as (_, port):
        assert [ask(port, path) for path in ("/livez", "/readyz", "/metrics")] == [200, 200, 200]
