"""Law 3: once. The effect, its operation key, its entries and the messages it sends commit in one transaction, or not at all.

Deliveries of a few operations, in any order and any grouping, whose handlers succeed, fail half-way, swallow what fails,
have nothing to do, or die before the commit. What each comes to, and what is in the file afterwards, is told by a model
of a few lines that knows nothing of SQL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot import boundaries
from crossfoot.books.entry import Kind
from crossfoot.books.record import record_of
from crossfoot.books.store import Book
from crossfoot.boundaries import Boundary
from crossfoot.effects.databases.sqlite import SqliteDatabase
from crossfoot.effects.handler import Handler
from crossfoot.effects.hold import Hold
from crossfoot.effects.operation import operation_key
from crossfoot.effects.perform import perform
from crossfoot.effects.proof import Noop
from crossfoot.effects.together import perform_batch
from crossfoot.effects.work import Work
from crossfoot.message import Message, encode

OPERATIONS = 4


class Act(IntEnum):
    """What a handler does."""

    BILL = 0
    BILL_AND_TELL = 1
    DECLINE = 2
    RAISE_AFTER_THE_EFFECT = 3
    SWALLOW = 4
    SWALLOW_IN_A_SAVEPOINT = 5


class Delivery(NamedTuple):
    """One message of one operation; the same one may come again, and behave otherwise."""

    operation: int
    message: int
    act: Act

    @property
    def name(self) -> str:
        """Some messages are asked for another operation by another version of the program."""
        return f"{self.message}" if self.message < OPERATIONS else f"{self.operation}.{self.message}"


class Group(NamedTuple):
    """Deliveries of one transaction, to one version; all of it is lost when its worker dies before the commit."""

    deliveries: list[Delivery]
    dies: bool


def _delivery(code: int, again: int, version: int) -> Delivery:
    message = code // 4 % 8 + 8 * (again % 8)
    operation = message + version if message < OPERATIONS else code
    return Delivery(operation % OPERATIONS, message, Act(code // 32 % len(Act)))


@st.composite
def _groups(draw: st.DrawFn) -> list[Group]:
    sizes = draw(st.lists(st.sampled_from((1, 1, 2, 3, 5, 26, 55)), min_size=1, max_size=4))
    groups = []
    for size in sizes:
        version, codes = draw(st.integers(0, 1)), draw(st.binary(min_size=2 * size, max_size=2 * size))
        deliveries = [_delivery(code, again, version) for code, again in zip(codes[:size], codes[size:], strict=True)]
        groups.append(Group(deliveries, draw(st.integers(0, 4)) == 0))
    return groups


GROUPS = _groups()


class Died(BaseException):
    """The end of a worker, as near as one process can come to it."""


class Till:
    """A file with a book and a table of effects, which would take a second row; and one lane's session."""

    def __init__(self, path: Path) -> None:
        self.book = Book(path, synchronous="OFF").open()
        with self.book.writing() as connection:
            connection.execute("CREATE TABLE effects (operation TEXT)")
        self.database = SqliteDatabase(str(path), synchronous="OFF")
        self.session = self.database.connect()
        self._numbers = count(1)
        self._handler = Handler(
            name="bill",
            service="billing",
            type="*",
            function=_handle,
            operation=operation_key("{subject}", handler="bill"),
        )

    def close(self) -> None:
        self.session.close()
        self.book.close()

    def clear(self) -> None:
        with self.book.writing() as connection:
            for table in ("messages", "entries", "operations", "outbox"):
                connection.execute(f"DELETE FROM crossfoot_{table}")
            connection.execute("DELETE FROM effects")

    def perform(self, group: Group) -> list[Kind | Exception]:
        works = [self._work(one) for one in group.deliveries]
        if group.dies:
            boundaries.install(_die)
        try:
            if len(works) > 1:
                return perform_batch(works, self.session)
            try:
                return [perform(works[0], self.session, self.database)]
            except Exception as error:  # noqa: BLE001 - how this delivery ended
                return [error]
        finally:
            boundaries.install(None)

    def counted(self, sql: str) -> Counter[str]:
        with self.book.reading() as connection:
            return Counter(str(row[0]) for row in connection.execute(sql))

    def _work(self, one: Delivery) -> Work:
        message = Message(
            type="case.released", source="tests", id=one.name, subject=f"op-{one.operation}",
            data=int(one.act), time=1,
        )  # fmt: skip
        body = encode(message)
        (key,) = self.book.keys_of([record_of(message, "billing", now=1, body=body)])
        hold = Hold(key=key, delivery=next(self._numbers), attempt=1, worker=0, queue="billing", body=body)
        return Work(self._handler, message, hold, self.book.clock)


