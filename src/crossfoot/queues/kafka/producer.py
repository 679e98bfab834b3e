"""Publishing: every message confirmed by itself, by all replicas that are in step, and never twice by the client's own doing.

The client repeats what was not answered, in a way that the broker recognises (`enable.idempotence`), until the timeout. What has no
answer by then is in doubt. Whether anything can be sent at all is asked before, where nothing was heard for a while: then it is
certain that nothing left.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

import anyio
from anyio import CancelScope, Lock, to_thread

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.kafka.answers import import_client, publish_answer
from crossfoot.queues.kafka.messages import FRAME, Entry
from crossfoot.queues.queue import Accepted, Doubtful, PublishAnswer, Refused

AT_ONCE = 1_000
"""Messages of one call that wait for their reports at the same time."""

QUIET_SECONDS = 5.0
"""After which it is asked first whether anybody is there."""

MARGIN_SECONDS = 5.0
"""By which the client's own timeout may be late."""


class Producer:
    """Publishes to one cluster.

    Args:
        settings: the client's: servers and credentials.
        label, topic, shown: the queue's name, its topic and its servers.
        timeout: seconds until a message without an answer is given up, and in doubt.
        max_bytes: the largest message, attributes included.
    """

    def __init__(
        self, settings: dict[str, Any], *, label: str, topic: str, shown: str, timeout: float, max_bytes: int
    ) -> None:  # fmt: skip
        milliseconds = round(timeout * 1_000)
        self._settings = {
            "linger.ms": 1,
            **settings,
            "acks": "all",
            "enable.idempotence": True,
            "delivery.timeout.ms": milliseconds,
            "request.timeout.ms": milliseconds,
            "message.max.bytes": max(1_000, max_bytes + 64 * 1024 + FRAME),
            "error_cb": self._failed,
        }
        self._label = label
        self._topic = topic
        self._shown = shown
        self._timeout = timeout
        self._making = Lock()
        self._client: Any = None
        self._polling: threading.Thread | None = None
        self._over = threading.Event()
        self._heard = float("-inf")
        self._broken = 0
        """How often a connection ended, or could not be made."""

    async def send(self, entries: Sequence[Entry]) -> list[PublishAnswer]:
        """One answer per entry, in order.

        Raises:
            QueueUnavailable: not one entry left. If some did, the others are refused, not permanently.
        """
        answers: list[PublishAnswer] = []
        for begin in range(0, len(entries), AT_ONCE):
            part = entries[begin : begin + AT_ONCE]
            try:
                client = await self._ready()
            except QueueUnavailable as error:
                if not answers:
                    raise
                answers += [Refused(entry.key, str(error), permanent=False) for entry in part]
                continue
            with CancelScope(shield=True):  # whoever is cancelled now would not know what became of it
                answers += await self._together(client, part)
        return answers

    async def close(self) -> None:
        """Wait for what is on its way, as long as the timeout."""
        client, self._client = self._client, None
        self._over.set()
        if client is not None:
            with CancelScope(shield=True):
                await to_thread.run_sync(client.flush, self._timeout)

    # ---- parts -------------------------------------------------------------------------------------------------------

    async def _ready(self) -> Any:
        async with self._making:
            if self._client is None:
                self._client = await to_thread.run_sync(self._make)
                self._heard = float("-inf")
            client = self._client
            if anyio.current_time() - self._heard > QUIET_SECONDS:
                await to_thread.run_sync(self._must_answer, client)
                self._heard = anyio.current_time()
            return client

    def _make(self) -> Any:
        kafka = import_client()
        try:
            client = kafka.Producer(self._settings)
        except kafka.KafkaException as error:
            raise QueueUnavailable(f"queue {self._label}: the client takes these settings not: {error}") from error
        self._over = over = threading.Event()

        def poll() -> None:
            while not over.is_set() or len(client):  # until all has its report
                client.poll(0.1)

        self._polling = threading.Thread(target=poll, name=f"kafka-{self._label}-reports", daemon=True)
        self._polling.start()
        return client

    def _must_answer(self, client: Any) -> None:
        kafka = import_client()
        try:
            found = client.list_topics(self._topic, timeout=self._timeout).topics[self._topic]
        except kafka.KafkaException as error:
            raise QueueUnavailable(
                f"queue {self._label} cannot be reached at {self._shown}, nothing was sent: {error}. Check the address, and "
                "whether the server runs"
            ) from error
        if found.error is not None:
            raise QueueUnavailable(
                f"queue {self._label}: topic {self._topic} at {self._shown} takes nothing, nothing was sent: {found.error.str()}"
            )

    async def _together(self, client: Any, entries: Sequence[Entry]) -> list[PublishAnswer]:
        kafka = import_client()
        reports: list[Future[PublishAnswer]] = []
        for entry in entries:
            report: Future[PublishAnswer] = Future()
            reports.append(report)
            try:
                client.produce(
                    entry.topic,
                    value=entry.body,
                    key=entry.line,
                    headers=entry.headers,
                    on_delivery=self._telling(entry.key, report),
                )
            except BufferError:
                report.set_result(
                    Refused(entry.key, "the client's own queue is full; nothing was sent", permanent=False)
                )
            except kafka.KafkaException as error:  # raised before it is sent
                said = publish_answer(entry.key, error.args[0])
                report.set_result(
                    said if isinstance(said, Refused) else Refused(entry.key, str(error), permanent=False)
                )
        with anyio.move_on_after(self._timeout + MARGIN_SECONDS):
            await asyncio.gather(*map(asyncio.wrap_future, reports))
        answers = [
            report.result() if report.done() and not report.cancelled()
            else Doubtful(entry.key, f"no report within {self._timeout:g} s")
            for entry, report in zip(entries, reports, strict=True)
        ]  # fmt: skip
        if any(isinstance(answer, Accepted) for answer in answers):
            self._heard = anyio.current_time()
        elif any(isinstance(answer, Doubtful) for answer in answers):
            self._heard = float("-inf")
            await self._anew(client)
        return answers

    async def _anew(self, client: Any) -> None:
        """After a doubt the next publish has a client of its own: one that met a fatal error takes nothing any more."""
        if client is self._client:
            self._client = None
            self._over.set()

    def _failed(self, error: Any) -> None:
        self._broken += 1

    def _telling(self, key: str, report: Future[PublishAnswer]) -> Any:
        """What takes the report of a message that is sent now.

        Where a connection ended meanwhile, the message may have been sent twice, and the first time stored: what is refused is the second.
        """
        broken = self._broken

        def tell(error: Any, message: Any) -> None:
            with suppress(InvalidStateError):  # nobody waits for it any more
                if error is None:
                    report.set_result(Accepted(key, f"{message.topic()}/{message.partition()}/{message.offset()}"))
                else:
                    report.set_result(publish_answer(key, error, sent_once=broken == self._broken))

        return tell
