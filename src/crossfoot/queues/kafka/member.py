"""One member of the consumer group: a thread that polls, and passes on what comes to the event loop, in its order.

The client wants to be polled, whatever handlers do; so it has a thread of its own, and membership never waits for a handler. All
state is the event loop's. What the thread needs of it is asked for, or counted in numbers that only one side writes.

A partition that is taken away is told to the event loop, and only when that has answered, with the offset to commit, is it let
go: from then on nobody commits an offset of it. Where the loop does not answer in time, it is let go without a commit.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from crossfoot.queues.kafka.answers import import_client
from crossfoot.queues.kafka.flow import Flow
from crossfoot.queues.kafka.messages import Came, came_of
from crossfoot.queues.kafka.stillness import Stillness

T = TypeVar("T")

_log = logging.getLogger("crossfoot.queues.kafka")

POLL_SECONDS = 0.1
BUSY_SECONDS = 0.003
"""How long one poll waits while something is in hand. The client is one thread's, and a commit waits until it is not polled."""

AT_ONCE = 200
"""Messages that are passed on together."""

LOOP_SECONDS = 5.0
"""How long the thread waits for the event loop when a partition is taken away."""

LOOK_SECONDS = 5.0
"""How long one look-up of where to begin may take; it is repeated."""

ASK_AGAIN_SECONDS = 0.2


class Owner(Protocol):
    """Who is told, in the event loop."""

    def assigned(self, starts: dict[int, int]) -> None: ...
    def taken_away(self, partitions: list[int], *, lost: bool) -> dict[int, int]:
        """Returns the offsets to commit before they are let go."""
        ...

    def came(self, messages: list[tuple[int, Came]]) -> None: ...
    def reached(self, partition: int, end: int) -> None: ...
    def forgotten(self, partition: int, begin: int, start: int) -> None:
        """What was between is gone from the log, unread."""
        ...

    def committed(self, error: str, offsets: dict[int, int]) -> None: ...
    def ended(self, why: str) -> None: ...


