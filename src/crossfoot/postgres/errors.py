"""What PostgreSQL and its client say when something is wrong, and what a person can do about it."""

from __future__ import annotations

import psycopg

from crossfoot.errors import Conflict, DatabaseUnavailable, DiskFull, not_all_there

AGAIN = ("40001", "40P01")
"""What the database asks to be tried again: a serialization failure, a deadlock."""

OUTSIDE = ("08", "28", "3D000", "25006", "25P03", "25P04", "42501", "53", "55P03", "57", "58", "XX")
"""Beginnings of the states of errors that no other statement would avoid."""


def is_outside(error: psycopg.Error) -> bool:
    """Whether the server, its disk or its rules are the matter, and not the statement."""
    state = error.sqlstate
    return state.startswith(OUTSIDE) if state else isinstance(error, psycopg.OperationalError)


def is_transient(error: BaseException) -> bool:
    """Whether the database asks for the whole transaction again."""
    return getattr(error, "sqlstate", None) in AGAIN


def is_missing(state: str | None, text: str) -> bool:
    """Whether it is a table of the book's that is not there: a statement of crossfoot's may also have run a trigger of the user's."""
    return state == "42P01" and "crossfoot_" in text


def explain(error: psycopg.Error, where: str) -> DatabaseUnavailable:
    """The error a person can act on, for one that PostgreSQL or its client raised."""
    return explained(error.sqlstate or "", first_line(error), where)


def explained(state: str, text: str, where: str) -> DatabaseUnavailable:
    """The same, by the state of the error, where it has one, and by what it says."""
    if state == "53100":
        return DiskFull(
            f"the disk of {where} is full ({text}): free some space, then start again; nothing more is acked"
        )
    if state in AGAIN:
        return Conflict(f"{where}: {text}: another transaction was in the way, nothing was kept: try again")
    if is_missing(state, text):
        return not_all_there(where, text)
    for states, remedy in _REMEDIES:
        if state.startswith(states):
            kind = Conflict if state in ("55P03", "25P03") else DatabaseUnavailable
            return kind(f"{where}: {text}: {remedy}")
    if not state:
        return DatabaseUnavailable(_without_server(text, where))
    return DatabaseUnavailable(f"{where}: {text} ({state})")


_REMEDIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("25006",), "it is a standby, or read-only: connect to the primary (target_session_attrs=read-write in the URL)"),
    (("25P03", "25P04", "57P05"), "the server ended a session that stood still or took too long: raise its timeout, or look for "
                                  "the handler that holds a transaction open while it waits"),
    (("28", "42501"), "check the user, its password and its rights (GRANT), and pg_hba.conf"),
    (("3D000",), "create it (CREATE DATABASE), or name another one"),
    (("53300",), "lower `concurrency` or the number of workers, raise max_connections or the limit of the role or the database, or "
                "put a pooler in between"),
    (("53",), "the server lacks memory or other resources: look at its log"),
    (("55P03",), "somebody holds a lock for too long: find the long transaction in pg_stat_activity and end it"),
    (("57014",), "it was cancelled, by a person or by statement_timeout: raise that for this user, or find what it waited for"),
    (("57P", "08"), "the server stopped, restarts or was failed over: start again when it answers"),
    (("XX",), "the database may be damaged: stop its workers, look at its log, and at its backup"),
)  # fmt: skip


_FULL = ("too many clients", "too many connections", "remaining connection slots", "no more connections allowed")
"""What servers, and PgBouncer last, say to who is one too many: of all, of a role's, or of a database's."""


def _without_server(text: str, where: str) -> str:
    """For what the client says by itself: it has no state, and only its words tell what happened."""
    if any(words in text for words in _FULL):
        return f"{where}: {text}: {_remedy('53300')}"
    if "does not exist" in text:
        return f"{where}: {text}: create it, or name another one"
    if "authentication" in text or "pg_hba" in text or "password" in text:
        return f"{where}: {text}: {_remedy('28')}"
    if "read-only" in text or "standby" in text:
        return f"{where}: {text}: {_remedy('25006')}"
    return (
        f"{where} does not answer ({text}): check that the server runs, its address and the network, then start again"
    )


def _remedy(state: str) -> str:
    return next(remedy for states, remedy in _REMEDIES if state.startswith(states))


def first_line(error: psycopg.Error) -> str:
    """What it said, without its detail, which may hold values."""
    if error.diag.message_primary:
        return error.diag.message_primary
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
