"""Why something failed, reduced to what repeats: four thousand failures are a handful of causes.

A fingerprint covers the exception's type, the place in the payload for schema failures, and the frames of the
traceback as `module:function`, each once (so that a recursion is one cause at any depth), without line numbers (so
that an unrelated edit does not make a new cause) and without the exception's text (which holds ids and values). Of an
exception that was raised because of others it covers these, too, each by its type and the place it came from: whoever wraps
everything that fails in one exception at one place has not made one cause of it. The line is told beside it, as that of
this one failure.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import PurePath
from types import FrameType

import msgspec

from crossfoot.errors import CrossfootError, PayloadInvalid

MAX_TEXT = 500
"""Characters of an exception's text that an entry keeps."""

MOST_BENEATH = 10
"""Exceptions behind one that are looked at."""

HINTS = {
    "database is locked": "another connection was writing. If that is the handler's own transaction, write over tx.execute, or over "
    "tx.session of SQLAlchemy, and not over a second connection",
    "the query has 0 placeholders but": "psycopg's are %s and %(name)s; `?` is SQLite's",
}
"""What a driver's words, by how they begin, are most often about where they do not say it themselves."""

_INDEX = re.compile(r"\[\d+\]")
_OWN = ("crossfoot.", "asyncio.", "anyio.", "concurrent.", "sqlalchemy.", "aiosqlite.", "threading:")


_STANDARD = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib"))
_INSTALLED = ("site-packages", "dist-packages")


class Cause(msgspec.Struct, frozen=True):
    """What a failure has in common with others of its kind.

    Attributes:
        fingerprint: twelve hexadecimal digits, the same for the same cause in every process.
        kind: the exception's qualified name.
        title: one line for a person: type and place.
        frames: the normalised frames, outermost first, one a line; a repeated one where it first stood.
        text: the exception's own words, cut at `MAX_TEXT`; may hold business values, so it stays in the book.
        raised: the line of the user's code that this one failure came from, as `billing.py:42 charge()`; empty where there
            is none.
    """

    fingerprint: str
    kind: str
    title: str
    frames: str
    text: str
    raised: str = ""


def cause_of(error: BaseException, handler: str = "") -> Cause:
    """The cause of a failure.

    Args:
        handler: whose delivery failed; stands for the place where no frame of the user's code can.
    """
    try:
        return _cause_of(error, handler)
    except Exception:  # noqa: BLE001 - an exception that cannot even be described must not make of one failure another
        kind = _keepable(str(type.__getattribute__(type(error), "__name__")))
        print_of = f"{kind}\n{handler}\nindescribable"
        return Cause(
            fingerprint=blake2b(print_of.encode(), digest_size=6).hexdigest(), kind=kind, title=f"{kind} at handler {handler}",
            frames="", text="(what it says cannot be had: it raises when it is looked at)",
        )  # fmt: skip


def _cause_of(error: BaseException, handler: str) -> Cause:
    kind = _name(type(error))
    names = _frames(error)
    frames = list(dict.fromkeys(names))
    beneath = [] if isinstance(error, CrossfootError) else list(_beneath(error))
    if isinstance(error, PayloadInvalid):
        place = _INDEX.sub("[]", error.path)
    elif isinstance(error, CrossfootError):
        place, frames = (f"handler {handler}" if handler else ""), []
    else:
        place = names[-1] if names else handler
    kind, place, frames = _keepable(kind), _keepable(place), [_keepable(frame) for frame in frames]
    because = [_keepable(f"because of {_name(type(one))} at {(_frames(one) or [''])[-1]}") for one in beneath]
    print_of = "\n".join((kind, place, *frames, *because))
    title = f"{type(error).__name__} at {place}" if place else type(error).__name__
    return Cause(
        fingerprint=blake2b(print_of.encode(), digest_size=6).hexdigest(),
        kind=kind,
        title=_keepable(title + (f", because of {type(beneath[-1]).__name__}" if beneath else "")),
        frames="\n".join(frames),
        text=_words(error)[:MAX_TEXT],
        raised=_keepable(_raised(error)),
    )


