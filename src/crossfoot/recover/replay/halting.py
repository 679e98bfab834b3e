"""Stopping a replay from anywhere; and why one cannot be run."""

from __future__ import annotations

from crossfoot.books import replays
from crossfoot.books.replays import ABORTED, FINISHED, PAUSED, PLANNED, PLANNING, RUNNING, Replay
from crossfoot.books.store import Book
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.errors import ReplayRefused
from crossfoot.recover.replay.planning import drop_members, found


def halt(book: Book, number: int, state: str, note: str) -> Replay:
    """Pause or abort a replay, whoever runs it: nothing more is moved once this has returned. Of a plan that was not finished nothing
    is kept but that there was one.

    Raises:
        ReplayRefused: there is none of that number, or it is over.
    """
    now: Micros = book.clock.now()
    states = (RUNNING, PLANNED, PAUSED, PLANNING) if state == ABORTED else (RUNNING, PLANNED)

    def stop(connection: Connection) -> Replay:
        found(connection, number)  # raises, where there is none
        stopped = replays.stop(connection, number, state, note, now, of=states)
        replay = found(connection, number)
        if not stopped:
            raise ReplayRefused(f"replay {number} is {replay.state}, and cannot be {state}")
        return replay

    stopped = book.write(stop)
    if not stopped.count:  # its membership was never frozen
        drop_members(book, number)
    return stopped


def why_not(replay: Replay) -> str:
    """Why nobody can have it now."""
    if replay.state == RUNNING:
        return f"replay {replay.number} is run by {(replay.claim or '').rpartition(':')[0]}: crossfoot replay pause stops that one"
    if replay.state == PLANNING:
        return (
            f"replay {replay.number} is not planned to its end: where nobody is planning it any more, crossfoot replay abort "
            f"{replay.number} ends it; plan it again"
        )
    if replay.state == FINISHED:
        return f"replay {replay.number} is finished, and moved all that it could; crossfoot replay show {replay.number} tells of the rest"
    return f"replay {replay.number} is {replay.state}, and that is its end: plan another one for what is left"
