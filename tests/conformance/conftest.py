"""Collects what the tests claim to prove, and with `--evidence FILE` what came of it; `docs/engines.py` makes a page of that.

A test of the suite of queues claims by `crossfoot.testing.queues.proves`, for the engine that its class names. Any other says
`@pytest.mark.proves("order", engine="NATS JetStream")`; the engine of a test over a form of database is that form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.database_rig import Form

_EVIDENCE = pytest.StashKey[dict[str, Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--evidence", metavar="FILE", help="write to FILE what the tests claim to prove, and what came of it"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_EVIDENCE] = {"declared": [], "tests": {}}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        claims = sorted(set(_claims(item)))
        if claims or item.name.startswith("test_it_declares_what_the_page"):
            item.add_marker("evidence")
        if claims:
            item.user_properties.append(("claims", claims))
            config.stash[_EVIDENCE]["tests"][item.nodeid] = {"claims": claims}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        _reports.append(report)


_reports: list[pytest.TestReport] = []
"""Here because pytest gives this hook no configuration."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("evidence", None)
    if path is None or hasattr(session.config, "workerinput"):
        return
    evidence = session.config.stash[_EVIDENCE]
    for report in _reports:
        told = dict(report.user_properties)
        if "claims" in told:
            evidence["tests"].setdefault(report.nodeid, {"claims": told["claims"]})["came"] = _came(report)
        if "declared" in told and report.passed:
            evidence["declared"].append(told["declared"])
    Path(path).write_text(json.dumps(evidence), encoding="utf-8")


def _came(report: pytest.TestReport) -> str:
    """`passed`, the reason why it is known to fail, or what went wrong."""
    known = getattr(report, "wasxfail", None)
    if known is not None and not report.passed:
        return f"differs: {known}"
    return str(report.outcome)


def _claims(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """Pairs of an engine and what of it the test proves."""
    engine = getattr(getattr(item, "cls", None), "engine", None)
    for subject in getattr(getattr(item, "function", None), "proves", ()):
        if engine is not None:
            yield engine, subject
    for mark in item.iter_markers("proves"):
        for subject in mark.args:
            yield mark.kwargs.get("engine") or _form_of(item), subject


def _form_of(item: pytest.Item) -> str:
    given = getattr(item, "callspec", None)
    forms = [value.name for value in given.params.values() if isinstance(value, Form)] if given is not None else []
    assert len(forms) == 1, (
        f"{item.nodeid} does not say what engine it proves something of: @pytest.mark.proves(..., engine=...)"
    )
    return str(forms[0])
