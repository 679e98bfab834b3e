"""Writes docs/engines.md from what the conformance suite proved: `python docs/engines.py` runs it, on real servers, some minutes long.

`--check` runs nothing: it compares the page and its evidence, docs/engines.json, with the tests as they are collected now. What a
test finds is the suite's own business from then on; what each queue declares is compared there, when it is open.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from crossfoot.queues import queue
from crossfoot.queues.queue import Capabilities
from crossfoot.queues.sqs.queue import BEHIND

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the forms of the database, which are the tests' own
from tests.conformance.database_forms import FORMS  # noqa: E402

PAGE = Path(__file__).with_suffix(".md")
EVIDENCE = Path(__file__).with_suffix(".json")
SUITE = ["tests/conformance", "tests/acceptance/test_rabbitmq.py"]

ENGINES = (
    "SQLite", "PostgreSQL", "SQS standard", "SQS FIFO", "RabbitMQ quorum", "RabbitMQ classic", "NATS JetStream",
    "Redis streams", "Kafka",
)  # fmt: skip
LAWS = {
    "law 2": "write ahead: the entries of a delivery commit with its effect, or not at all",
    "law 3": "once: the second delivery of a completed operation changes nothing",
    "law 4": "no proof, no ack: swallowed failures and undone work are found out",
    "law 5": "in doubt: a commit without an answer is resolved by evidence",
    "law 9": "last write is not latest event: sequences decide, not arrival",
}
LIMITS = {"max_delay", "max_release_delay", "max_lease"}
SECONDS = {"hides", "publish_dedup", *LIMITS}

HEAD = """# Engines: what was proved of each

*Written by `python docs/engines.py`, which runs the conformance suite on servers; a test fails when the page differs from
what the queues declare, or from the tests there are.*

