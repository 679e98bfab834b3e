"""What commands print: Rich in a terminal, plain lines in a pipe, JSON on request; complaints on standard error.

A page is a few blocks (a heading, tables, labelled lines), and every block has both forms here. Rich is imported only
when something is to look good. Text from messages and exceptions is stripped of control characters in both.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any

import msgspec

from crossfoot.cli.answering import answer
from crossfoot.cli.suggesting import told, whole
from crossfoot.recover.phrases import stamp

TIMES = frozenset(
    (
        "at", "due", "as_of", "before", "received_at", "ended_at",
        "lease_until", "first_at", "last_at", "published_at", "dead_at",
        "answered_at", "evaluated_at", "checked_at", "opened_at", "closed_at",
        "planned_at", "started_at", "runner_seen_at", "known_at",
    )
)  # fmt: skip
"""Fields that hold microseconds; in JSON they are RFC 3339 in UTC."""

COMMANDS = frozenset(("command", "step"))
"""Fields that hold a command to be copied."""

PROSE = frozenset(("text", "notes", "warnings"))
"""Fields that hold sentences, which may name a command."""

CARRIED = "payload"
"""The field that holds what a message carried: that is shown as it is."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")

_WORD = re.compile(r"(?:[^\s'\"\\]|\\.|'[^']*'|\"(?:[^\"\\]|\\.)*\")+")
"""A word of a shell's command, quotes included."""

Cell = str | tuple[str, str]
"""Text, or text and its style."""


class When(StrEnum):
    """When to use colours."""

    auto = "auto"
    always = "always"
    never = "never"


class Output:
    """Where one command prints to.

    Args:
        color: `always` wins over NO_COLOR, which wins over FORCE_COLOR; a pipe is plain unless told otherwise.
        db: the book that the commands shown name, where it is not the one that this command was told.
    """

    def __init__(self, color: When = When.auto, *, db: str | None = None) -> None:
        self._db = db
        environment = os.environ
        terminal = answer().isatty() and environment.get("TERM") != "dumb"
        forced = color is When.always or (bool(environment.get("FORCE_COLOR")) and color is When.auto)
        self.fancy = terminal or forced
        self.width = shutil.get_terminal_size((100, 24)).columns if self.fancy else 0
        bare = color is When.never or (bool(environment.get("NO_COLOR")) and color is not When.always)
        self.marks = _marks()
        self._console: Any = None
        if self.fancy:
            from rich.console import Console

            self._console = Console(
                file=answer(), force_terminal=True, no_color=bare, color_system="standard" if forced and not terminal else "auto",
                width=self.width, highlight=False, soft_wrap=False,
            )  # fmt: skip

    def heading(self, title: str, text: str, notes: Sequence[str] = (), *, style: str = "") -> None:
        """The answer, before everything else."""
        if not self.fancy:
            self.line(f"{clean(title)}: {clean(text)}")
            for note in notes:
                self.line(f"  {clean(note)}")
            return
        from rich.panel import Panel
        from rich.text import Text

        body = Text(clean(text))
        for note in notes:
            body.append("\n" + clean(note), style="dim")
        self._console.print(
            Panel(body, title=Text(clean(title), f"bold {style}"), title_align="left", border_style=style)
        )

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, title: str = "") -> None:
        """Columns in line. A name that begins with `>` is a column of figures."""
        if not rows:
            return
        if not self.fancy:
            self._plain_table(columns, rows, title)
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, title=Text(title, "bold") if title else None, title_justify="left")
        for number, name in enumerate(columns):
            last = number == len(columns) - 1
            table.add_column(
                Text(name.lstrip(">"), "dim"), justify="right" if name.startswith(">") else "left",
                no_wrap=not last, overflow="fold" if last else "ellipsis",
            )  # fmt: skip
        table.show_header = any(name.lstrip(">") for name in columns)
        for row in rows:
            table.add_row(*(Text("\n".join(map(clean, _text(cell).split("\n"))), _style(cell)) for cell in row))
        self._console.print(table)

    def labelled(self, label: str, lines: Sequence[Cell]) -> None:
        """A label, and lines beside it."""
        if not lines:
            return
        if not self.fancy:
            for line in lines:
                self.line(f"{label}: {clean(_text(line))}")
            return
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=max(11, len(label)), no_wrap=True)
        grid.add_column(overflow="fold")
        for number, line in enumerate(lines):
            grid.add_row(Text("" if number else label, "bold"), Text(clean(_text(line)), _style(line)))
        self._console.print(grid)

    def commands(self, steps: Sequence[tuple[str, str | None]]) -> None:
        """What to do next. A command stands on lines of its own, whole, so that it can be copied."""
        for number, (do, command) in enumerate(steps):
            self.labelled("" if number and self.fancy else "next", [do])
            if command is not None:
                for line in folded(clean(whole(command, self._db)), self.width):
                    self.line(line, "bold")

    def line(self, text: str = "", style: str = "") -> None:
        """One line, as it is."""
        if self.fancy and text:
            from rich.text import Text

            self._console.print(Text(text, style), soft_wrap=True)
        else:
            answer().write(text + "\n")

    def gap(self) -> None:
        """A blank line between blocks, where there are people."""
        if self.fancy:
            self.line()

    def _plain_table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], title: str) -> None:
        texts = [[clean(_text(cell)) for cell in row] for row in rows]
        names = [name.lstrip(">") for name in columns]
        widths = [max(len(line[i]) for line in (names, *texts)) for i in range(len(columns))]
        if title:
            self.line(title)
        for line in ([names] if any(names) else []) + texts:
            cells = (
                text.rjust(width) if name.startswith(">") else text.ljust(width)
                for text, width, name in zip(line, widths, columns, strict=True)
            )
            self.line("  ".join(cells).rstrip())


