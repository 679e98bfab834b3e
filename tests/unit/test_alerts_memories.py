"""What queues say of themselves is asked now and then, kept in between, and never taken for more than it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from crossfoot.books.entry import Kind
from crossfoot.books.losing import Memory
from crossfoot.books.posting import post_all
from crossfoot.cli import alerts_memories
from crossfoot.cli.alerts_memories import EVERY, Memories
from crossfoot.queues.telling import Told
from crossfoot.recover.checklist.survey import Attached, Service
from tests.unit.alert_rig import DAY
from tests.unit.book_rig import QUEUE, Lectern


class Broker:
    """Somebody who is asked: it counts how often, and may not answer."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = True
        self.seconds = 0.0
        self.told: list[str] = []

    def service_of(self, path: str, names: list[str], app: None, *, ask: bool) -> Service:
        self.asked += 1
        if not self.answers or not ask:
            return Service(unasked=tuple(f"queue {name} (it is down)" for name in names))
        told = Told(dead_retention=14 * DAY, since_origin=True)
        return Service(attached={name: Attached(name=name, retention=4 * DAY, told=told, held=7) for name in names})

    def memories(self, **options: Any) -> Memories:
        return Memories(**options, tell=self.told.append, clock=lambda: self.seconds)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Broker:
    made = Broker()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CROSSFOOT_QUEUE", "sqs:billing")
    monkeypatch.setattr(alerts_memories, "service_of", made.service_of)
    return made


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    made = Lectern(tmp_path / "book.db")
    made.story("a", (Kind.PUBLISHED, 0))
    post_all(made.book)
    yield made
    made.close()


def of(memories: Memories, desk: Lectern) -> Memory:
    with desk.book.reading() as connection:
        return memories.of(str(desk.book.path), connection)[QUEUE]


SAID = Memory(messages=4 * DAY, dead=14 * DAY, since_origin=True, held=7)


def test_it_is_asked_every_five_minutes_and_not_at_every_look(broker: Broker, desk: Lectern) -> None:
    memories = broker.memories()
    for second in range(0, 601, 15):
        broker.seconds = float(second)
        assert of(memories, desk) == SAID
    assert broker.asked == 1 + 600 // EVERY


def test_a_queue_that_is_new_is_asked_at_once(broker: Broker, desk: Lectern) -> None:
    memories = broker.memories()
    of(memories, desk)
    desk.story("b", (Kind.PUBLISHED, 0), queue="letters")
    post_all(desk.book)
    with desk.book.reading() as connection:
        assert memories.of(str(desk.book.path), connection).keys() == {QUEUE, "letters"}
    assert broker.asked == 2


def test_of_one_that_is_down_is_known_how_it_was_set_and_not_what_it_holds(broker: Broker, desk: Lectern) -> None:
    memories = broker.memories()
    of(memories, desk)
    broker.answers, broker.seconds = False, EVERY
    assert of(memories, desk) == Memory(messages=4 * DAY, dead=14 * DAY, since_origin=True, held=None)
    (told,) = broker.told
    assert f"queue {QUEUE} (it is down)" in told
    broker.seconds += EVERY
    of(memories, desk)
    assert len(broker.told) == 1, "once"


def test_of_one_that_never_answered_nothing_is_known(broker: Broker, desk: Lectern) -> None:
    broker.answers = False
    found = of(broker.memories(), desk)
    assert (found.messages, found.dead, found.held) == (UNSET, UNSET, None)


def test_what_somebody_states_goes_before_what_it_says(broker: Broker, desk: Lectern) -> None:
    stated = {"retention": 60.0, "dead_retention": 120.0}
    assert of(broker.memories(**stated), desk) == Memory(messages=60.0, dead=120.0, since_origin=True, held=7)
    found = of(broker.memories(**stated, ask=False), desk)
    assert found == Memory(messages=60.0, dead=120.0, since_origin=True, held=None)
