"""`crossfoot alerts`: what is worth waking somebody for, each time once."""

from __future__ import annotations

import signal
import sys
import time
from threading import Event
from typing import Annotated, Any

import msgspec
import typer

from crossfoot.books import episodes
from crossfoot.books.episodes import GIVEN_UP, IN_DOUBT, REFUSED, SENT, Episode, Notice, Unheard
from crossfoot.books.store import Book
from crossfoot.cli.alerts_memories import Memories
from crossfoot.cli.options import Color, Database, Json
from crossfoot.cli.outcomes_up_to_date import bring_up_to_date
from crossfoot.cli.output import Cell, Output, When, jsonable, note, print_json
from crossfoot.cli.reading import reading
from crossfoot.cli.suggesting import whole
from crossfoot.connection import Connection
from crossfoot.errors import Conflict, DatabaseUnavailable
from crossfoot.outcomes.alerts.prometheus import rules_document, rules_file
from crossfoot.outcomes.alerts.telling import Command, Target, Webhook, deliver
from crossfoot.outcomes.alerts.watching import Told, Turn, look
from crossfoot.recover.phrases import clock_time, plural, span

app = typer.Typer(help="What is worth waking somebody for: which, since when, and who was told.", add_completion=False)

Retention = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="after how long the queues forget what waits, where neither they nor crossfoot.toml say it",
        min=1.0,
        show_default=False,
    ),
]
DeadRetention = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="after how long they forget dead letters, from when these were first sent, where they do not say it",
        min=1.0,
        show_default=False,
    ),
]
NoQueue = Annotated[bool, typer.Option("--no-queue", help="do not ask queues outside the book's file how they are set")]


@app.command("check")
def check_alerts(
    db: Database = None,
    retention: Retention = None,
    dead_retention: DeadRetention = None,
    no_queue: NoQueue = False,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """Look once: what fires now. Nobody is told.

        crossfoot alerts check

    What has to last for a while before it fires is remembered in the book from look to look: `crossfoot alerts watch` looks all the
    time. Names the notices that did not reach whom they were for, too. Exits with 1 when an alert is firing, or one was not heard of.
    """
    with reading(db) as (connection, path):
        _look(path, connection, [], Memories(retention, dead_retention, ask=not no_queue))
        found = episodes.episodes(connection, limit=1_000, only_open=True)
        unheard = _print(connection, found, as_json, Output(color, db=db), "firing")
    if found or unheard:
        raise typer.Exit(1)


@app.command("list")
def list_alerts(
    db: Database = None,
    limit: Annotated[int, typer.Option(min=1, help="the newest that many episodes")] = 20,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """List the episodes there were, the newest first, and who was told of each.

        crossfoot alerts list

    An episode is from when an alert fired until it was over. Exits with 1 when one is open, or one that ended within a week was not
    heard of.
    """
    with reading(db) as (connection, _):
        found = episodes.episodes(connection, limit=limit)
        unheard = _print(connection, found, as_json, Output(color, db=db), "known")
    if unheard or any(one.closed_at is None for one in found):
        raise typer.Exit(1)


@app.command("rules")
def print_rules(as_json: Json = False) -> None:
    """Print the alerts as a file of rules for Prometheus.

        crossfoot alerts rules > crossfoot.rules.yml

    For a Prometheus, 2.42 or newer, that scrapes `crossfoot metrics --listen`. With --json it says the same in JSON.
    """
    if as_json:
        print_json(rules_document())
    else:
        sys.stdout.write(rules_file())


@app.command("watch")
def watch_alerts(
    db: Database = None,
    webhook: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="post each episode there, as JSON; may be repeated", show_default=False),
    ] = None,
    command: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LINE",
            help="run this with each episode, as JSON on its standard input; may be repeated",
            show_default=False,
        ),
    ] = None,
    every: Annotated[float, typer.Option(metavar="SECONDS", help="between two looks", min=1.0)] = 15.0,
    retention: Retention = None,
    dead_retention: DeadRetention = None,
    no_queue: NoQueue = False,
    as_json: Json = False,
) -> None:
    """Look every few seconds, and tell of each episode once when it begins and once when it is over.

        crossfoot alerts watch --webhook https://example.com/hook
        crossfoot alerts watch --command 'mail -s crossfoot me@example.com'

    That somebody is to be told is in the book before it is sent, and noted after. What was certainly not heard is sent again, every 5
    minutes at last, as long as the episode lasts and for a day after it. When nobody knows, because no answer came or the watch was
    killed in between, it is sent again, every hour at last, under the same Idempotency-Key (a command has it in CROSSFOOT_KEY), marked
    as a repeat. Several watches of one book look by turns, and tell once together.

    Until interrupted. A database that cannot be reached is told on standard error, and asked again.
    """
    targets: list[Target] = [*map(Webhook, webhook or ()), *map(Command, command or ())]
    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())  # what is being sent is noted before it leaves
    note(
        f"looking every {every:g} s, and telling {', '.join(one.name for one in targets) or 'nobody but this terminal'}; Ctrl-C ends it"
    )
    memories = Memories(retention, dead_retention, ask=not no_queue)
    while not ended.is_set():
        try:
            _watch_once(db, targets, memories, as_json)
        except (DatabaseUnavailable, Conflict) as error:
            note(f"not looked: {error}")
        ended.wait(every)