def folded(command: str, width: int) -> list[str]:
    """A command as a shell takes it, in lines of a terminal: broken between two words, and not between an option and its value.

    Args:
        width: columns; 0 for as many as it needs.
    """
    lines = ["  $"]
    words: list[str] = []
    for word in _WORD.findall(command):
        if words and words[-1].startswith("--") and " " not in words[-1] and not word.startswith("--"):
            words[-1] += f" {word}"
        else:
            words.append(word)
    for word in words:
        if width and len(lines[-1]) + 1 + len(word) > width - len(" \\") and lines[-1].strip() != "$":
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}"
    return lines


def print_json(value: Any) -> None:
    """One JSON document; structs become objects, times RFC 3339, and commands whole."""
    stream = answer()
    stream.flush()
    stream.buffer.write(msgspec.json.format(msgspec.json.encode(jsonable(value)), indent=2) + b"\n")
    stream.buffer.flush()


def jsonable(value: Any) -> Any:
    """Structs as dictionaries, times as text, and commands such that they can be copied."""
    return _readable(msgspec.to_builtins(value))


def clean(text: str) -> str:
    """Without anything that would move the cursor, colour the rest or turn the writing round."""
    return _CONTROL.sub(" ", text) if not text.isprintable() else text


FAULT = 70
"""The exit code of a fault of crossfoot's own."""

Voice = Callable[[str, int], None]
"""Says a message, with the exit code it explains; 0 where it explains none."""

_voice: Voice | None = None


def speak_with(voice: Voice | None) -> None:
    """From now on, have `voice` say what is said beside the answer; `None`: on standard error, for people."""
    global _voice  # noqa: PLW0603 - one process, one standard error
    _voice = voice


def complain(message: str, *, code: int) -> int:
    """Print one message on standard error; returns the exit code."""
    message = told(message)
    if _voice is not None:
        _voice(clean(message.strip()), code)
        return code
    if code == FAULT:
        traceback.print_exc()
    text = f"crossfoot: {clean(message.strip())}"
    if sys.stderr.isatty():
        text = textwrap.fill(
            text, max(40, shutil.get_terminal_size().columns), subsequent_indent="  ", break_on_hyphens=False
        )
        if not os.environ.get("NO_COLOR"):
            text = text.replace("crossfoot:", "\x1b[1;31mcrossfoot:\x1b[0m", 1)
    sys.stderr.write(text + "\n")
    return code


def note(message: str) -> None:
    """Tell something beside the answer, on standard error. That nobody can hear it is no reason to stop."""
    with suppress(OSError):
        complain(message, code=0)


def reader_left() -> int:
    """Whoever read our output has gone (`| head`): nothing is wrong, and the interpreter must not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), answer().fileno())
    return 0


def _readable(value: Any, name: str = "") -> Any:
    if name == CARRIED:
        return value
    if isinstance(value, dict):
        return {key: _readable(part, key) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_readable(part, name) for part in value]
    if isinstance(value, int):
        return stamp(value) if name in TIMES else value
    if isinstance(value, str) and name in COMMANDS:
        return whole(value)
    return told(value) if isinstance(value, str) and name in PROSE else value


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _style(cell: Cell) -> str:
    return "" if isinstance(cell, str) else cell[1]


def _marks() -> dict[str, str]:
    """Signs for how a step ended; in words of ASCII where the terminal has no others."""
    names = ("done", "failed", "in doubt", "open")
    try:
        "✓✗…".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return dict(zip(names, ("ok", "x", "?", ".."), strict=True))
    return dict(zip(names, ("✓", "✗", "?", "…"), strict=True))
