"""Commands that somebody is told to type: whole, so that each works where it is pasted.

A command that was told which book to look into, by --db or by the service it was given, tells of others that must be told the same.
The rooms below name commands without a book, for they do not know how it was named; here is where it is added, whatever they are
printed as: a step of a page, part of an error, or a field in JSON.
"""

from __future__ import annotations

import re
import shlex

from crossfoot.connection import has_password, shown

LOOKING = (
    "why", "check", "causes", "balance", "tail", "verify", "discard", "outcomes", "close", "metrics",
    "dead list", "dead show", "alerts check", "alerts list", "alerts watch", "archive verify", "archive erase",
    "replay pause", "replay abort", "replay show", "replay list",
)  # fmt: skip
"""Commands that take `--db`."""

_COMMAND = re.compile(rf"\bcrossfoot (?:{'|'.join(LOOKING)})(?![\w-])(?! --(?:db|help)\b)(?! MODULE:NAME)")

_named: str | None = None


def look_into(db: str | None) -> str | None:
    """From now on, commands are told to look into this book; `None`: where they look by themselves. Returns the same."""
    global _named  # noqa: PLW0603 - one process, one command, one book
    _named = db
    return db


def looked_into() -> str | None:
    """The book that commands are told to look into."""
    return _named


def naming(db: str | None) -> str:
    """The option that names the book in a command that is to be copied. Of a URL with a password only the place: what is shown is kept."""
    return f" --db {shlex.quote(shown(db) if has_password(db) else db)}" if db is not None else ""


def whole(command: str, db: str | None = None) -> str:
    """A command, with the book that it is to look into, where it would look into another one without.

    Args:
        db: the book, where it is not the one that this command was told.
    """
    book = naming(db if db is not None else _named)
    if not book or not _COMMAND.match(command) or " --db " in command:
        return command
    return command + book


def told(text: str) -> str:
    """A sentence with commands in it: each is told the book right behind its name, for nobody knows where in a sentence it ends."""
    book = naming(_named)
    return _COMMAND.sub(lambda found: found[0] + book, text) if book else text
