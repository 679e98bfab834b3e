"""Telling somebody of an episode: a webhook, or a command.

Nobody can both send and note in one step. So each notice is claimed in the book before it is sent, and noted after: a process that dies
in between, and an answer that does not come, leave a notice *in doubt*. It is sent once more, under the same key and marked as a repeat,
so that whoever receives it knows it by its key, and a person who is told twice knows why. What was certainly not heard (nobody listens, the
answer refuses it) is sent again, and is no repeat. How often and for how long says `trying`.

Somebody who does not answer keeps nobody else from being told, and nobody from looking: an answer has its time as a whole, and who let
one pass, or refused, is asked again at the next look.
"""

from __future__ import annotations

import hashlib
import os
import queue
import shlex
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from http.client import HTTPException, HTTPMessage
from typing import IO, Protocol
from urllib.parse import SplitResult, urlsplit

import msgspec

from crossfoot.books import episodes
from crossfoot.books.episodes import GIVEN_UP, IN_DOUBT, REFUSED, SENDING, SENT, Episode, Notice
from crossfoot.books.store import Book
from crossfoot.clock import SECOND, Micros
from crossfoot.errors import UsageError
from crossfoot.outcomes.alerts.trying import next_try
from crossfoot.outcomes.alerts.watching import Told

TIMEOUT = 10.0
"""Seconds that a webhook or a command may take."""

LOST: Micros = 60 * SECOND
"""A notice that has been claimed for so long is in doubt: who claimed it has died."""

TURN = 30.0
"""Seconds after which a target that answers slowly is told the rest at the next look."""