def _die(boundary: Boundary) -> None:
    if boundary is Boundary.BEFORE_COMMIT:
        raise Died


def _handle(message: Message, tx: Any) -> Any:
    act, insert = Act(message.data), ("INSERT INTO effects VALUES (?)", (message.subject,))
    if act is Act.DECLINE:
        return Noop("nothing to bill")
    if act is Act.SWALLOW:
        with suppress(ZeroDivisionError):
            tx.execute("INSERT INTO effects VALUES (?)", (str(1 // 0),))
        return None
    if act is Act.SWALLOW_IN_A_SAVEPOINT:
        tx.execute("SAVEPOINT try")
        tx.execute(*insert)
        tx.execute("ROLLBACK TO try")
        tx.execute("RELEASE try")
        return None
    tx.execute(*insert)
    if act is Act.RAISE_AFTER_THE_EFFECT:
        raise RuntimeError("half-way")
    if act is Act.BILL_AND_TELL:
        tx.send("invoice.issued", subject=message.subject)
    return None


class Expected(NamedTuple):
    """What the model says."""

    ends: list[Kind | None]
    """Of every delivery whose worker lived; `None` where it must have failed."""
    effects: Counter[str]
    closed: Counter[str]
    told: int


def expect(groups: Sequence[Group]) -> Expected:
    """One after the other, whatever the grouping: the first that ends well completes its operation."""
    ends: list[Kind | None] = []
    effects: Counter[str] = Counter()
    closed: Counter[str] = Counter()
    told = 0
    completed: set[str] = set()
    for group in groups:
        if group.dies and (len(group.deliveries) > 1 or _gets_that_far(group.deliveries[0], closed, completed)):
            continue
        for one in group.deliveries:
            name = f"op-{one.operation}"
            if closed[name] or one.name in completed:
                ends.append(Kind.SUPPRESSED)
            elif one.act in (Act.BILL, Act.BILL_AND_TELL):
                ends.append(Kind.COMMITTED)
                effects[name] += 1
                closed[name] += 1
                told += one.act is Act.BILL_AND_TELL
                completed.add(one.name)
            elif one.act is Act.DECLINE:
                ends.append(Kind.NOOP)
                closed[name] += 1
                completed.add(one.name)
            else:
                ends.append(None)
    return Expected(ends, +effects, +closed, told)


def _gets_that_far(one: Delivery, closed: Counter[str], completed: set[str]) -> bool:
    """Whether a delivery by itself reaches its commit; what fails before it dies of that."""
    done = bool(closed[f"op-{one.operation}"]) or one.name in completed
    return done or one.act in (Act.BILL, Act.BILL_AND_TELL, Act.DECLINE)


@pytest.fixture(scope="module")
def till(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Till]:
    made = Till(tmp_path_factory.mktemp("till") / "billing.db")
    yield made
    made.close()


@given(groups=GROUPS)
def test_every_operation_has_its_effect_once_whatever_comes_and_however_it_is_grouped(
    till: Till, groups: list[Group]
) -> None:
    till.clear()
    ends: list[Kind | None] = []
    for group in groups:
        with suppress(Died):
            ends += [end if isinstance(end, Kind) else None for end in till.perform(group)]
    expected = expect(groups)

    assert ends == expected.ends
    assert till.counted("SELECT operation FROM effects") == expected.effects
    assert till.counted("SELECT key FROM crossfoot_operations") == expected.closed
    assert till.counted("SELECT 'told' FROM crossfoot_outbox")["told"] == expected.told
    written = till.counted(f"SELECT kind FROM crossfoot_entries WHERE kind <> {Kind.INTENDED.value}")
    assert written == Counter(str(end.value) for end in ends if end is not None)