def _frames(error: BaseException) -> list[str]:
    """The frames of the user's own code; all of them when there are none of theirs."""
    names = [f"{module_of(frame)}:{frame.f_code.co_qualname}" for frame, _ in traceback.walk_tb(error.__traceback__)]
    theirs = [name for name in names if not name.startswith(_OWN)]
    return theirs or names[-1:]


def _raised(error: BaseException) -> str:
    """The innermost line of the user's own code; of the error behind it, where this one was made by crossfoot."""
    for one in _behind(error):
        frames = list(traceback.walk_tb(one.__traceback__))
        if place := place_of(frames):
            return place
        if frames and not isinstance(one, CrossfootError):
            return _at(*frames[-1])
    return ""


def place_of(frames: Sequence[tuple[FrameType, int]]) -> str:
    """The innermost of these frames that is the user's own code, as `billing.py:42 charge()`; empty where there is none.

    Args:
        frames: outermost first, each with its line.
    """
    theirs = [(frame, line) for frame, line in frames if not f"{module_of(frame)}:".startswith(_OWN)]
    if not theirs:
        return ""
    home = _package(theirs[0][0])  # code that was installed is the user's if the handler was installed with it
    own = [found for found in theirs if not _of_a_library(found[0]) or _package(found[0]) == home]
    return _at(*(own or theirs)[-1])


def running(called_by: str) -> list[tuple[FrameType, int]]:
    """The frames of whoever calls this, outermost first, each with its line, from the last call by that module on. None where it is
    not among them: into a coroutine that waits an error may be thrown past those that wait for it."""
    frames: list[tuple[FrameType, int]] = []
    for frame, line in traceback.walk_stack(sys._getframe(1)):
        if module_of(frame) == called_by:
            return [*reversed(frames)]
        frames.append((frame, line))
    return []


def _at(frame: FrameType, line: int) -> str:
    return f"{_file(frame)}:{line} {frame.f_code.co_qualname.rpartition('<locals>.')[2]}()"


def _beneath(error: BaseException) -> Iterator[BaseException]:
    """What it was raised because of, outermost first, each once."""
    seen = {id(error)}
    one: BaseException | None = error
    while one is not None and len(seen) <= MOST_BENEATH:
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        if one is None or id(one) in seen:
            return
        seen.add(id(one))
        yield one


def _behind(error: BaseException) -> Iterator[BaseException]:
    yield error
    if isinstance(error, CrossfootError) and error.__cause__ is not None:
        yield error.__cause__


def module_of(frame: FrameType) -> str:
    """The name of the module whose code it runs."""
    return str(frame.f_globals.get("__name__", "?"))


def _package(frame: FrameType) -> str:
    return module_of(frame).partition(".")[0]


def _of_a_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith(_STANDARD) or any(part in _INSTALLED for part in PurePath(file).parts)


def _file(frame: FrameType) -> str:
    """The file as its package names it, the same on every machine: `billing/cards.py` of `billing.cards`."""
    path, module = PurePath(frame.f_code.co_filename), module_of(frame)
    length = module.count(".") + 1 + (path.stem == "__init__")
    return "/".join(path.parts[-length:])


def _words(error: BaseException) -> str:
    """What the exception says, as text that any database keeps; of SQLAlchemy's, without statement and parameters."""
    behind = getattr(error, "orig", None) if str(type(error).__module__).startswith("sqlalchemy.") else None
    try:
        text = str(behind if isinstance(behind, BaseException) else error)
        named = isinstance(behind, BaseException) and type(behind).__name__ != type(error).__name__
        hint = next((hint for words, hint in HINTS.items() if text.startswith(words)), "")
        text += f": {hint}" if hint else ""
        text = f"{type(behind).__name__}: {text}" if named else text
    except BaseException as second:  # noqa: BLE001 - a broken __str__ must not make of one failure another
        text = f"(its text cannot be had: {type(second).__name__})"
    return _keepable(text)


def _keepable(text: str) -> str:
    """Text that any database keeps: no half characters, no NUL."""
    return str.encode(text, errors="backslashreplace").decode().replace("\0", "\\x00")


def _name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