def _watch_once(db: str | None, targets: list[Target], memories: Memories, as_json: bool) -> None:
    with reading(db) as (connection, path):
        for turn in _look(path, connection, targets, memories):
            _say(turn, as_json)
    book = Book(path)
    try:
        for notice in deliver(book.open(), targets):
            if notice.state != SENT:
                note(f"episode {notice.episode} ({notice.what}), {notice.target}: {notice.state}: {notice.answer}")
    finally:
        book.close()


def _look(path: str, connection: Connection, targets: list[Target], memories: Memories) -> list[Turn]:
    if behind := bring_up_to_date(path, connection):
        note(f"not everything could be posted and evaluated: {behind}")
    book = Book(path)
    try:
        return look(book.open(), targets=[one.name for one in targets], memory=memories.of(path, connection))
    finally:
        book.close()


def _say(turn: Turn, as_json: bool) -> None:
    if as_json:
        line = {"at": time.time_ns() // 1000, **msgspec.to_builtins(turn)}
        sys.stdout.write(msgspec.json.encode(jsonable(line)).decode() + "\n")
    else:
        ids = f" ({', '.join(turn.told.ids)})" if turn.told.ids else ""
        typer.echo(f"{turn.change.value}  {turn.alert}: {turn.told.text}{ids}; next: {whole(turn.told.step)}")
    sys.stdout.flush()


def _print(connection: Connection, found: list[Episode], as_json: bool, out: Output, what: str) -> int:
    """Returns how many notices were not heard."""
    now = time.time_ns() // 1000
    unheard = episodes.unheard(connection, now)
    told = {one.number: msgspec.json.decode(one.told, type=Told) for one in found}
    notices = {one.number: episodes.notices_of(connection, one.number) for one in found}
    if as_json:
        print_json({
            "episodes": [_document(one, told[one.number], notices[one.number]) for one in found],
            "unheard": [
                {"episode": one.notice.episode, "alert": one.alert, "about": one.about, **_of_notice(one.notice)} for one in unheard
            ],
        })  # fmt: skip
        return len(unheard)
    open_ = sum(one.closed_at is None for one in found)
    if open_:
        out.heading("FIRING", plural(open_, "alert"), style="red")
    else:
        before = "" if what == "firing" else f"; {plural(len(found), 'episode')} before"
        out.heading("QUIET", f"no alert is firing{before}", style="green")
    for missed in unheard:
        out.labelled("NOT HEARD", [_missed(missed, now)])
    for one in found:
        out.gap()
        _show(out, one, told[one.number], notices[one.number], now)
    return len(unheard)


def _missed(one: Unheard, now: int) -> Cell:
    notice = one.notice
    tried = (
        f"tried {plural(notice.tries, 'time')}" if notice.tries else "never tried: no watch that runs has this target"
    )
    again = ""
    if notice.state in (IN_DOUBT, REFUSED):
        again = f", the next time {f'in {span(notice.at - now)}' if notice.at > now else 'when a watch with this target looks'}"
    elif notice.state == GIVEN_UP:
        again = ", and given up"
    why = f" ({notice.answer})" if notice.answer else ""
    return (
        f"episode {notice.episode}, {one.alert}{f' of {one.about}' if one.about else ''}: that it {notice.what} did not reach "
        f"{notice.target}: {tried}{again}{why}",
        "red",
    )


def _show(out: Output, one: Episode, told: Told, notices: list[Notice], now: int) -> None:
    since = f"since {clock_time(one.opened_at, now)}, for {span((one.closed_at or now) - one.opened_at)}"
    state: Cell = (f"{one.alert}: {told.text}", "red" if one.closed_at is None else "")
    out.labelled("firing" if one.closed_at is None else "over", [state, since])
    out.labelled("ids", [", ".join(told.ids)] if told.ids else [])
    out.labelled("told", [_heard(notice) for notice in notices])
    if one.closed_at is None:
        out.commands([("see more", told.step)])


def _heard(notice: Notice) -> Cell:
    style = {SENT: "", REFUSED: "yellow", IN_DOUBT: "yellow", GIVEN_UP: "red"}.get(notice.state, "")
    tries = f", {plural(notice.tries, 'try', 'tries')}" if notice.tries > 1 else ""
    return (
        f"{notice.what}, {notice.target}: {notice.state}{tries}{f' ({notice.answer})' if notice.answer else ''}",
        style,
    )


def _document(one: Episode, told: Told, notices: list[Notice]) -> dict[str, Any]:
    return {
        "episode": one.number, "alert": one.alert, "about": one.about, "opened_at": one.opened_at, "closed_at": one.closed_at,
        **msgspec.to_builtins(told),
        "notices": [
            _of_notice(notice) for notice in notices
        ],
    }  # fmt: skip


def _of_notice(notice: Notice) -> dict[str, Any]:
    return {
        "event": notice.what, "target": notice.target, "state": notice.state, "at": notice.at, "tries": notice.tries,
        "answer": notice.answer,
    }  # fmt: skip