UNHEARD = frozenset((501, 503, 505))
"""Errors of a server's that say that it did nothing; after any other one it may have heard."""


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent.

    Attributes:
        key: the same for every repeat of a notice, and for no other one.
        repeat: whether it may have been heard before.
    """

    key: str
    event: str
    alert: str
    about: str
    episode: int
    severity: str
    text: str
    count: int
    ids: tuple[str, ...]
    step: str
    opened_at: str
    closed_at: str | None
    repeat: bool


class NotHeard(Exception):
    """It was certainly not heard."""


class InDoubt(Exception):
    """It may have been heard."""


class Target(Protocol):
    """Somebody who can be told."""

    @property
    def name(self) -> str:
        """What the book calls it: without its secrets, and the same in every process."""
        ...

    def tell(self, letter: Letter) -> str:
        """Tell it. Returns what it answered.

        Raises:
            NotHeard, InDoubt: it did not confirm.
        """
        ...


class Webhook:
    """Posts the letter as JSON, with its key in `Idempotency-Key`; any status of 2xx confirms.

    Raises:
        UsageError: the URL cannot be used.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        parts = _parts(url)
        self._url = url
        self._timeout = timeout
        self._opener = urllib.request.build_opener(_NoRedirects)
        digest = hashlib.blake2b(url.encode(), digest_size=6).hexdigest()
        self.name = f"webhook {parts.hostname} {digest}"

    def tell(self, letter: Letter) -> str:
        answers: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._ask(letter))
            except BaseException as error:  # noqa: BLE001 - it is raised again where the answer is waited for
                answers.put(error)

        # The bounds of a socket are of each of its steps, and a name's address has none: so it is waited for from outside.
        threading.Thread(target=ask, name="crossfoot webhook", daemon=True).start()
        try:
            answer = answers.get(timeout=self._timeout)
        except queue.Empty:
            raise InDoubt(f"it did not answer within {self._timeout:g} s") from None
        if isinstance(answer, str):
            return answer
        try:
            raise answer
        finally:
            del answer  # it would hold this frame, which holds it, and a socket with it

    def _ask(self, letter: Letter) -> str:
        headers = {"Content-Type": "application/json", "Idempotency-Key": letter.key, "User-Agent": "crossfoot"}
        request = urllib.request.Request(self._url, msgspec.json.encode(letter), headers, method="POST")  # noqa: S310 - the scheme was looked at above
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                return f"{answer.status}"
        except urllib.error.HTTPError as error:
            error.close()
            heard = error.code >= 500 and error.code not in UNHEARD
            raise (InDoubt if heard else NotHeard)(f"it answered {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, (ConnectionRefusedError, socket.gaierror)):
                raise NotHeard(f"nobody listens there: {error.reason}") from error
            raise InDoubt(f"no answer: {error.reason}") from error
        except (OSError, HTTPException) as error:
            raise InDoubt(f"no answer: {error}") from error


def _parts(url: str) -> SplitResult:
    """An address that can be written to: what cannot is refused before anything is to be told."""
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").encode("idna"), parts.port
    except ValueError as error:
        raise UsageError(f"--webhook takes an address that can be written to: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError("--webhook takes an address that begins with http:// or https://")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError("--webhook takes an address of plain characters: write the others as %C3%A9")
    return parts


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A letter that is sent on as a GET says nothing: a redirection is an answer like any other error."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


class Command:
    """Runs a program, without a shell, with the letter as JSON on its standard input; exit code 0 confirms.

    Its environment has CROSSFOOT_ALERT, CROSSFOOT_EVENT and CROSSFOOT_KEY.

    Raises:
        UsageError: it names no program.
    """

    def __init__(self, line: str, *, timeout: float = TIMEOUT) -> None:
        try:
            self._words = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"--command {line!r} cannot be read as a shell would: {error}") from error
        if not self._words:
            raise UsageError("--command is empty: write the program and its arguments")
        self._timeout = timeout
        digest = hashlib.blake2b(line.encode(), digest_size=6).hexdigest()
        self.name = f"command {os.path.basename(self._words[0])} {digest}"

    def tell(self, letter: Letter) -> str:
        environment = {
            **os.environ, "CROSSFOOT_ALERT": letter.alert, "CROSSFOOT_EVENT": letter.event, "CROSSFOOT_KEY": letter.key,
        }  # fmt: skip
        try:
            done = subprocess.run(
                self._words, input=msgspec.json.encode(letter), env=environment, timeout=self._timeout, check=False,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise InDoubt(f"it took longer than {self._timeout:g} s, and was ended") from error
        except OSError as error:
            raise NotHeard(f"it cannot be run: {error}") from error
        if done.returncode < 0:
            raise InDoubt(f"it was ended by signal {-done.returncode}")
        if done.returncode:
            raise NotHeard(f"it ended with {done.returncode}")
        return "0"


def deliver(book: Book, targets: list[Target]) -> list[Notice]:
    """Send what is to be sent by now, each notice once unless nobody knows whether it was heard.

    To a target that does not confirm one nothing more is sent this time.

    Returns:
        The notices that it sent or tried to send, as they are noted now.
    """
    done = []
    for target in targets:
        with book.reading() as connection:
            now = book.clock.now()
            waiting = episodes.waiting(connection, target.name, now, now - LOST)
        begun = book.clock.monotonic()
        for notice in waiting:
            if not _claim(book, notice):
                continue
            done.append(_send(book, target, notice))
            if done[-1].state != SENT or book.clock.monotonic() - begun > TURN:
                break  # the rest is told at the next look: whoever does not answer keeps nobody else waiting
    return done


def _claim(book: Book, notice: Notice) -> bool:
    return book.write(lambda connection: episodes.claim(connection, notice, book.clock.now()))


def _send(book: Book, target: Target, notice: Notice) -> Notice:
    with book.reading() as connection:
        episode = episodes.episode(connection, notice.episode)
    repeat = notice.state in (SENDING, IN_DOUBT)
    letter = letter_of(book.identity(), episode, notice, repeat=repeat)
    maybe = False
    try:
        state, answer = SENT, target.tell(letter)
    except NotHeard as error:
        # What was in doubt before stays so: that it was not heard now says nothing of then.
        state, answer = IN_DOUBT if repeat else REFUSED, str(error)
    except InDoubt as error:
        state, answer, maybe = IN_DOUBT, str(error), True
    tries, at = notice.tries + 1, book.clock.now()
    if state != SENT:
        again = next_try(tries, at, in_doubt=maybe, closed_at=episode.closed_at)
        state, at = (state, again) if again is not None else (GIVEN_UP, at)
    book.write(lambda connection: episodes.note(connection, notice, state, at, answer))
    return notice._replace(state=state, tries=tries, at=at, answer=answer)


def letter_of(book: str, episode: Episode, notice: Notice, *, repeat: bool) -> Letter:
    """What is sent of a notice.

    Args:
        book: its identity, so that the keys of two services differ.
    """
    told = msgspec.json.decode(episode.told, type=Told)
    return Letter(
        key=f"{book}:{episode.number}:{notice.what}", event=notice.what, alert=episode.alert, about=episode.about,
        episode=episode.number, severity=told.severity, text=told.text, count=told.count, ids=told.ids, step=told.step,
        opened_at=_stamp(episode.opened_at), closed_at=_stamp(episode.closed_at) if episode.closed_at else None, repeat=repeat,
    )  # fmt: skip


def _stamp(at: Micros) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