A cell is what the queue says of itself when it is open. It stands here only because the tests that are named below ran
against the server that is named below, and passed. MiniStack and moto stand in for AWS, and the mock cluster for Kafka.
**no** and **0** are proved, too: the same tests see to it that what is not kept is refused, and
not dropped. Where kinds of one queue differ, the cell has what each says.
"""


class NotProved(Exception):
    """The page would claim what no test has shown."""


def gathered(*how: str) -> dict[str, Any]:
    """What the suite tells of itself; with `--collect-only` the claims alone."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "evidence.json"
        command = [sys.executable, "-m", "pytest", *SUITE, "-m", "evidence", "-q", "--evidence", str(file), *how]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode or not file.exists():
            raise NotProved(f"the suite did not pass: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return told


def claims(told: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Engine, subject, and the tests that are about it, without their parameters."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for node, test in told["tests"].items():
        for engine, subject in test["claims"]:
            found[engine][subject].add(name_of(node))
    return {e: {s: sorted(tests) for s, tests in sorted(of.items())} for e, of in sorted(found.items())}


def evidence(told: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run.

    Raises:
        NotProved: a test did not run or did not pass, and is not known to differ on its server.
    """
    wrong = {node: test.get("came", "did not run") for node, test in told["tests"].items()}
    differs = {node: came.removeprefix("differs: ") for node, came in wrong.items() if came.startswith("differs: ")}
    if wrong := {node: came for node, came in wrong.items() if came != "passed" and node not in differs}:
        raise NotProved("\n".join(f"{node}: {came}" for node, came in wrong.items()))
    passing = {
        (engine, test_of(node))
        for node, test in told["tests"].items()
        if node not in differs
        for engine, _ in test["claims"]
    }
    for node in differs:
        if any((engine, test_of(node)) not in passing for engine, _ in told["tests"][node]["claims"]):
            raise NotProved(f"{node}: passes on no server of the tests")
    declared: dict[str, list[Any]] = {engine: [] for engine in ENGINES}
    servers: dict[str, set[str]] = {engine: set() for engine in ENGINES}
    for one in told["declared"]:
        servers[one["engine"]].add(one["server"])
        if one["capabilities"] not in declared[one["engine"]]:
            declared[one["engine"]].append(one["capabilities"])
    return {
        "servers": {engine: sorted(names) for engine, names in servers.items()},
        "declared": {engine: sorted(kinds, key=json.dumps) for engine, kinds in declared.items()},
        "claims": claims(told),
        "passed": passed(told),
        "differs": sorted(
            [engine, subject, f"`{name_of(node).partition('::')[2]}`: {why}"]
            for node, why in differs.items()
            for engine, subject in told["tests"][node]["claims"]
        ),
    }


def passed(told: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Engine, subject, and how many tests, each parameter counted, passed."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for test in told["tests"].values():
        if test["came"] == "passed":
            for engine, subject in test["claims"]:
                found[engine][subject] += 1
    return {engine: dict(sorted(of.items())) for engine, of in sorted(found.items())}


def unproved(of: dict[str, dict[str, Any]]) -> list[str]:
    """What is declared and no test of that engine is about."""
    wanted = [(engine, field) for engine in ENGINES for field in Capabilities.__struct_fields__]
    wanted += [(form.name, law) for form in FORMS for law in LAWS]
    return [f"{subject} of {engine}" for engine, subject in wanted if not of.get(engine, {}).get(subject)]


def page(known: dict[str, Any]) -> str:
    """The whole page.

    Raises:
        NotProved: something would stand there that no test proves.
    """
    if missing := unproved(known["passed"]) or unproved(known["claims"]):
        raise NotProved(f"no test proves: {', '.join(missing)}")
    return "\n\n".join([HEAD.strip(), queues(known), proofs(known), databases(known)]) + "\n"


def queues(known: dict[str, Any]) -> str:
    rows = [f"| | {' | '.join(ENGINES)} |", f"|---|{'---|' * len(ENGINES)}"]
    for field in Capabilities.__struct_fields__:
        cells = [cell(known, engine, field) for engine in ENGINES]
        rows.append(f"| [{field}](#{field}) | {' | '.join(cells)} |")
    rows.append(f"| **proved on** | {' | '.join(', '.join(known['servers'][engine]) for engine in ENGINES)} |")
    rows.append(f"| **tests passed** | {' | '.join(str(sum(known['passed'][e].values())) for e in ENGINES)} |")
    return "## Queues\n\n" + "\n".join(rows)


def cell(known: dict[str, Any], engine: str, field: str) -> str:
    """What is declared, with a star where one of the servers does otherwise."""
    values = dict.fromkeys(shown(field, kind[field]) for kind in known["declared"][engine])
    if field == "hides" and engine.startswith("SQS"):
        values[f"{shown(field, BEHIND)} on AWS"] = None
    return " or ".join(values) + (" \\*" if any(one[:2] == [engine, field] for one in known["differs"]) else "")


def shown(field: str, value: Any) -> str:
    if value is None:
        return "any"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if field in SECONDS:
        return f"{value:,.10g} s" if value else "0"
    return f"{value:,}" if isinstance(value, int) else str(value)


def proofs(known: dict[str, Any]) -> str:
    """Which tests stand behind each row."""
    meanings = meanings_of_capabilities()
    parts = ["## What proves it"]
    for field in Capabilities.__struct_fields__:
        tests: dict[str, set[str]] = defaultdict(set)
        for engine in ENGINES:
            for test in known["claims"][engine][field]:
                tests[test_of(test)].add(engine)
        lines = [
            f"- `{test}`" + ("" if len(of) == len(ENGINES) else f", on {', '.join(e for e in ENGINES if e in of)}")
            for test, of in sorted(tests.items())
        ]
        if field == "hides":
            lines.append(
                f"- the {shown(field, BEHIND)} of SQS on AWS are what its documentation allows its numbers to be behind, twice; no "
                "test here proves them, because the servers of the tests, on this machine, count exactly"
            )
        parts.append("\n\n".join([f"### {field}", *([meanings[field]] if field in meanings else []), "\n".join(lines)]))
    parts.append(
        "## Where a server of the tests does otherwise\n\nCells with a star. These tests are expected to fail on that server, and pass "
        "on the other one:\n\n"
        + "\n".join(f"- {field} of {engine}: {text}" for engine, field, text in known["differs"])
    )
    return "\n\n".join(parts)


def databases(known: dict[str, Any]) -> str:
    rows = [f"| | {' | '.join(LAWS)} |", f"|---|{'---:|' * len(LAWS)}"]
    for form in FORMS:
        server = ", ".join(known["servers"]["PostgreSQL" if form.postgres else "SQLite"])
        rows.append(
            f"| {form.name} (on {server}) | {' | '.join(str(known['passed'][form.name][law]) for law in LAWS)} |"
        )
    lines = []
    for law, meaning in LAWS.items():
        groups = sorted({test.split("::")[1] for form in FORMS for test in known["claims"][form.name][law]})
        lines.append(f"- **{law}**, {meaning}: {', '.join(f'`{group}`' for group in groups)}")
    return "\n\n".join([
        "## Forms of the database",
        "Each form of the user's transaction, and how many tests of each law it passed. The other laws do not depend on the form.",
        "\n".join(rows),
        "\n".join(lines),
    ])  # fmt: skip


def meanings_of_capabilities() -> dict[str, str]:
    """The docstring below each field of `Capabilities`."""
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(queue)).body
        if isinstance(node, ast.ClassDef) and node.name == "Capabilities"
    )
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def name_of(node: str) -> str:
    """The file's name, class and function of a test, without folder and parameters."""
    return node.partition("[")[0].rpartition("/")[2]


def test_of(node: str) -> str:
    """The test's own name."""
    return name_of(node).rpartition("::")[2]


def check() -> str:
    """Why the page is not up to date; empty when it is."""
    known = json.loads(EVIDENCE.read_text(encoding="utf-8"))
    if claims(gathered("--collect-only")) != known["claims"]:
        return f"the tests that prove something are not those that {EVIDENCE.name} tells of"
    return "" if page(known) == PAGE.read_text(encoding="utf-8") else f"{PAGE.name} differs from {EVIDENCE.name}"


if __name__ == "__main__":
    try:
        if "--check" in sys.argv:
            why = check()
            sys.exit(f"{why}: python docs/engines.py" if why else 0)
        found = evidence(gathered("-n", "2", "--dist", "loadscope"))
        text = page(found)
    except NotProved as error:
        sys.exit(str(error))
    EVIDENCE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")
