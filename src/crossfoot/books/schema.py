"""Bringing the book's tables to this version, in one transaction, whoever comes first."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from crossfoot.books.place import Migration, Place
from crossfoot.boundaries import Boundary, reach
from crossfoot.connection import Connection
from crossfoot.dialect import differs
from crossfoot.errors import SchemaMismatch
from crossfoot.sqlite import explain

HEAD = "0009"
"""The newest migration. A test compares it with the scripts, so that opening a book need not import Alembic."""

SCRIPTS = Path(__file__).parent / "migrations"


def ensure(connection: Connection, place: Place) -> None:
    """Create or migrate the tables, unless they are of this version already.

    Several processes may call this at once: the first migrates, the others find it done. A process that is killed
    half-way leaves the book as it was.

    Raises:
        SchemaMismatch: the book was written by a newer crossfoot.
        DatabaseUnavailable: the file or database cannot be written.
    """
    version = version_of(connection, place.name)
    if version == HEAD:
        return
    _known(version, place.name)
    with place.migrating() as migration:
        if _known(version_of(migration.connection, place.name), place.name) != HEAD:
            _upgrade(migration)


def check(connection: Connection, name: str) -> None:
    """For readers: the tables are there and of this version.

    Raises:
        SchemaMismatch: there is no book here, or it is of another version.
    """
    version = _known(version_of(connection, name), name)
    if version is None:
        raise SchemaMismatch(
            f"{name} holds no book yet: crossfoot worker MODULE:NAME makes it, or a first crossfoot publish"
        )
    if version != HEAD:
        raise SchemaMismatch(
            f"the book in {name} is of schema {version}, this crossfoot writes {HEAD}: start a worker once"
        )


_HAS_VERSION = differs(
    "SELECT 1 FROM sqlite_master WHERE name = 'crossfoot_version'",
    postgres="SELECT 1 WHERE to_regclass('crossfoot_version') IS NOT NULL",
)


def version_of(connection: Connection, name: str = "the database") -> str | None:
    """The schema version of the book, `None` when there is no book."""
    try:
        if connection.execute(_HAS_VERSION).fetchone() is None:
            return None
        row = connection.execute("SELECT version_num FROM crossfoot_version").fetchone()
    except sqlite3.Error as error:
        raise explain(error, name) from error
    return str(row[0]) if row else None


def _known(version: str | None, name: str) -> str | None:
    if version is not None and version > HEAD:
        raise SchemaMismatch(
            f"the book in {name} is of schema {version}, newer than this crossfoot's {HEAD}: upgrade crossfoot; nothing was changed"
        )
    return version


def _upgrade(migration: Migration) -> None:
    # Imported here: a book that is up to date must not pay for Alembic.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    with migration.shared() as shared:
        config.attributes["connection"] = shared
        command.upgrade(config, "head")
        reach(Boundary.DURING_MIGRATION)
