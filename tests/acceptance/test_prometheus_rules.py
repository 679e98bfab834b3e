"""The rules for Prometheus, judged by Prometheus itself: it reads them, they fire and end as stated, and a real exporter feeds them."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from crossfoot.books import sql
from crossfoot.books.entry import Kind
from crossfoot.books.store import Book
from crossfoot.outcomes import invariant as invariants
from crossfoot.outcomes.alerts.prometheus import rules_document, rules_file
from crossfoot.outcomes.alerts.rules import ALERTS, MINUTE, Level
from crossfoot.outcomes.alerts.watching import look
from crossfoot.outcomes.evaluating import register
from crossfoot.outcomes.expectation import expect
from crossfoot.outcomes.invariant import invariant
from tests.acceptance.shell import BIN, ENVIRONMENT, crossfoot
from tests.servers.processes import free_port
from tests.servers.prometheus import Promtool, running_prometheus
from tests.unit.alert_rig import died, published
from tests.unit.book_rig import Desk

pytest_plugins = ["tests.servers.prometheus_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("prometheus")]

RULES = {rule["alert"]: rule for rule in rules_document()["groups"][0]["rules"]}


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "crossfoot.rules.yml"
    path.write_text(rules_file(), encoding="utf-8")
    return path


class TestAsPrometheusReadsThem:
    def test_it_takes_all_of_them_without_a_word_against_one(self, promtool: Promtool, rules: Path) -> None:
        done = promtool("check", "rules", "--lint=all", "--lint-fatal", rules.name, folder=rules.parent)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"SUCCESS: {len(ALERTS) + 2} rules found" in done.stdout

    def test_it_would_refuse_one_that_it_cannot_read(self, promtool: Promtool, rules: Path) -> None:
        rules.write_text(rules_file().replace("increase(", "increase((", 1), encoding="utf-8")
        assert promtool("check", "rules", rules.name, folder=rules.parent).returncode != 0


# ---- when they fire, minute by minute --------------------------------------------------------------------------------

ABOUT = "billing"


class Scene(NamedTuple):
    """What a rule sees, a value a minute, and the minutes at which it fires or does not."""

    series: dict[str, list[float]]
    firing: dict[int, bool]
    labels: Mapping[str, str]


def sign(alert: str, *values: float) -> dict[str, list[float]]:
    return {f'crossfoot_sign{{alert="{alert}",about="{ABOUT}"}}': list(values)}


def counted(alert: str, bad: list[float], events: list[float], firing: dict[int, bool]) -> Scene:
    at = f'{{alert="{alert}",about="{ABOUT}"}}'
    series = {f"crossfoot_sign_bad_total{at}": bad, f"crossfoot_sign_events_total{at}": events}
    return Scene(series, firing, {"alert": alert, "about": ABOUT})


def level(alert: str) -> Scene:
    """Calm for 10 minutes, bad for half an hour, calm again: it fires when that has lasted, and is over when calm has lasted."""
    rule = ALERTS[alert].rule
    assert isinstance(rule, Level)
    step = -0.01 if rule.below else 0.01
    calm, bad = rule.fire - step, rule.fire + step
    sustain, quiet = rule.sustain // MINUTE, rule.calm // MINUTE
    firing = {4: False, 9: False, 10 + sustain: True, 39: True, 41 + quiet: False}
    if sustain:
        firing[10 + sustain - 1] = False
    if quiet:
        firing[40 + quiet - 1] = True
    at_the_bound = [rule.fire] * 5  # which is not beyond it
    return Scene(
        sign(alert, *at_the_bound, *[calm] * 5, *[bad] * 30, *[calm] * 40), firing, {"alert": alert, "about": ABOUT}
    )


def burning(alert: str, share: float, minutes: int, *, fires: bool) -> Scene:
    """A hundred events a minute; for some minutes, from the tenth on, that share of them is bad."""
    bad, total, last = [], 0.0, minutes + 240
    for minute in range(last):
        total += 100 * share if 10 <= minute < 10 + minutes else 0.0
        bad.append(total)
    events = [100.0 * minute for minute in range(last)]
    return counted(alert, bad, events, {9: False, 10 + minutes: fires, minutes + 200: False})


def unheard(*values: float, firing: dict[int, bool]) -> Scene:
    return Scene({'crossfoot_unheard_notices{target="webhook a"}': list(values)}, firing, {"target": "webhook a"})


def seen(*values: float, firing: dict[int, bool]) -> Scene:
    return Scene({"crossfoot_as_of_seconds": list(values)}, firing, {})


def named(alert: str) -> str:
    return f"Crossfoot{''.join(word.capitalize() for word in alert.split())}"


SCENES: Mapping[str, list[Scene]] = {
    **{named(name): [level(name)] for name, one in ALERTS.items() if isinstance(one.rule, Level)},
    "CrossfootVanished": [
        counted("vanished", [3.0] * 10 + [4.0] * 60, [0.0] * 70, {9: False, 12: True, 38: True, 45: False})
    ],
    "CrossfootDeadLetters": [
        burning("dead letters", 0.1, 20, fires=True),
        burning("dead letters", 0.007, 400, fires=True),
        burning("dead letters", 0.0009, 60, fires=False),
    ],
    "CrossfootExpectationLate": [
        burning("expectation late", 0.5, 30, fires=True),
        burning("expectation late", 0.01, 120, fires=False),
    ],
    "CrossfootRetryExplosion": [
        burning("retry explosion", 0.3, 25, fires=True),
        burning("retry explosion", 0.1, 60, fires=False),
    ],
    "CrossfootNotHeard": [
        unheard(*[0.0] * 5, *[1.0] * 30, firing={5: False, 14: False, 15: True}),
        unheard(*[0.0] * 5, *[1.0] * 9, *[0.0] * 30, firing={16: False}),
    ],
    "CrossfootNotSeen": [
        seen(*[60.0 * n for n in range(10)], *[600.0] * 30, firing={9: False, 15: False, 25: True}),
        seen(*[60.0 * n for n in range(40)], firing={5: False, 39: False}),
    ],
}


def filled(text: str, labels: Mapping[str, str]) -> str:
    """An annotation as Prometheus tells it."""
    return re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], text)


def as_tests(alert: str, scenes: list[Scene]) -> list[dict[str, Any]]:
    """Scenes as `promtool test rules` reads them."""
    rule, made = RULES[alert], []
    for scene in scenes:
        notes = {key: filled(text, scene.labels) for key, text in rule["annotations"].items()}
        fired = {"exp_labels": {**rule["labels"], **scene.labels}, "exp_annotations": notes}
        series = [
            {"series": name, "values": " ".join(f"{value:.10g}" for value in values)}
            for name, values in scene.series.items()
        ]
        asked = [
            {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": [fired] if fires else []}
            for minute, fires in scene.firing.items()
        ]
        made.append({"interval": "1m", "input_series": series, "alert_rule_test": asked})
    return made


def test_every_rule_has_a_scene() -> None:
    assert SCENES.keys() == RULES.keys()


@pytest.mark.parametrize("alert", RULES)
def test_it_fires_and_ends_as_stated(promtool: Promtool, rules: Path, alert: str) -> None:
    document = {"rule_files": [rules.name], "evaluation_interval": "1m", "tests": as_tests(alert, SCENES[alert])}
    (rules.parent / "tests.yml").write_text(
        msgspec.json.encode(document).decode(), encoding="utf-8"
    )  # JSON is YAML, too
    done = promtool("test", "rules", "tests.yml", folder=rules.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_scene_that_is_not_so_is_told(promtool: Promtool, rules: Path) -> None:
    wrong = as_tests(
        "CrossfootStranded", [Scene(sign("stranded", *[1.0] * 30), {1: True}, {"alert": "stranded", "about": ABOUT})]
    )
    document = {"rule_files": [rules.name], "evaluation_interval": "1m", "tests": wrong}
    (rules.parent / "tests.yml").write_text(msgspec.json.encode(document).decode(), encoding="utf-8")
    assert promtool("test", "rules", "tests.yml", folder=rules.parent).returncode != 0


# ---- what feeds them -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A book in which something of every kind that alerts look at has happened, and a promise is broken."""
    desk = Desk(tmp_path / "billing.db")
    try:
        register(desk.book, [expect("invoice.issued", after="case.released", within="5m")])
        published(desk, "waits", "settled")
        desk.write("settled", (Kind.RECEIVED, 1), (Kind.COMMITTED, 1))
        died(desk, "dead")
        desk.story("gone", (Kind.PUBLISHED, 0), (Kind.VANISHED, 0))
        desk.execute("CREATE TABLE invoices (case_id TEXT)")
        desk.execute("INSERT INTO invoices VALUES ('4711'), ('4711')")
        desk.execute(sql.INSERT_OUTCOME, desk.keys["settled"], "invoice.issued", None, desk.now, None)
        once = "SELECT case_id FROM invoices GROUP BY 1 HAVING count(*) > 1"
        invariants.register(desk.book, [invariant("billed once", once, ids="case_id")])
    finally:
        desk.close()
    crossfoot(tmp_path, "outcomes", "--db", "billing.db", code=1)
    with closing(Book(tmp_path / "billing.db").open()) as book:
        look(book, targets=["webhook nobody"])
        book.write(lambda connection: connection.execute("UPDATE crossfoot_notices SET at = 0"))
    return tmp_path


