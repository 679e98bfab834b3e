"""What `crossfoot replay plan` is asked for: messages by how they ended, or by their ids."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from crossfoot.cli.balance import when
from crossfoot.clock import Micros
from crossfoot.errors import UsageError
from crossfoot.recover.replay.selection import Selection


def selection(
    fates: list[str] | None, causes: list[str] | None, types: list[str] | None, subjects: list[str] | None,
    since: str | None, until: str | None, ids: Path | None,
) -> Selection:  # fmt: skip
    """As it was typed.

    Raises:
        UsageError: a time is none, or a file cannot be read or names no message.
    """
    return Selection(
        fates=tuple(fates or ("dead",)), causes=tuple(causes or ()), types=tuple(types or ()), subjects=tuple(subjects or ()),
        since=_time("--since", since), until=_time("--until", until), ids=_ids(ids) if ids is not None else (),
    )  # fmt: skip


def _time(option: str, text: str | None) -> Micros | None:
    try:
        return when(text, time.time_ns() // 1000)
    except UsageError as error:
        raise UsageError(f"{option} {error}") from error


def _ids(file: Path) -> tuple[str, ...]:
    try:
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--ids {file} cannot be read: {error}") from error
    if "\0" in text:
        raise UsageError(f"--ids {file} is no text: it has a NUL in it; write one id a line, in UTF-8")
    named = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not named:
        raise UsageError(f"--ids {file} names no message: one id a line")
    return named
