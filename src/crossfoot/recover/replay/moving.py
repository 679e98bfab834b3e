"""Moving members: from where they ended back to their queue, a group in one transaction.

That transaction decides and writes ahead. It holds the runner's fence, so that nothing is moved by a runner that was paused, aborted
or overtaken. Each member is judged again by its entries: one to which something has happened since the plan is left alone. For the
others it writes that they are *replayed*, with provenance, and either the queue's own row, where the queue is a table beside the
book, or a letter in the outbox, which is sent afterwards and sent again if nobody knows whether it was. So a runner that is killed
at any line leaves a member either where it was or on its way, and what is on its way twice is carried out once: its operation key
sees to that.

What follows is an attempt of its own, one after the last: so that what the queue answers outranks what came before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from crossfoot.books import replays, sql
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.fate import Fate, fold, posted_fate
from crossfoot.books.identity import CAME_TO_NOTHING
from crossfoot.books.queries import entries_of
from crossfoot.books.replays import Member, Replay
from crossfoot.books.store import Book, write_entries
from crossfoot.clock import SECOND, Micros, micros
from crossfoot.connection import Connection
from crossfoot.effects.outbox import BASE_ATTRIBUTE, Letter, numbered, token
from crossfoot.errors import EnvelopeInvalid, MessageTooLarge, UsageError
from crossfoot.message import decode
from crossfoot.message.priority import priority_of
from crossfoot.queues.queue import LocalQueue, Outgoing

LEAST_CLAIM: Micros = 5 * SECOND
"""For how long a runner's letters are its own to send: as long as it has the replay, and at least so long. Then any relay sends them."""


class Halted(Exception):
    """The replay is not this runner's to run any more, or not now."""


class Moved(msgspec.Struct, frozen=True):
    """A member that was moved.

    Attributes:
        base: the attempt that its deliveries go on from.
        cause: of what it had died.
    """

    message: int
    base: int
    cause: str | None
    moved_at: Micros


class Group(msgspec.Struct):
    """What one transaction came to: members moved, letters to be sent now, members left alone; and up to which key it looked."""

    moved: list[Moved] = []
    letters: list[Letter] = []
    changed: int = 0
    upto: int = 0


