"""How many rows a handler really changed, on PostgreSQL; and statements that it may not execute.

The server says with each statement what it did ("INSERT 0 3"), and nobody adds it up: so we do, and take off what a
rollback to a savepoint undid. Rows that a function changes, or a WITH in front of a SELECT, are in nobody's count.

After an error PostgreSQL refuses everything until the transaction, or a savepoint in it, is rolled back. A handler that
catches such an error and returns would look as if it had worked; the state of the transaction tells.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from crossfoot.effects.databases.changes import NOT_ITS_OWN
from crossfoot.errors import NoProof, TransactionMisuse

_TOKEN = re.compile(
    r"""--[^\n]*
    |(?P<comment>/\*)
    |[eE]'(?:[^'\\]|''|\\.)*'
    |'(?:[^']|'')*'
    |"(?:[^"]|"")*"
    |(?<![\w$])\$(?P<tag>\w*)\$.*?\$(?P=tag)\$
    |(?P<end>;)
    |\w[\w$]*|[^\s\w;'"$/-]+|[$/-]""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")

_SEARCH_PATH = re.compile(r"SET (SESSION |LOCAL )?(SEARCH_PATH|SCHEMA)\b", re.IGNORECASE)
_DURABLE = re.compile(r"SET (SESSION |LOCAL )?SYNCHRONOUS_COMMIT\b", re.IGNORECASE)
_WHILE_IT_LASTS = ("LOCAL", "CONSTRAINTS", "TRANSACTION")
"""What SET may be followed by, if it is to end with the transaction."""
_NO = ("false", "'false'", "'f'", "'off'", "'no'", "'n'", "'0'")
"""How `set_config` is told that it is not for the transaction only."""
_SHADOW = re.compile(
    r"""\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:(?:GLOBAL|LOCAL)\s+)?TEMP(?:ORARY)?\s+(?:RECURSIVE\s+)?\w+\s+(?:IF\s+NOT\s+EXISTS\s+)?"?crossfoot_
    |\bINTO\s+(?:(?:GLOBAL|LOCAL)\s+)?TEMP(?:ORARY)?\s+(?:TABLE\s+)?"?crossfoot_
    |\bpg_temp\s*\.\s*"?crossfoot_""",
    re.IGNORECASE | re.VERBOSE,
)
"""A temporary table is found before all others, whatever the search path."""

_WRITING = ("INSERT", "UPDATE", "DELETE", "MERGE")
_WRITE = re.compile(rf"\b(?:{'|'.join(_WRITING)})\b", re.IGNORECASE)

_ENDING = ("COMMIT", "END", "ABORT", "ROLLBACK", "BEGIN", "START", "PREPARE TRANSACTION")


class Look(NamedTuple):
    """What a statement does to savepoints: `verb` is empty for any other."""

    verb: str = ""
    name: str = ""


PLAIN = Look()


@lru_cache(maxsize=512)
def look_at(statement: str) -> Look:
    """Read a statement of the handler's before it is executed.

    Raises:
        TransactionMisuse: it would end the transaction, lead crossfoot to other tables, or change a setting beyond it; or there
            are several in one.
    """
    words = _words(statement)
    verb = words[0].upper() if words else ""
    upper = [word.upper() for word in words[:3]]
    if verb == "SAVEPOINT" and len(words) > 1:
        return Look("SAVEPOINT", _name(words[1]))
    if verb == "RELEASE":
        return Look("RELEASE", _name(words[-1]))
    if verb == "ROLLBACK" and "TO" in upper:
        return Look("UNDO", _name(words[-1]))
    if verb in _ENDING or " ".join(upper[:2]) in _ENDING:
        raise TransactionMisuse(
            f"the handler called for {verb} on the transaction that crossfoot owns: leave begin, commit and rollback to crossfoot, "
            "and use a savepoint for what may fail"
        )
    settings = _set_by_function(statement)
    if _SHADOW.search(statement):
        raise TransactionMisuse(
            "the handler made a temporary table by the name of one of crossfoot's, for which it would be taken by all that follows on "
            "its connection: names that begin with crossfoot_ are crossfoot's"
        )
    if (verb == "SET" and _SEARCH_PATH.match(" ".join(words))) or "'search_path'" in settings:
        raise TransactionMisuse(
            "the handler changed the search path, by which crossfoot finds its own tables in the same transaction: write the schema "
            "before the table's name, or state the path in the database's URL (?options=-csearch_path%3D...)"
        )
    if (verb == "SET" and _DURABLE.match(" ".join(words))) or "'synchronous_commit'" in settings:
        raise TransactionMisuse(
            "the handler set synchronous_commit, by which crossfoot knows that a commit outlives the server: leave it alone, or accept "
            "what may be lost for the whole service (synchronous = NORMAL)"
        )
    if verb == "SET" and upper[1:2] and upper[1] not in _WHILE_IT_LASTS:
        raise TransactionMisuse(
            f"the handler changed a setting by SET {words[1]}, which would hold for every delivery after it on its connection: write "
            "SET LOCAL, or set it for the role or in the database's URL (?options=-cNAME%3DVALUE)"
        )
    if lasting := [name for name, local in settings.items() if local in _NO]:
        raise TransactionMisuse(
            f"the handler changed a setting by set_config({lasting[0]}, ..., false), which would hold for every delivery after it on its "
            "connection: give true as the last argument, which is for the transaction"
        )
    return PLAIN


def _set_by_function(statement: str) -> dict[str, str]:
    """What a statement sets by `set_config`: names, as they are written, and how the third argument begins."""
    found: dict[str, str] = {}
    if "set_config" not in statement.lower():
        return found
    depth, arguments, follows = 0, [""], False
    for token in (match[0] for match in _TOKEN.finditer(statement) if not match["comment"]):
        if token[0] in "'\"_" or token[0].isalnum() or (token[0] == "$" and len(token) > 1):
            follows = depth == 0 and token.lower() == "set_config"
            if depth == 1:
                arguments[-1] = arguments[-1] or token.lower()
            continue
        for sign in token:
            if depth == 0:
                depth, arguments = int(sign == "(" and follows), [""]
            elif sign == "," and depth == 1:
                arguments.append("")
            else:
                depth += {"(": 1, ")": -1}.get(sign, 0)
                if depth == 0:
                    found[arguments[0]] = arguments[2] if len(arguments) > 2 else ""
            follows = False
    return found


@lru_cache(maxsize=512)
def writes(statement: str) -> bool:
    """Whether it is of a kind that changes rows, by itself or within a COPY."""
    words = [word.upper() for word in _words(statement)[:3]]
    return bool(words) and (words[0] in _WRITING or (words[0] == "COPY" and words[-1] in _WRITING))


@lru_cache(maxsize=512)
def may_write(statement: str) -> bool:
    """The same, or behind a WITH."""
    hides = [word.upper() for word in _words(statement)[:1]] == ["WITH"]
    return writes(statement) or (hides and _WRITE.search(statement) is not None)


def _words(statement: str) -> list[str]:
    """The first words of a statement, as far as they matter here, without comments.

    Raises:
        TransactionMisuse: another one follows it.
    """
    words: list[str] = []
    ended, position = False, 0
    while found := _TOKEN.search(statement, position):
        position = found.end()
        if found["comment"]:
            position = _end_of_comment(statement, position)
        elif found["end"]:
            ended = bool(words)
        elif not found[0].startswith("--"):
            if ended:
                raise TransactionMisuse(
                    "the handler executed several statements in one call, of which nobody can tell what each did: execute them one by one"
                )
            if len(words) < 6:
                words.append(found[0])
    return words


def _end_of_comment(statement: str, position: int) -> int:
    """Comments may hold comments."""
    depth = 1
    while depth and (mark := _COMMENT.search(statement, position)):
        depth += 1 if mark[0] == "/*" else -1
        position = mark.end()
    return position if not depth else len(statement)


def _name(word: str) -> str:
    """A name as PostgreSQL compares it: without regard to case unless quoted."""
    return word[1:-1].replace('""', '"') if word.startswith('"') else word.lower()


_RETURNING = re.compile(r"\bRETURNING\b", re.IGNORECASE)


@lru_cache(maxsize=512)
def changes_only(statement: str) -> bool:
    """Whether all there is to know of it afterwards is how many rows it changed.

    Raises:
        TransactionMisuse: as `look_at`.
    """
    words = _words(statement)
    return bool(words) and words[0].upper() in _WRITING and _RETURNING.search(statement) is None


def rows_told(status: str | None, count: int) -> int:
    """The rows that a statement changed, by what the server said of it and the rows that the driver counted."""
    return max(count, 0) if (status or "").partition(" ")[0] in ("INSERT", "UPDATE", "DELETE", "MERGE") else 0


class Count:
    """Rows that one handler's statements changed."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows = 0


class ChangeCounter:
    """Adds up what a handler's statements did.

    Attributes:
        count: of the handler that is watched; the next one gets another.
    """

    def __init__(self) -> None:
        self.count = Count()
        self._stack: list[tuple[str, int]] = []
        self._refused: TransactionMisuse | None = None
        self._failure: BaseException | None = None

    def watch(self) -> None:
        """Start to count."""
        self.count = Count()
        self._stack.clear()
        self._refused = self._failure = None

    def look(self, statement: str) -> Look:
        """See what a statement is about to do.

        Raises:
            TransactionMisuse: what `look_at` raises; or it goes back to a savepoint that the handler did not set. It is
                remembered.
        """
        try:
            look = look_at(statement)
        except TransactionMisuse as error:
            self._refused = error
            raise
        if look.verb in ("UNDO", "RELEASE") and all(name != look.name for name, _ in self._stack):
            raise self.refuse(TransactionMisuse(NOT_ITS_OWN))
        return look

    def refuse(self, error: TransactionMisuse) -> TransactionMisuse:
        """A handler that catches what it is told is told again at the end."""
        self._refused = error
        return error

    def failed(self, error: BaseException) -> None:
        """A statement raised."""
        self._failure = error

    def done(self, look: Look, rows: int) -> None:
        """A statement was executed."""
        if look.verb == "SAVEPOINT":
            self._stack.append((look.name, self.count.rows))
        elif look.verb:
            self._back_to(look.name, undo=look.verb == "UNDO")
        else:
            self.count.rows += rows

    def mark(self) -> int:
        """Where the count stands at the beginning of a savepoint of the driver's own."""
        return self.count.rows

    def undone(self, mark: int) -> None:
        """That savepoint was rolled back."""
        self.count.rows = mark

    def changed(self, *, is_open: bool, is_broken: bool) -> int:
        """Net rows changed since `watch`; raises what `counted` does."""
        return self.counted(is_open=is_open, is_broken=is_broken).rows

    def counted(self, *, is_open: bool, is_broken: bool) -> Count:
        """The count since `watch`.

        Args:
            is_open: whether the transaction is still there.
            is_broken: whether an error has made it useless.

        Raises:
            TransactionMisuse: the transaction is not the one that was begun.
            NoProof: the handler caught an error after which nothing is kept.
        """
        if self._refused is not None:
            raise TransactionMisuse(str(self._refused)) from self._refused
        if is_broken:
            raise NoProof(
                "the handler caught an error of the database, after which PostgreSQL keeps nothing of its transaction: let the "
                "error out, and use a savepoint for what may fail"
            ) from self._failure
        if not is_open:
            raise TransactionMisuse(
                "the transaction that crossfoot owns was ended while the handler ran: leave commit and rollback to crossfoot"
            )
        return self.count

    def _back_to(self, name: str, *, undo: bool) -> None:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index][0] == name:
                if undo:
                    self.count.rows = self._stack[index][1]
                del self._stack[index + (1 if undo else 0) :]
                return
