"""What every test shares: the event loop, hypothesis profiles, and the list of servers that could not be had.

A test never skips in silence. Whoever cannot start a server says so with `report_unavailable`, and the run ends with
a section that names the server, the reason and the number of tests that went without it.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

from crossfoot.effects.databases import changes

pytest.register_assert_rewrite("crossfoot.testing.queues")

pytest_plugins = ["tests.second_chance"]

Unavailable = Counter[tuple[str, str]]
"""How often each (server, reason) was reported."""

_UNAVAILABLE = pytest.StashKey[Unavailable]()

# No deadline per example: on a busy machine it measures the neighbours.
settings.register_profile("default", deadline=None, max_examples=100, print_blob=True)
settings.register_profile(
    "ci", deadline=None, max_examples=1000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))


def report_unavailable(config: pytest.Config, name: str, reason: str) -> None:
    """Have the last lines of the run say that server `name` could not be had, and why.

    To be called once per test that goes without it; it does not skip the test, that stays with the caller.
    """
    config.stash[_UNAVAILABLE][name, reason] += 1


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def no_blocking_calls() -> Iterator[None]:
    """Any call of crossfoot's that blocks the event loop raises `blockbuster.BlockingError`."""
    with blockbuster_ctx("crossfoot") as blocking:
        for function in blocking.functions.values():  # asyncpg looks for ~/.pgpass when it connects
            function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args")
            function.can_block_in(
                "crossfoot/connection.py", "located"
            )  # where the process is, the kernel knows, and no disk
        yield


@pytest.fixture
def page_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a handler limit the size of its database by PRAGMA, which stands in for a disk that fills up."""
    monkeypatch.setattr(changes, "HARMLESS", changes.HARMLESS | {"max_page_count"})


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts this in its background has it ignore Ctrl-C, and so would every process that it starts to interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_UNAVAILABLE] = Counter()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process of pytest-xdist: hand the list to the one that prints."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["unavailable"] = [(*key, count) for key, count in session.config.stash[_UNAVAILABLE].items()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for name, reason, count in getattr(node, "workeroutput", {}).get("unavailable", ()):
        node.config.stash[_UNAVAILABLE][name, reason] += count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    missing = config.stash[_UNAVAILABLE]
    if not missing:
        return
    terminalreporter.section("not available here", yellow=True)
    for (name, reason), count in sorted(missing.items()):
        terminalreporter.line(f"{name}: {reason} ({count} {'test' if count == 1 else 'tests'} went without it)")