@contextmanager
def exporting(folder: Path) -> Iterator[str]:
    """`crossfoot metrics --listen` as somebody runs it: where it listens."""
    where = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [str(BIN / "crossfoot"), "metrics", "--db", "billing.db", "--listen", where],
        cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert "serving" in process.stderr.readline()
        yield where
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def scraped(where: str) -> str:
    connection = HTTPConnection(where, timeout=30)
    with closing(connection):
        connection.request("GET", "/metrics")
        return str(connection.getresponse().read(), "utf-8")


def test_every_metric_and_label_that_a_rule_names_is_exposed(folder: Path) -> None:
    with exporting(folder) as where:
        text = scraped(where)
    exposed: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            exposed.setdefault(sample.name, []).append(sample.labels)
    for name, rule in RULES.items():
        selectors = re.findall(r"(crossfoot_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert selectors, name
        for metric, matchers in selectors:
            wanted = dict(re.findall(r'(\w+)="([^"]*)"', matchers))
            fitting = [labels for labels in exposed.get(metric, []) if wanted.items() <= labels.items()]
            assert fitting, f"{name} is over {metric}{wanted}, which nothing exposes"
            told = {label for note in rule["annotations"].values() for label in re.findall(r"\$labels\.(\w+)", note)}
            assert told <= fitting[0].keys(), (
                f"{name} tells of {told - fitting[0].keys()}, which {metric} does not have"
            )


def test_a_page_of_the_exporter_is_as_prometheus_wants_it(promtool: Promtool, folder: Path) -> None:
    with exporting(folder) as where:
        done = promtool("check", "metrics", folder=folder, text=scraped(where))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_real_server_scrapes_a_real_exporter_and_fires(promtool: Promtool, rules: Path, folder: Path) -> None:
    with exporting(folder) as where, running_prometheus(promtool, folder, rules=rules, target=where) as server:
        until = time.monotonic() + 60
        while True:
            (group,) = server.ask("/api/v1/rules")["data"]["groups"]
            health = {rule["name"]: (rule["health"], rule.get("lastError", "")) for rule in group["rules"]}
            fired = {
                (one["labels"]["alertname"], one["labels"].get("about"))
                for one in server.ask("/api/v1/alerts")["data"]["alerts"] if one["state"] == "firing"
            }  # fmt: skip
            if ("CrossfootInvariantBroken", "billed once") in fired and {one for one, _ in health.values()} == {"ok"}:
                break
            assert time.monotonic() < until, f"{fired}, {health}"
            time.sleep(0.5)
    assert health.keys() == RULES.keys()
    assert ("CrossfootNotSeen", None) not in fired
