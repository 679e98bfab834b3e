"""Writes docs/reference/commands.md from the commands: `python docs/commands.py`, or `--check` whether it is up to date.

A command without a text, or an option without one, is an error: nothing that can be typed is left unexplained.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer

PAGE = Path(__file__).parent / "reference" / "commands.md"

HEAD = """# Commands

*Written by `python docs/commands.py` from the commands themselves; a test fails when it is not up to date.*

Every command exits with 0 when all is well, with 1 when it found something, and with 2 when it was used wrongly or could
not run; [Operating](../guides/operating.md#exit-codes) says what that means. What `--json` prints is in
[JSON output](json.md). `crossfoot --help` and `crossfoot COMMAND --help` say in the terminal what this page says.
"""

KINDS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "FILE"}
MADE_BY_TYPER = {"install_completion", "show_completion"}
BEYOND_WORDS = {None, False, ()}
"""Defaults that are no use to a reader."""


class Undocumented(Exception):
    """Something can be typed that no text explains."""


def commands_of(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command and its full name, a group before its members."""
    yield name, command
    for part, member in members_of(command).items():
        yield from commands_of(member, f"{name} {part}")


def members_of(command: Any) -> dict[str, Any]:
    """The commands of a group, in its own order; none of a command."""
    if not hasattr(command, "list_commands"):
        return {}
    context = typer.Context(command)
    found = {part: command.get_command(context, part) for part in command.list_commands(context)}
    return {part: member for part, member in found.items() if not member.hidden}


def section(name: str, command: Any) -> str:
    """What a reader needs of one command."""
    text = (command.help or "").strip()
    if not text:
        raise Undocumented(f"{name} has no text: write its docstring")
    parameters = [p for p in command.params if not getattr(p, "hidden", False) and p.name not in MADE_BY_TYPER]
    undocumented = [p.opts[0] for p in parameters if not p.help]
    if undocumented:
        raise Undocumented(f"{name}: {', '.join(undocumented)} has no help")
    members = [f"- [`{name} {part}`](#{anchor(f'{name} {part}')})" for part in members_of(command)]
    parts = [f"## `{name}`", f"```text\n{usage(name, command, parameters)}\n```", text]
    parts += ["\n".join(rows(command, parameters))] if parameters else []
    parts += ["\n".join(members)] if members else []
    return "\n\n".join(parts)


def usage(name: str, command: Any, parameters: list[Any]) -> str:
    """One line: what is typed, in which order."""
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    words = [shown(p, command) if p.required else f"[{shown(p, command)}]" for p in arguments]
    if members_of(command):
        words.append("COMMAND")
    return " ".join([name, *words, *(["[OPTIONS]"] if len(arguments) < len(parameters) else [])])


def rows(command: Any, parameters: list[Any]) -> list[str]:
    """The table of arguments and options."""
    lines = ["| argument or option | default | meaning |", "|---|---|---|"]
    for one in sorted(parameters, key=lambda p: p.param_type_name != "argument"):
        if one.param_type_name == "argument":
            written = f"`{shown(one, command)}`"
        else:
            names = [*one.opts, *one.secondary_opts]
            written = ", ".join(f"`{name}`" for name in names) + ("" if is_flag(one) else f" {shown(one, command)}")
        lines.append(f"| {written} | {default_of(one)} | {one.help.replace('|', chr(92) + '|')} |")
    return lines


def default_of(one: Any) -> str:
    """What holds where nothing is said; empty where that is nothing."""
    if one.required:
        return "required"
    if one.secondary_opts:
        return f"`{(one.opts if one.default else one.secondary_opts)[0]}`"
    default = one.default.value if isinstance(one.default, Enum) else one.default
    return "" if callable(default) or default in BEYOND_WORDS else f"`{default}`"


def shown(one: Any, command: Any) -> str:
    """The word that stands for a value."""
    if one.metavar:
        return str(one.metavar)
    if one.param_type_name == "argument":
        return str(one.name).upper()
    hint = hint_of(one, command)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f"`{member.value}`" for member in hint)
    return KINDS.get(hint, "VALUE")


def hint_of(one: Any, command: Any) -> Any:
    """The type of one value, as the command's function declares it."""
    hint: Any = get_type_hints(command.callback).get(one.name) if command.callback else None
    while arguments := [part for part in get_args(hint) if part is not type(None)]:
        hint = arguments[0]
    return hint


def is_flag(one: Any) -> bool:
    return bool(getattr(one, "is_flag", False) or getattr(one, "count", False))


def anchor(name: str) -> str:
    """The fragment under which a heading is found."""
    return name.replace(" ", "-")


def page(app: typer.Typer) -> str:
    """The whole page.

    Raises:
        Undocumented: a command or one of its options has no text.
    """
    root = typer.main.get_command(app)
    sections = [section(name, command) for name, command in commands_of(root, "crossfoot")]
    return "\n\n".join([HEAD.strip(), *sections]) + "\n"


if __name__ == "__main__":
    from crossfoot.cli import app as crossfoot_app

    written = page(crossfoot_app)
    if "--check" in sys.argv:
        up_to_date = PAGE.exists() and PAGE.read_text() == written
        sys.exit(0 if up_to_date else f"{PAGE.name} is not up to date: python docs/commands.py")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(written)