class Member:
    """A member of the group, for as long as it lives.

    Args:
        settings: the client's, complete but for what concerns callbacks.
    """

    def __init__(self, topic: str, settings: dict[str, Any], flow: Flow, owner: Owner) -> None:
        self.loop = asyncio.get_running_loop()
        self.busy: Callable[[], bool] = lambda: False
        """Whether somebody may want to commit soon."""
        self.over: Future[None] = Future()
        self._topic = topic
        self._settings = settings
        self._flow = flow
        self._owner = owner
        self._batch: list[tuple[int, Came]] = []
        self._owned: set[int] = set()
        """The partitions whose offsets may be committed."""
        self._orders: deque[dict[int, int]] = deque()
        """Commits that are asked for."""
        self._next: dict[int, int] = {}
        """What is to be read next of each partition."""
        self._stillness = Stillness(time.monotonic())
        self._client: Any = None
        self._kafka: Any = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"kafka-{topic}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Leave the group; `over` is done when that has happened."""
        self._stopping.set()

    def commit(self, offsets: dict[int, int]) -> None:
        """Ask for it; the answer comes to the owner. What is not ours when its turn comes is left out."""
        self._orders.append(offsets)

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        why = ""
        try:
            self._kafka = import_client()
            client = self._client = self._kafka.Consumer({**self._settings, "on_commit": self._on_commit})
            try:
                client.subscribe(
                    [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
                )
                while not self._stopping.is_set() and not why:
                    why = self._turn(client)
            finally:
                client.close()
        except Exception as error:  # noqa: BLE001 - a thread has nobody above it: whoever waits is told
            why = why or str(error) or type(error).__name__
        self._owned.clear()
        self._tell(lambda: self._owner.ended(why or "it was closed here"))
        self.over.set_result(None)

    def _turn(self, client: Any) -> str:
        """Poll, and pass on what came. Returns why it cannot go on, if so."""
        while self._orders:
            self._commit(client, self._orders.popleft())
        message = client.poll(BUSY_SECONDS if self.busy() else POLL_SECONDS)
        if message is not None:
            self._stillness.heard(time.monotonic())
        elif self._stillness.is_due(time.monotonic()) and (why := self._look(client)):
            return why
        while message is not None:
            if (error := message.error()) is None:
                self._batch.append((message.partition(), came_of(message)))
                self._flow.taken[message.partition()] = self._flow.taken.get(message.partition(), 0) + 1
                self._next[message.partition()] = message.offset() + 1
                self._flow.bytes_taken += self._batch[-1][1].size
            elif why := self._heed(client, message.partition(), message.offset(), error):
                return why
            if len(self._batch) >= AT_ONCE or self._stopping.is_set():
                break
            message = client.poll(0)
        self._pass_on()
        pause, resume = self._flow.changes()
        if pause:
            client.pause(self._places(dict.fromkeys(pause, 0)))
        if resume:
            client.resume(self._places(dict.fromkeys(resume, 0)))
        return ""

    def _look(self, client: Any) -> str:
        """Ask the log whether it has more. Returns why it cannot go on, if so."""
        try:
            topic = client.list_topics(self._topic, timeout=LOOK_SECONDS).topics[self._topic]
            places = client.committed(self._places(dict.fromkeys(topic.partitions, 0)), timeout=LOOK_SECONDS)
            ends = {
                place.partition: (place.offset, client.get_watermark_offsets(place, timeout=LOOK_SECONDS)[1])
                for place in places
            }
        except self._kafka.KafkaException:  # nobody answers: that nothing comes is no wonder
            ends = {}
        reading = {one: self._next[one] for one in self._owned if one not in self._flow.paused and one in self._next}
        return self._stillness.judge(time.monotonic(), ends, reading) if not self._flow.paused else ""

    def _commit(self, client: Any, offsets: dict[int, int]) -> None:
        mine = {partition: offset for partition, offset in offsets.items() if partition in self._owned}
        why = "its partition was taken away"
        if mine == offsets:
            try:
                client.commit(offsets=self._places(mine), asynchronous=True)
                return
            except self._kafka.KafkaException as error:
                why = str(error)
        self._tell(lambda: self._owner.committed(why, offsets))

    def _heed(self, client: Any, partition: int, offset: int | None, error: Any) -> str:
        """What an event that is no message says. Returns why it cannot go on, if so."""
        name = error.name()
        if name == "_PARTITION_EOF":
            self._pass_on()
            end = self._next[partition] = int(offset or 0)
            self._tell(lambda: self._owner.reached(partition, end))
        elif name in ("_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"):
            self._pass_on()
            self._begin_again(client, partition)
        elif error.fatal() or name in (
            "_MAX_POLL_EXCEEDED",
            "UNKNOWN_TOPIC_OR_PART",
            "TOPIC_AUTHORIZATION_FAILED",
            "GROUP_AUTHORIZATION_FAILED",
        ):
            return f"{error.str()} ({name})"
        else:
            _log.warning("topic %s: %s (%s)", self._topic, error.str(), name)
        return ""

    def _begin_again(self, client: Any, partition: int) -> None:
        """Its log is said not to have the offset that is to be read next: it begins behind it, or ends before it, or has it after all."""
        wanted = self._next.get(partition, 0)
        low, high = self._bounds(client, partition)
        start = wanted if low <= wanted <= high else low
        if start != wanted:
            self._next[partition] = start
            self._tell(lambda: self._owner.forgotten(partition, wanted, start))
        client.incremental_unassign(self._places({partition: 0}))
        client.incremental_assign(self._places({partition: start}))
        self._flow.paused.discard(partition)  # what is assigned anew is not

    # ---- callbacks, in the thread --------------------------------------------------------------------------------------

    def _on_assign(self, client: Any, places: list[Any]) -> None:
        self._stillness.heard(time.monotonic())
        self._pass_on()
        starts = self._starts(client, [place.partition for place in places])
        for partition in starts:
            self._flow.taken[partition] = 0
        self._flow.paused.difference_update(starts)
        self._next.update(starts)
        self._ask(lambda: self._owner.assigned(starts))
        self._owned.update(starts)
        client.incremental_assign(self._places(starts))

    def _on_revoke(self, client: Any, places: list[Any]) -> None:
        self._let_go(client, [place.partition for place in places], lost=False)

    def _on_lost(self, client: Any, places: list[Any]) -> None:
        self._let_go(client, [place.partition for place in places], lost=True)

    def _let_go(self, client: Any, partitions: list[int], *, lost: bool) -> None:
        self._batch = [one for one in self._batch if one[0] not in partitions]
        self._pass_on()
        mine = self._owned.intersection(partitions)
        self._owned -= mine
        offsets = self._ask(lambda: self._owner.taken_away(sorted(mine), lost=lost)) if mine else None
        for partition in partitions:
            self._flow.taken.pop(partition, None)
            self._flow.paused.discard(partition)
        if offsets and not lost:
            try:
                client.commit(offsets=self._places(offsets), asynchronous=False)
            except self._kafka.KafkaException as error:
                _log.info("topic %s: what was settled last comes again: %s", self._topic, error)

    def _on_commit(self, error: Any, places: list[Any]) -> None:
        offsets = {place.partition: place.offset for place in places if place.offset >= 0}
        failed = error or next((place.error for place in places if place.error is not None), None)
        text = f"{failed.str()} ({failed.name()})" if failed is not None else ""
        self._tell(lambda: self._owner.committed(text, offsets))

    # ---- parts -------------------------------------------------------------------------------------------------------

    def _starts(self, client: Any, partitions: Iterable[int]) -> dict[int, int]:
        """Where each is read from: where the group has committed, else from the first offset there ever was.

        An offset that the log does not have is found when it is read, and told then.
        """

        def ask() -> dict[int, int]:
            places = client.committed(self._places(dict.fromkeys(partitions, 0)), timeout=LOOK_SECONDS)
            for place in places:
                if place.error is not None:
                    raise self._kafka.KafkaException(place.error)
            return {place.partition: max(0, place.offset) for place in places}

        return self._asked(ask, otherwise={})

    def _bounds(self, client: Any, partition: int) -> tuple[int, int]:
        """Where its log begins, and where it ends."""
        (place,) = self._places({partition: 0})
        return self._asked(lambda: client.get_watermark_offsets(place, timeout=LOOK_SECONDS), otherwise=(0, 0))

    def _asked(self, ask: Callable[[], T], *, otherwise: T) -> T:
        """Ask until it is answered, or told to stop."""
        while not self._stopping.is_set():
            try:
                return ask()
            except self._kafka.KafkaException as error:
                _log.warning("topic %s: where to begin cannot be learned, it is asked again: %s", self._topic, error)
                time.sleep(ASK_AGAIN_SECONDS)
        return otherwise

    def _places(self, offsets: dict[int, int]) -> list[Any]:
        return [self._kafka.TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]

    def _pass_on(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._tell(lambda: self._owner.came(batch))

    def _tell(self, call: Callable[[], object]) -> None:
        try:
            self.loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            self._stopping.set()

    def _ask(self, call: Callable[[], Any]) -> Any:
        """Have the loop do it, and wait for it; `None` when it does not come to it."""
        answer: Future[Any] = Future()

        def run() -> None:
            try:
                answer.set_result(call())
            except BaseException as error:
                answer.set_exception(error)
                raise

        self._tell(run)
        try:
            return answer.result(LOOP_SECONDS if not self._stopping.is_set() else 1.0)
        except TimeoutError:
            _log.warning("topic %s: the event loop did not answer within %g s", self._topic, LOOP_SECONDS)
            return None
