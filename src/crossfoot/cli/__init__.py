"""The command line: one file per command, imported when it is asked for.

`crossfoot/cli/NAME.py` holds the command NAME as a function of that name, or as a Typer `app` where it has commands of
its own. Whatever a command raises ends here, as one message on standard error and an exit code.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from inspect import cleandoc
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from crossfoot.cli.output import FAULT, complain, reader_left
from crossfoot.connection import has_password
from crossfoot.errors import CrossfootError, NotFound

COMMANDS = (
    "demo",
    "worker",
    "publish",
    "why",
    "check",
    "causes",
    "balance",
    "tail",
    "verify",
    "dead",
    "discard",
    "outcomes",
    "alerts",
    "replay",
    "close",
    "archive",
    "metrics",
    "flow",
)
"""In the order in which `--help` shows them."""

WELL, FOUND, WRONG, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: all is well; something was found; wrong use, or something cannot be used. `FAULT` is one of crossfoot's own."""

FAULTY = "this is a fault in crossfoot: please report it with the lines above"

WrongUse: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What the command line raises at arguments it cannot read; Typer carries a click of its own or uses another's."""

_NO_DATABASE = re.compile(r"No such option:? '?--db\b")
_NO_COMMAND = re.compile(r"No such command '(.*?)'")

HELP = """Every message ends in exactly one provable fate, and the books balance.

    crossfoot demo                 a real event log, with faults, and its books
    crossfoot worker billing:app   run the handlers of a service
    crossfoot why case-4711        what happened to it, and what to do
    crossfoot balance              whether anything is lost

Exit codes: 0 all is well; 1 something was found (or the thing asked for was not); 2 wrong use, or a book, queue or disk
that cannot be used; 70 a fault in crossfoot itself.

Every command takes --json; those that show pages take --color=always, where colours should survive a pipe. The book is
./crossfoot.db, unless crossfoot.toml (database = "...") or CROSSFOOT_DATABASE or --db names another.
"""


class _Commands(TyperGroup):
    """The commands by name; each is imported when it is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return command(cmd_name) if cmd_name in COMMANDS else None


def command(name: str) -> Any:
    """The command of that name, ready to be run."""
    module = import_module(f"crossfoot.cli.{name}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        app.command(name)(getattr(module, name))
    made = _laid_out(typer.main.get_command(app))
    made.name = name
    return made


def _laid_out(made: Any) -> Any:
    """The command, which now lays its help out for a terminal; `made.help` stays as it was written."""
    show = made.format_help

    def format_help(context: Any, formatter: Any) -> None:
        written = made.help
        made.help = _filled(written or "")
        try:
            show(context, formatter)
        finally:
            made.help = written

    made.format_help = format_help
    for one in getattr(made, "commands", {}).values():
        _laid_out(one)
    return made


def _filled(text: str) -> str:
    """Prose in lines as long as the terminal's, examples as they are."""
    paragraphs = []
    for paragraph in cleandoc(text).replace("[", "\\[").split("\n\n"):
        if paragraph.startswith(" "):
            paragraphs.append("\n".join(f"[cyan]{line.strip()}[/cyan]" for line in paragraph.splitlines()))
        else:
            paragraphs.append(" ".join(paragraph.split()))
    return "\n\n".join(paragraphs)


app = typer.Typer(cls=_Commands, add_completion=False)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"crossfoot {version('crossfoot')}")
        raise typer.Exit


@app.callback(help=HELP)
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """What the `crossfoot` program runs."""
    code = run(list(sys.argv[1:] if arguments is None else arguments))
    try:
        sys.stderr.flush()
    except (
        OSError
    ):  # a log on a full disk: what could not be said must not become the exit code, which Python would make 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code and raises nothing."""
    _give_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an odd character in a message must not end the page
    try:
        code = _dispatch(arguments or ["--help"])
        sys.stdout.flush()
        return code if arguments else WRONG
    except CrossfootError as error:
        return complain(str(error), code=FOUND if isinstance(error, NotFound) else WRONG)
    except BrokenPipeError:
        return reader_left()
    except UnicodeEncodeError:
        odd = [word for word in arguments if any("\ud800" <= letter <= "\udfff" for letter in word)]
        if not odd:
            return complain(FAULTY, code=FAULT)
        return complain(f"{odd[0]!a} is not UTF-8: write it anew, and see that the terminal's encoding is", code=WRONG)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT) or error.filename is not None:
            raise
        reader_left()
        return complain(f"the output cannot be written: {error.strerror}", code=WRONG)
    except (KeyboardInterrupt, typer.Abort):
        return complain("interrupted", code=INTERRUPTED)
    except Exception:  # noqa: BLE001 - the last line of defence: a bug is shown whole, and has an exit code of its own
        return complain(FAULTY, code=FAULT)


def _give_streams() -> None:
    """Where the shell has closed one (`>&-`), what is written to it goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the rest of the process


def _dispatch(arguments: list[str]) -> int:
    try:
        result = _laid_out(typer.main.get_command(app))(args=arguments, prog_name="crossfoot", standalone_mode=False)
    except WrongUse as error:
        where = getattr(getattr(error, "ctx", None), "command_path", "crossfoot")
        return complain(f"{_told(error, arguments)} See {where} --help.", code=WRONG)
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):  # Typer makes it an exit of its own
            raise left.__context__ from None
        raise
    return result if isinstance(result, int) else WELL


def _told(error: Exception, arguments: Sequence[str]) -> str:
    """What was wrong, in a sentence, with the nearest command for one that is not there."""
    told = str(error.format_message()) if hasattr(error, "format_message") else str(error)
    context: Any = getattr(error, "ctx", None)
    found = _NO_COMMAND.match(told)
    if found and context and (near := get_close_matches(found[1], context.command.list_commands(context), 1)):
        told = f"There is no command {found[1]!r}; did you mean {near[0]!r}?"
    if _NO_DATABASE.match(told) and context and context.command.name in ("worker", "publish"):
        told = _where_the_book_is(arguments)
    return told if told.rstrip().endswith((".", "?", "!")) else f"{told}."


def _where_the_book_is(arguments: Sequence[str]) -> str:
    """What to write in place of --db, to the commands that work for a service."""
    rest = list(arguments)
    place = next(index for index, word in enumerate(rest) if word.partition("=")[0] == "--db")
    _, is_joined, named = rest.pop(place).partition("=")
    if not is_joined and place < len(rest):
        named = rest.pop(place)
    if not named or has_password(named):  # which is for no log
        named = "PATH|URL"
    return (
        "There is no option --db: the service itself says where its book is. Write Crossfoot(..., "
        f"database={named!r}) in it; or, where it says nothing, CROSSFOOT_DATABASE={shlex.quote(named)} {shlex.join(['crossfoot', *rest])}."
    )
