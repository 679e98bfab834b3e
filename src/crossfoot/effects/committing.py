"""Who ends the transaction in which somebody sends: the one who began it. Where nobody can tell, it has to be said."""

from __future__ import annotations

import sqlite3
from typing import Any

from crossfoot.errors import UsageError


def commits_here(session: Any, call: str, commit: bool | None, *, is_open: bool, is_deliberate: bool) -> bool:
    """Whether the block commits at its end.

    Args:
        call: what was called, for the message.
        commit: what its caller said, if anything.
        is_open: whether the session has a transaction already.
        is_deliberate: whether that was begun by a call that is there to begin it, so that somebody is sure to end it.

    Raises:
        UsageError: a transaction is open that an earlier statement began by itself, and nobody said who commits it. To go on
            would lose everything where nobody does, and to commit would tear apart what another one means to undo.
    """
    if commit is not None:
        return commit
    if not is_open:
        return True
    if is_deliberate:
        return False
    raise UsageError(
        f"{call}({type(session).__name__}): it has a transaction open already, and nothing tells whether an earlier statement began it "
        f"by itself, so that nobody may commit it: say {call}(session, commit=True) to commit all of it when the block ends, or "
        "commit=False if you commit it yourself"
    )


def is_deliberate(session: Any) -> bool:
    """Whether the transaction that is open in a connection or session was begun on purpose, as far as that can be told: a driver
    that begins one before the first statement leaves no trace of who did."""
    if isinstance(session, sqlite3.Connection):
        return _is_explicit(session.isolation_level, getattr(session, "autocommit", _LEGACY))
    if hasattr(session, "pgconn"):
        return bool(session.autocommit or getattr(session, "_num_transactions", 0))
    if hasattr(session, "isolation_level"):  # aiosqlite
        return _is_explicit(session.isolation_level, getattr(getattr(session, "_conn", None), "autocommit", _LEGACY))
    session = getattr(session, "sync_session", session)
    if getattr(session, "_trans_context_manager", None) is not None:  # within `with session.begin()`
        return True
    transaction = session.get_transaction()
    origin = getattr(transaction, "origin", None)
    return origin is not None and origin.name != "AUTOBEGIN"


def reaches_no_commit(session: Any) -> str:
    """Why a commit or rollback of this SQLAlchemy session or connection would not be one; empty where it is."""
    synchronous = getattr(session, "sync_session", session)
    bind: Any = getattr(synchronous, "bind", None)
    if not hasattr(bind, "exec_driver_sql") or synchronous.in_transaction() or not bind.in_transaction():
        return ""
    # In the other modes the session ends that transaction itself, or has said that a savepoint within it will do.
    if synchronous.join_transaction_mode not in ("conditional_savepoint", "rollback_only"):
        return ""
    return (
        "it is bound to a connection that has a transaction open, which the session's commit does not reach: say commit=False if you "
        "commit that one, or give the connection itself"
    )


def autocommits(connection: Any) -> bool:
    """Whether each statement on this SQLAlchemy connection commits by itself, so that there is no transaction to be part of."""
    pooled = connection.connection
    if connection.dialect.name == "sqlite":
        driver = pooled.driver_connection
        return driver.isolation_level is None and not driver.in_transaction
    return bool(getattr(pooled.dbapi_connection, "autocommit", False))


def ends_by_statement(connection: Any) -> bool:
    """Whether a connection of sqlite3's has a `commit` and a `rollback` that do nothing, as with `autocommit=True` (Python 3.12)."""
    return getattr(connection, "autocommit", _LEGACY) is True


_LEGACY = -1
"""`sqlite3.LEGACY_TRANSACTION_CONTROL`, of Python 3.12: how it was before, too."""


def _is_explicit(isolation_level: str | None, autocommit: bool | int) -> bool:
    return isolation_level is None if autocommit == _LEGACY else bool(autocommit)
