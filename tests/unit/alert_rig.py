"""What the tests of alerts share: somebody who watches a book, and what happens in it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from crossfoot.books import episodes
from crossfoot.books.entry import Kind
from crossfoot.books.losing import Memory
from crossfoot.books.posting import post_all
from crossfoot.outcomes import invariant as invariants
from crossfoot.outcomes.alerts.machine import Change
from crossfoot.outcomes.alerts.telling import Target
from crossfoot.outcomes.alerts.watching import Turn, look
from crossfoot.outcomes.evaluating import evaluate
from tests.unit.book_rig import CAUSE, QUEUE, Lectern

DAY = 86_400.0


class Hook:
    """A web server that remembers what it was told, and answers as it is bid."""

    def __init__(self) -> None:
        self.letters: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.answers: list[int] = []
        """The next statuses; 0 hangs up without an answer; 200 when none are left."""
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.keys.append(self.headers["Idempotency-Key"])
                hook.letters.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                status = hook.answers.pop(0) if hook.answers else 200
                if not status:
                    self.connection.close()
                    return
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?token=secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Watch:
    """Somebody who looks at a book every few seconds of virtual time."""

    def __init__(self, desk: Lectern, **kept: Any) -> None:
        self.desk = desk
        self.memory = {QUEUE: Memory(**kept)}
        self.turns: list[Turn] = []

    def look(self) -> list[Turn]:
        post_all(self.desk.book)
        evaluate(self.desk.book)
        invariants.check(self.desk.book)
        turns = look(self.desk.book, memory=self.memory, targets=("somebody",))
        self.turns += turns
        return turns

    def wait(self, seconds: float, every: float = 60.0) -> list[Turn]:
        """Let time pass, looking."""
        turns = self.look()
        while seconds > 0:
            self.desk.clock.advance(min(every, seconds))
            seconds -= every
            turns += self.look()
        return turns

    def opened(self) -> dict[str, Turn]:
        """The alert of every episode that began."""
        return {turn.alert: turn for turn in self.turns if turn.change is Change.opened}


def published(desk: Lectern, *ids: str) -> None:
    for id_ in ids:
        desk.story(id_, (Kind.INTENDED, 0), (Kind.PUBLISHED, 0, {"due": desk.now}))


def died(desk: Lectern, *ids: str, **attributes: Any) -> None:
    """Published, failed and dead."""
    for id_ in ids:
        failure = {"cause": CAUSE.fingerprint}
        desk.story(
            id_,
            (Kind.PUBLISHED, 0),
            (Kind.RECEIVED, 1),
            (Kind.FAILED, 1, failure),
            (Kind.DEAD_LETTERED, 1),
            **attributes,
        )


def noted(desk: Lectern) -> list[tuple[str, str, int]]:
    """Of the only episode: what was to be told, what came of it, and how often it was tried."""
    with desk.book.reading() as connection:
        (one,) = episodes.episodes(connection, limit=10)
        return [(notice.what, notice.state, notice.tries) for notice in episodes.notices_of(connection, one.number)]


def vanish(desk: Lectern, target: Target, id_: str = "gone") -> None:
    """Something to tell."""
    desk.story(id_, (Kind.PUBLISHED, 0), (Kind.VANISHED, 0))
    post_all(desk.book)
    look(desk.book, targets=[target.name])
