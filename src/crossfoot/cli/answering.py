"""Where a command's answer goes: to standard output, which is the command's alone once it has loaded a program.

A program prints what it likes: when it is imported, in its handlers, by the programs it starts, and when it exits. From the moment at
which it is loaded all that goes to standard error, so that the answer can be piped into something that reads it. It stays that way
until the process ends: no command has to know which of its calls run the program's code.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NamedTuple, TextIO

STANDARD_OUTPUT = 1
"""The file descriptor to which the programs that a program starts write, and libraries that are not in Python."""


class _Kept(NamedTuple):
    """Standard output, while it is the command's alone.

    Attributes:
        ours: the stream to it.
        before: what `sys.stdout` was.
    """

    ours: TextIO
    before: TextIO


_kept: _Kept | None = None


def answer() -> TextIO:
    """The stream that answers are written to."""
    return _kept.ours if _kept is not None else sys.stdout


def say(text: str) -> None:
    """One line of an answer."""
    answer().write(text + "\n")


def keep_stdout() -> None:
    """From now on, standard output is this command's: what anybody else prints goes to standard error."""
    global _kept  # noqa: PLW0603 - one process, one standard output
    if _kept is None:
        sys.stdout.flush()
        _kept = _Kept(_ours(sys.stdout), sys.stdout)
        sys.stdout = sys.stderr


def give_back() -> None:
    """Standard output is everybody's again, for whoever runs one command after the other in a process."""
    global _kept
    if _kept is None:
        return
    (ours, before), _kept = _kept, None
    with suppress(OSError):  # that it cannot be written, `run` has told
        ours.flush()
    if ours is not before:
        os.dup2(ours.fileno(), STANDARD_OUTPUT)
        os.close(ours.fileno())
    sys.stdout = before


def _ours(stdout: TextIO) -> TextIO:
    """A stream to where this one goes. The descriptor itself goes to standard error from now on, if this is the process's own."""
    try:
        if stdout.fileno() != STANDARD_OUTPUT:
            return stdout
        aside = sys.stderr.fileno()
    except (OSError, ValueError):  # streams without a file, of a program that calls this one
        return stdout
    ours = open(  # noqa: SIM115 - until the process ends, as `sys.stdout` is, or `give_back`
        os.dup(STANDARD_OUTPUT), "w", encoding=stdout.encoding, errors=stdout.errors, closefd=False
    )
    os.dup2(aside, STANDARD_OUTPUT)
    return ours
