"""Options that commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from crossfoot.cli.output import When
from crossfoot.cli.suggesting import look_into

Database = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="PATH|URL",
        help="the SQLite file or PostgreSQL URL with the book; otherwise CROSSFOOT_DATABASE, crossfoot.toml or ./crossfoot.db",
        show_default=False,
        callback=look_into,
    ),
]
Archive = Annotated[
    str | None,
    typer.Option(
        "--archive",
        metavar="FOLDER",
        help="the folder with the archive; otherwise CROSSFOOT_ARCHIVE, crossfoot.toml, or beside the SQLite file",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON, as docs/reference/json.md describes it")]
Color = Annotated[When, typer.Option("--color", help="when to use colours; NO_COLOR and FORCE_COLOR count, too")]
QueueName = Annotated[str | None, typer.Option("--queue", metavar="NAME", help="only this queue", show_default=False)]
TypeName = Annotated[
    str | None, typer.Option("--type", metavar="TYPE", help="only messages of this type", show_default=False)
]
