"""`crossfoot replay`: bring back what came to nothing, in stages that stop themselves."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import anyio
import typer

from crossfoot import settings
from crossfoot.app import Crossfoot
from crossfoot.books import replays
from crossfoot.books.archive.past import Past, past_of
from crossfoot.books.replays import ABORTED, PAUSED, Replay
from crossfoot.books.store import Book
from crossfoot.cli.loading import load_app, load_function
from crossfoot.cli.options import Archive, Color, Database, Json
from crossfoot.cli.output import Output, When, note, print_json
from crossfoot.cli.reading import Progress, catch_up, reading
from crossfoot.cli.replay_dry_run import rehearsed, show_dry_run
from crossfoot.cli.replay_pages import show_replays, show_report
from crossfoot.cli.who import typist
from crossfoot.clock import SECOND, Micros
from crossfoot.errors import UsageError
from crossfoot.outcomes.brought_back import look
from crossfoot.recover.replay.halting import halt
from crossfoot.recover.replay.planning import Asked, found
from crossfoot.recover.replay.planning import plan as plan_replay
from crossfoot.recover.replay.policy import Policy
from crossfoot.recover.replay.report import Report, report
from crossfoot.recover.replay.running import HOLD_SECONDS, Runner
from crossfoot.recover.replay.selection import Selection

app = typer.Typer(help="Bring back what came to nothing: plan it, and run it in stages.", add_completion=False)

Target = Annotated[
    str, typer.Argument(help="the service: MODULE:NAME, as in billing:app", metavar="MODULE:NAME", show_default=False)
]
Number = Annotated[
    int, typer.Argument(metavar="NUMBER", help="the replay's number", min=1, max=2**63 - 1, show_default=False)
]
By = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="who does it; the user of this machine unless given", show_default=False),
]
Horizon = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="refuse what was published longer ago: its operation key may be forgotten; the book forgets none unless somebody "
        "removes them",
        show_default=False,
    ),
]


@app.command()
def plan(
    target: Target,
    why: Annotated[str, typer.Option("--why", "-w", metavar="TEXT", help="why it is done; the book keeps it")],
    fate: Annotated[list[str] | None, typer.Option(metavar="FATE", help="how it ended; dead unless given")] = None,
    cause: Annotated[list[str] | None, typer.Option(metavar="CAUSE", help="only of this cause, by fingerprint")] = None,
    type_: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="only messages of this type")
    ] = None,
    subject: Annotated[list[str] | None, typer.Option(metavar="SUBJECT", help="only of this subject")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="only what ended then or later (ISO 8601)")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="only what ended then or before")] = None,
    ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help="instead of all that, ids, one a line; - for stdin")
    ] = None,
    transform: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="mend each payload with this function")
    ] = None,
    horizon: Horizon = None,
    archive: Archive = None,
    by: By = None,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """Say which messages are to be brought back, and what will become of each. Nothing is moved.

        crossfoot replay plan billing:app --cause 3f2a9c0d11ee --why mended
        crossfoot replay plan billing:app --ids ids.txt --why "as agreed"

    The members are frozen: whatever happens later, the replay is about these and no others. What lies in the archive has ended for
    good: named by id, it is told and stays.

    Exits with 1 when nothing can be moved; with 2 when there is nothing to plan.
    """
    if not why.strip():
        raise UsageError("--why is empty: write why they are brought back, for whoever asks the book later")
    chosen = _selection(fate, cause, type_, subject, since, until, ids)
    mend = load_function(transform) if transform is not None else None
    service = load_app(target)
    asked = Asked(selection=chosen, by=by or typist(), why=why.strip(), horizon=horizon, transform=mend)
    past = past_of(service.book.path, archive or service.settings.archive)
    number, unknown = anyio.run(_plan, service, asked, past)
    if past.unread:
        note(past.unread)
    if unknown:
        more = f" and {len(unknown) - 3:,} more" if len(unknown) > 3 else ""
        note(
            f"neither the book nor its archive knows a message {', '.join(unknown[:3])}{more} on queue {service.queue.name}"
        )
    _show(_report_of(service.book.path, number), as_json, color, target)


@app.command("dry-run")
def dry_run(
    target: Target,
    number: Number,
    most: Annotated[
        int | None, typer.Option(min=1, help="members that are tried; all unless given", show_default=False)
    ] = None,
    rate: Annotated[float, typer.Option(min=0.001, help="members tried per second at most")] = 50.0,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """Call the handlers of a plan's members, each in a transaction that is rolled back, and say what came of it.

        crossfoot replay dry-run billing:app 3 --most 20

    Nothing is committed, moved or sent. But what a handler calls outside its transaction (HTTP, a mail, another database) is REALLY
    CALLED, as often as it is tried. Members that are expected to settle are tried, one by one, on the tables as they are.

    Exits with 1 when a handler fails, or returns without proof.
    """
    told = rehearsed(load_app(target), number, most, rate)
    if as_json:
        print_json(told)
    else:
        show_dry_run(Output(color), told)
    if not told.well:
        raise typer.Exit(1)


@app.command()
def run(
    target: Target,
    number: Number,
    canary: Annotated[
        int, typer.Option(min=1, help="members of the first stage; each later one has twice as many")
    ] = 10,
    stage: Annotated[int, typer.Option(min=1, help="members of a stage at most")] = 500,
    rate: Annotated[float, typer.Option(help="members moved per second at most")] = 50.0,
    window: Annotated[int, typer.Option(min=1, help="members on their way at once, at most")] = 25,
    live_slower: Annotated[
        float, typer.Option(help="slow down while live messages wait so many times longer than before")
    ] = 1.2,
    max_errors: Annotated[float, typer.Option(help="abort when this share of a stage ends badly")] = 0.05,
    max_again: Annotated[float, typer.Option(help="abort when this share fails again of what it died of")] = 0.05,
    max_breaches: Annotated[
        float, typer.Option(help="abort when this share of a stage lacks what an expectation says")
    ] = 0.05,
    max_latency: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="abort when one takes longer", show_default=False)
    ] = None,
    patience: Annotated[float, typer.Option(metavar="SECONDS", help="pause when nothing ends for so long")] = 600.0,
    hold: Annotated[
        float, typer.Option(metavar="SECONDS", help="how long a runner that died keeps others from going on")
    ] = HOLD_SECONDS,
    horizon: Horizon = None,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """Run a replay, or go on with one that was paused or whose runner died.

        crossfoot replay run billing:app 3 --canary 20 --rate 100

    A stage begins when all of the one before it have settled, and what the book's expectations say of them has come. It aborts by
    itself when a bound is passed, and can be paused and aborted from elsewhere. Workers of the service must run: they do the work.

    Exits with 1 when it was paused or aborted, or when a member ended badly.
    """
    policy = Policy(
        canary=canary, stage=stage, rate=rate, window=window, live_slower=live_slower, max_errors=max_errors, max_again=max_again,
        max_breaches=max_breaches, max_latency=max_latency, patience=patience,
    )  # fmt: skip
    _show(_report_of(_go_on(target, number, policy, horizon, hold), number), as_json, color, target)


@app.command()
def resume(target: Target, number: Number, as_json: Json = False, color: Color = When.auto) -> None:
    """Go on with a replay that was paused or whose runner died, within the bounds it was run with.

        crossfoot replay resume billing:app 3

    Exits as crossfoot replay run does.
    """
    _show(_report_of(_go_on(target, number, None, None, HOLD_SECONDS), number), as_json, color, target)


@app.command()
def pause(
    number: Number,
    reason: Annotated[
        str, typer.Option("--reason", "-r", metavar="TEXT", help="why; the book keeps it")
    ] = "paused by hand",
    by: By = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Stop moving members of a replay, whoever runs it. What is on its way goes on; resume goes on with the rest.

    crossfoot replay pause 3 --reason "the ledger is slow"
    """
    _halt(number, PAUSED, reason, by, db, as_json)


