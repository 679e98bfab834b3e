"""Everything the book knows of one message, read in one snapshot."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from crossfoot.books import expected, queries
from crossfoot.books.archive.seal import Seal
from crossfoot.books.entry import PROOFS, Kind
from crossfoot.books.fate import Fate, Patience, Summary, fate_of, fold
from crossfoot.books.habits import Habit, habit, has_outcomes
from crossfoot.books.promised import Promise
from crossfoot.books.queries import CauseRow, Fact, OperationRow, OutcomeRow, Row, WorkerRow
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.errors import EnvelopeInvalid
from crossfoot.message import decode
from crossfoot.recover.chain import Chain, follow
from crossfoot.recover.happening import happened
from crossfoot.recover.records import Records


class Relative(msgspec.Struct, frozen=True):
    """Another message, and how it stands."""

    row: Row
    fate: Fate | None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the book knows of one message.

    Attributes:
        entries: in the order in which they happened (see `happening`).
        operation: the record of its operation key, whichever message completed it.
        stated: the operation that the message itself states; where its payload was not kept, the one it had.
        owner: that message, when it is another one.
        parents: the message that caused it, once per queue; `children` those it caused.
        chain: of causes, through this message.
        habit: what others of its type and queue came to, where it has not been handled to an end, or took effect without an outcome.
        promised: outcomes that the program promises after every message of its type.
        promises: what is expected of this one, and what came of that.
        seal: under which it lies in the archive; `late` is the number of entries that came after that.
    """

    row: Row
    entries: tuple[Fact, ...]
    workers: dict[int, WorkerRow]
    causes: dict[str, CauseRow]
    operation: OperationRow | None
    stated: str | None
    owner: Relative | None
    outcomes: tuple[OutcomeRow, ...]
    parents: tuple[Relative, ...]
    children: tuple[Relative, ...]
    seal: Seal | None = None
    late: int = 0
    chain: Chain = Chain()
    habit: Habit | None = None
    promised: tuple[str, ...] = ()
    promises: tuple[Promise, ...] = ()

    @property
    def summary(self) -> Summary:
        return fold(self.entries)

    def last(self, *kinds: Kind) -> Fact | None:
        """The highest-ranking entry of these kinds (of any kind, without)."""
        found = [entry for entry in self.entries if entry.kind in kinds or not kinds]
        return max(found, key=lambda entry: (entry.rank, entry.number), default=None)

    @property
    def sent_again(self) -> Fact | None:
        """The publication that came after its end, if one did, and nothing is known of that copy yet."""
        latest = self.last()
        later = self.entries[self.entries.index(latest) + 1 :] if latest is not None else ()
        return next((entry for entry in reversed(later) if entry.kind is Kind.PUBLISHED), None)

    def worker(self, entry: Fact | None) -> WorkerRow | None:
        return self.workers.get(entry.worker) if entry is not None else None

    def cause(self, entry: Fact | None) -> str:
        """A failure in one line: its title and its own words."""
        if entry is None:
            return ""
        title = self.causes[entry.cause].title if entry.cause in self.causes else ""
        told = details(entry)
        text = str(told.get("text") or told.get("reason") or "")
        return ": ".join(part for part in (title or str(told.get("error") or ""), text) if part)


def details(entry: Fact) -> dict[str, Any]:
    """What the entry holds for people; nothing of it is relied on."""
    return told_in(entry.details)


def told_in(text: str | None) -> dict[str, Any]:
    """The details of an entry; text that is no JSON object is given as `text`."""
    if not text:
        return {}
    try:
        told = json.loads(text)
    except ValueError:
        return {"text": text}
    return told if isinstance(told, dict) else {"text": str(told)}


def gather(records: Records, row: Row, now: Micros, patience: Patience) -> Facts:
    """Read the facts. Within the caller's read transaction."""
    connection = records.connection
    entries = records.entries_of(row)
    operation = _operation(records, row, entries)
    owner = records.rows_of([operation.message]).get(operation.message) if operation else None
    if operation is not None and owner is not None and _are_one(owner, row):
        operation, owner = msgspec.structs.replace(operation, message=row.key), None
    ended = any(entry.kind in PROOFS and entry.kind is not Kind.SUPERSEDED for entry in entries)
    committed, outcomes = any(entry.kind is Kind.COMMITTED for entry in entries), tuple(records.outcomes_of(row))
    archived = {entry[0] for story in records.stories_of(row) for entry in story.entries}

    def relative(of: Row) -> Relative:
        return Relative(of, stand(records, of, now, patience))

    return Facts(
        row=row,
        entries=tuple(happened(entries)),
        workers=queries.workers(connection, {entry.worker for entry in entries if entry.worker}),
        causes=queries.causes(connection, {entry.cause for entry in entries if entry.cause}),
        operation=operation,
        stated=_stated(records.body_of(row), row),
        owner=relative(owner) if owner is not None else None,
        outcomes=outcomes,
        parents=tuple(map(relative, records.parents_of(row))),
        children=tuple(map(relative, records.children_of(row))),
        chain=follow(records, row, lambda of: stand(records, of, now, patience)),
        seal=records.seal_of(row),
        late=len(entries) - len(archived) if archived else 0,
        habit=habit(connection, row.queue, row.type)
        if not ended or (committed and not outcomes and has_outcomes(connection))
        else None,
        promised=() if ended else tuple(_promised(connection, row.type)),
        promises=records.promises_of([row])[row.key],
    )


def _promised(connection: Connection, type_: str) -> list[str]:
    """Outcomes that are expected after messages of this type, by the book."""
    stated = (told_in(one.definition) for one in expected.kept(connection))
    return [str(one["outcome"]) for one in stated if one.get("after") == type_ and one.get("outcome")]


def _are_one(one: Row, other: Row) -> bool:
    """Whether they are the same message, under whichever keys."""
    return (one.source, one.id, one.queue) == (other.source, other.id, other.queue)


def _stated(body: bytes | None, row: Row) -> str | None:
    if body is None:
        return row.operation
    try:
        return decode(body).operation
    except EnvelopeInvalid:  # nothing could be read of it, or the service has it stored veiled
        return row.operation


def stand(records: Records, row: Row, now: Micros, patience: Patience) -> Fate | None:
    """The fate of a message by its own entries, posted or not."""
    return fate_of(fold(records.entries_of(row)), now, patience)


def _operation(records: Records, row: Row, entries: list[Fact]) -> OperationRow | None:
    """The operation it completed; or else the one it asked for, which another message may have completed."""
    own = records.operation_of(row)
    if own is not None:
        return _completed(own, entries)
    named = [str(told["operation"]) for entry in entries if (told := details(entry)).get("operation")]
    for key in (*named, row.operation):
        if key and (found := records.operation(key)) is not None:
            owner = records.rows_of([found.message]).get(found.message)
            return _completed(found, records.entries_of(owner) if owner is not None else [])
    return None


def _completed(operation: OperationRow, entries: list[Fact]) -> OperationRow:
    """As of its completion: the key itself is written when the handler begins."""
    ends = [entry.at for entry in entries if entry.kind == operation.kind]
    return msgspec.structs.replace(operation, at=max(ends)) if ends else operation
