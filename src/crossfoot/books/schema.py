"""Bringing the book's tables to this version, in one transaction, whoever comes first."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from crossfoot.boundaries import Boundary, reach
from crossfoot.errors import SchemaMismatch
from crossfoot.sqlite import Connection, connect, explain

if TYPE_CHECKING:
    from sqlalchemy import Engine

HEAD = "0002"
"""The newest migration. A test compares it with the scripts, so that opening a book need not import Alembic."""

SCRIPTS = Path(__file__).parent / "migrations"


def ensure(connection: Connection, path: str) -> None:
    """Create or migrate the tables, unless they are of this version already.

    Several processes may call this at once: the first migrates, the others find it done. A process that is killed
    half-way leaves the book as it was.

    Raises:
        SchemaMismatch: the book was written by a newer crossfoot.
        DatabaseUnavailable: the file cannot be written.
    """
    if version_of(connection) == HEAD:
        return
    _known(version_of(connection), path)
    migrator = connect(path)
    try:
        engine = _engine_on(migrator)
        migrator.begin()
        try:
            if _known(version_of(migrator), path) != HEAD:
                _upgrade(engine)
        finally:
            migrator.abandon()
    except sqlite3.Error as error:
        raise explain(error, path) from error
    finally:
        migrator.close()


def check(connection: Connection, path: str) -> None:
    """For readers: the tables are there and of this version.

    Raises:
        SchemaMismatch: there is no book here, or it is of another version.
    """
    version = _known(version_of(connection), path)
    if version is None:
        raise SchemaMismatch(f"{path} holds no book yet: start a worker or publish a message first")
    if version != HEAD:
        raise SchemaMismatch(
            f"the book in {path} is of schema {version}, this crossfoot writes {HEAD}: start a worker once"
        )


def version_of(connection: Connection) -> str | None:
    """The schema version of the book, `None` when there is no book."""
    try:
        row = connection.execute("SELECT version_num FROM crossfoot_version").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise explain(error, connection) from error
    except sqlite3.Error as error:
        raise explain(error, connection) from error
    return str(row[0]) if row else None


def _known(version: str | None, path: str) -> str | None:
    if version is not None and version > HEAD:
        raise SchemaMismatch(
            f"the book in {path} is of schema {version}, newer than this crossfoot's {HEAD}: upgrade crossfoot; nothing was changed"
        )
    return version


def _engine_on(connection: Connection) -> Engine:
    """An engine that knows this one connection. To be made before the transaction: see below."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool, pool_reset_on_return=None)
    with engine.connect():
        pass  # on its first connection SQLAlchemy looks around, and rolls back; later that would end our transaction
    return engine


def _upgrade(engine: Engine) -> None:
    # Imported here: a book that is up to date must not pay for Alembic.
    from alembic import command
    from alembic.config import Config
    from sqlalchemy.exc import DBAPIError

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    try:
        # `begin` tells SQLAlchemy of the transaction that is open already. Else Alembic would make its version table in
        # one of its own, whose commit ends ours, and every further statement would be durable at once.
        with engine.begin() as shared:
            config.attributes["connection"] = shared
            command.upgrade(config, "head")
            reach(Boundary.DURING_MIGRATION)
    except DBAPIError as error:  # `ensure` knows how to explain what SQLite said
        if isinstance(error.orig, sqlite3.Error):
            raise error.orig from error
        raise
