"""Typing what a reader types: programs in processes of their own, with warnings as errors."""

from __future__ import annotations

import ctypes
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from crossfoot.books.fate import Fate
from tests.acceptance.pages import ROOT

BIN = Path(sys.executable).parent
QUICKSTART = ROOT / "examples" / "quickstart"
SECONDS = 180.0

TYPED = shutil.ignore_patterns("*.db*", "__pycache__")
"""What an example's folder holds when somebody has tried it by hand."""

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("CROSSFOOT_", "AWS_"))} | {
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "PYTHONWARNINGS": "error",
    "COLUMNS": "100",
}

Done = subprocess.CompletedProcess[str]


def run(
    command: Sequence[str],
    folder: Path,
    *,
    before: Callable[[], None] | None = None,
    seconds: float = SECONDS,
    **variables: str,
) -> Done:
    """A program in a folder of its own; its exit code is for the caller to judge."""
    environment = ENVIRONMENT | variables
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False,
        preexec_fn=before,
    )  # fmt: skip


def crossfoot(folder: Path, *arguments: str, code: int | None = 0, **more: Any) -> Done:
    """A command of crossfoot's; it must not end in a traceback, whatever else."""
    done = run([str(BIN / "crossfoot"), *arguments], folder, **more)
    assert "Traceback" not in done.stderr, done.stderr
    assert code is None or done.returncode == code, f"{arguments} exited with {done.returncode}: {done.stderr}"
    return done


def fates(book: Path) -> list[tuple[str, str, str]]:
    """Type, subject and fate of every message, as posted, in the order in which the book met them."""
    found = rows(book, "SELECT type, subject, fate FROM crossfoot_messages ORDER BY key")
    return [(type_, subject, Fate(fate).label) for type_, subject, fate in found]


def obey_permissions() -> None:
    """In a child about to be: even root is bound by the permissions of files, once it gave up its right to pass them."""
    if os.geteuid() == 0:
        drop, may_pass_permissions = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
        assert ctypes.CDLL(None).prctl(drop, may_pass_permissions, 0, 0, 0) == 0


def wait_until(book: Path, query: str) -> None:
    """Until the query has a row."""
    until = time.monotonic() + SECONDS
    while not rows(book, query):
        assert time.monotonic() < until, f"{query} had no row for {SECONDS:g} s"
        time.sleep(0.02)


def rows(book: Path, query: str) -> list[tuple[Any, ...]]:
    """What a query answers."""
    connection = sqlite3.connect(book, timeout=SECONDS)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()