class Mover:
    """Moves members of one replay.

    Args:
        claim: names this runner; `hold` is for how many seconds nobody else runs it.
        local: the queue, if it is a table beside the book.
        buried: the broker's ids of dead letters, by `source|id`.
        horizon: seconds since its publication after which a member's operation may be forgotten.
    """

    def __init__(
        self, book: Book, replay: Replay, claim: str, *, hold: float, local: LocalQueue | None,
        buried: Mapping[str, Sequence[str]], horizon: float | None = None,
    ) -> None:  # fmt: skip
        self._book = book
        self._replay = replay
        self._claim = claim
        self._hold = micros(hold)
        self._local = local
        self._buried = buried
        self._horizon = None if horizon is None else micros(horizon)
        self._token = token()  # of its letters, which no other sender has

    def hold(self, connection: Connection, stage: int, now: Micros) -> None:
        """Keep the replay for this runner. Within the caller's transaction.

        Raises:
            Halted: it was paused or aborted, or another runner has it.
        """
        number = self._replay.number
        if connection.execute(replays.HOLD, (now + self._hold, stage, number, self._claim)).rowcount != 1:
            raise Halted

    def move(self, stage: int, count: int, after: int) -> Group:
        """Move up to so many members whose keys come after that one.

        Raises:
            Halted: nothing was moved.
        """
        now = self._book.clock.now()

        def move(connection: Connection) -> Group:
            self.hold(connection, stage, now)
            rows = connection.execute(replays.NEXT, (self._replay.number, after, count)).fetchall()
            group = Group(moved=[], letters=[], upto=after)
            posts: list[tuple[Any, ...]] = []
            statements: dict[str, list[Sequence[Any]]] = {}
            entries: list[Entry] = []
            for member in (self._whole(Member(*row)) for row in rows):
                group.upto = member.message
                summary_now = self._still(connection, member, now)
                if isinstance(summary_now, str):
                    group.changed += 1
                    connection.execute(replays.CHANGE_MEMBER, (stage, summary_now, self._replay.number, member.message))
                    continue
                body = member.after or member.body
                assert body is not None
                before = self._mend(connection, member)
                base = summary_now + 1
                entries.append(self._replayed(member, summary_now, now))
                entries += self._sent(member, body, base, now, posts, statements)
                letters = self._buried.get(member.identity)
                told = msgspec.json.encode(letters).decode() if letters else None
                connection.execute(
                    replays.MOVE_MEMBER, (stage, base, now, told, before, self._replay.number, member.message)
                )
                group.moved.append(Moved(member.message, base, member.cause, now))
            for statement, parameters in statements.items():
                connection.executemany(statement, parameters)
            for post, letter in zip(posts, numbered(connection, posts), strict=True):
                group.letters.append(Letter(letter, post[0], post[2], post[3], post[4], post[5], 1, post[7]))
            write_entries(connection, entries)
            return group

        done = self._book.write(move)
        if self._local is not None:
            self._local.wake()
        return done

    def _whole(self, member: Member) -> Member:
        """With what it carries as it was, where the service makes something else of that for the book."""
        body, after = (self._book.restored(member, stored) for stored in (member.body, member.after))
        return replace(member, body=body, after=after)

    def _still(self, connection: Connection, member: Member, now: Micros) -> int | str:
        """Its attempts, if it stands as the plan found it; or what is otherwise."""
        connection.execute(sql.LOCK_RECORD, (member.message,))
        summary = fold(entries_of(connection, member.message))
        fate = posted_fate(summary)
        if fate not in CAME_TO_NOTHING or summary.latest != member.latest:
            return f"it is {fate.label if fate is not None else 'unaccounted'}, and something happened to it since the plan"
        if self._horizon is not None and member.at < now - self._horizon:
            return "the horizon of deduplication has passed it since the plan: whether it was completed cannot be known any more"
        body = member.after or member.body
        if body is None:
            return "what it carried is gone since the plan"
        try:
            decode(body)
        except EnvelopeInvalid as error:
            return f"what it carries cannot be read: {error}"
        return summary.attempts

    def _mend(self, connection: Connection, member: Member) -> bytes | None:
        """Have the book keep what it will carry, if that is new. Returns what it carried before."""
        if member.after is None:
            return None
        contents = (
            member.subject, member.operation, member.correlation, member.causation, member.sequence,
            self._book.kept(member.after, type=member.type, subject=member.subject),
        )  # fmt: skip
        connection.execute(sql.REPLACE_CONTENT, (*contents, member.message))
        if member.before is not None or member.body is None:
            return member.before
        return self._book.sealed(member.body, type=member.type, subject=member.subject)

    def _replayed(self, member: Member, attempt: int, now: Micros) -> Entry:
        """Who sends it again, why, and from where."""
        told = {
            "replay": self._replay.number, "by": self._replay.by, "reason": self._replay.why, "from": Fate(member.fate).label,
        }  # fmt: skip
        if member.cause:
            told["of"] = member.cause
        if member.after is not None and member.before is not None:
            told["mended"] = True
        details = msgspec.json.encode(told).decode()
        return Entry(message=member.message, kind=Kind.REPLAYED, at=now, attempt=attempt, due=now, details=details)

    def _sent(
        self, member: Member, body: bytes, base: int, now: Micros, posts: list[tuple[Any, ...]],
        statements: dict[str, list[Sequence[Any]]],
    ) -> list[Entry]:  # fmt: skip
        """The copy on its way: a row of the queue beside the book, or a letter; with the entry that says so."""
        message = decode(body)
        partition = message.partitionkey or message.subject
        if self._local is None:
            until = now + max(self._hold, LEAST_CLAIM)
            posts.append(
                (member.message, self._replay.queue, member.identity, body, partition, base, until, self._token)
            )
            return [Entry(message=member.message, kind=Kind.INTENDED, at=now, attempt=base, due=now)]
        outgoing = Outgoing(
            key=member.identity, body=body, partition=partition, priority=priority_of(body),
            attributes={BASE_ATTRIBUTE: str(base)},
        )  # fmt: skip
        try:
            for statement, parameters in self._local.publish_statements([outgoing], now):
                statements.setdefault(statement, []).append(parameters)
        except (MessageTooLarge, UsageError) as error:
            details = msgspec.json.encode({"reason": str(error)}).decode()
            return [Entry(message=member.message, kind=Kind.REFUSED, at=now, attempt=base, details=details)]
        return [Entry(message=member.message, kind=Kind.PUBLISHED, at=now, attempt=base, due=now)]