@app.command()
def abort(
    number: Number,
    reason: Annotated[
        str, typer.Option("--reason", "-r", metavar="TEXT", help="why; the book keeps it")
    ] = "aborted by hand",
    by: By = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """End a replay for good. What was not moved stays where it is; what is on its way goes on.

    crossfoot replay abort 3 --reason "the wrong cause"
    """
    _halt(number, ABORTED, reason, by, db, as_json)


@app.command()
def show(number: Number, db: Database = None, as_json: Json = False, color: Color = When.auto) -> None:
    """A replay's plan, how far it is, and what became of its members.

        crossfoot replay show 3 --json

    Exits with 1 when somebody should look at it: it was paused or aborted, or members ended badly.
    """
    _show(_report_of(db, number), as_json, color, None, db=db)


@app.command("list")
def list_replays(
    db: Database = None,
    limit: Annotated[int, typer.Option(min=1, max=2**31, help="the newest that many")] = 20,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """The replays of this book, the newest first.

    crossfoot replay list
    """
    with reading(db) as (connection, _):
        rows = replays.newest(connection, limit)
    if as_json:
        print_json([_line(row) for row in rows])
    else:
        show_replays(Output(color, db=db), rows)


# ---- parts -----------------------------------------------------------------------------------------------------------


def _selection(
    fates: list[str] | None, causes: list[str] | None, types: list[str] | None, subjects: list[str] | None,
    since: str | None, until: str | None, ids: Path | None,
) -> Selection:  # fmt: skip
    return Selection(
        fates=tuple(fates or ("dead",)), causes=tuple(causes or ()), types=tuple(types or ()), subjects=tuple(subjects or ()),
        since=_time("--since", since), until=_time("--until", until), ids=_ids(ids) if ids is not None else (),
    )  # fmt: skip


def _time(option: str, text: str | None) -> Micros | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is no time: write it as in 2026-11-27T14:30Z or 2026-11-27") from error
    return round((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * SECOND)


def _ids(file: Path) -> tuple[str, ...]:
    try:
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--ids {file} cannot be read: {error}") from error
    if "\0" in text:
        raise UsageError(f"--ids {file} is no text: it has a NUL in it; write one id a line, in UTF-8")
    named = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not named:
        raise UsageError(f"--ids {file} names no message: one id a line")
    return named


async def _plan(service: Crossfoot, asked: Asked, past: Past) -> tuple[int, list[str]]:
    progress = Progress("planning", "members")
    try:
        return await plan_replay(service.book, service.queue, service.registry, asked, progress, past=past)
    finally:
        progress.close()
        await service.aclose()


def _go_on(target: str, number: int, policy: Policy | None, horizon: float | None, hold: float) -> str:
    """Run it, and show how far it is. Returns where its book is."""
    service = load_app(target)
    progress = Progress("replay", "members")

    def watch(replay: Replay, stage: int, moved: int, on_their_way: int) -> None:
        progress(moved - on_their_way, max(1, replay.count))

    async def go_on() -> None:
        try:
            await Runner(
                service.book, service.queue, number, policy, horizon=horizon, hold=hold, watcher=watch, look=look
            ).run()  # fmt: skip
        finally:
            await service.aclose()

    try:
        anyio.run(go_on)
    finally:
        progress.close()
    return service.book.path


def _halt(number: int, state: str, reason: str, by: str | None, db: str | None, as_json: bool) -> None:
    if not reason.strip():
        raise UsageError("--reason is empty: write why, for whoever asks the book later")
    with reading(db) as (_, path):
        book = Book(path)
    try:
        replay = halt(book, number, state, f"{reason.strip()} ({by or typist()})")
    finally:
        book.close()
    if as_json:
        print_json(_line(replay))
    else:
        typer.echo(f"replay {number} is {replay.state}: {replay.note}")


def _report_of(db: str | None, number: int) -> Report:
    with reading(db) as (connection, path):
        if behind := catch_up(path, connection):
            note(f"not everything could be posted, so what became of members may be told as it was: {behind}")
        with connection.snapshot():
            past = past_of(path, settings.load(database=db).archive)
            return report(connection, found(connection, number), time.time_ns() // 1000, look, past)


def _show(told: Report, as_json: bool, color: When, target: str | None, *, db: str | None = None) -> None:
    if as_json:
        print_json(told)
    else:
        show_report(Output(color), told, target, db)
    if not told.well:
        raise typer.Exit(1)


def _line(replay: Replay) -> dict[str, object]:
    return {
        "number": replay.number, "queue": replay.queue, "state": replay.state, "note": replay.note, "by": replay.by,
        "why": replay.why, "planned_at": replay.at, "started_at": replay.started_at, "ended_at": replay.ended_at,
        "stage": replay.stage, "members": replay.count,
    }  # fmt: skip
