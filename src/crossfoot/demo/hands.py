"""What somebody does to a queue without telling us: with a connection or a client of their own, past every book."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any, Protocol

from crossfoot.queues.queue import Delivery, Done, Queue
from crossfoot.sqlite import connect


class Hands(Protocol):
    """Somebody else's hands on the queue. Synchronous: to be called in a thread."""

    def delete(self, delivery: Delivery) -> bool:
        """Delete a message. Whether it was there."""
        ...

    def show(self, delivery: Delivery) -> None:
        """End the lease of a delivery now, so that the message is delivered again; nothing if it was already."""
        ...


class EmbeddedHands:
    """SQL typed into the queue's file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def delete(self, delivery: Delivery) -> bool:
        return self._execute("DELETE FROM crossfoot_queue WHERE key = ?", (int(delivery.broker_id),)) == 1

    def show(self, delivery: Delivery) -> None:
        key, _, token = delivery.receipt.partition(".")
        self._execute("UPDATE crossfoot_queue SET visible_at = 0 WHERE key = ? AND token = ?", (int(key), token))

    def _execute(self, sql: str, parameters: tuple[object, ...]) -> int:
        connection = connect(self._path)
        try:
            with connection.writing():
                return connection.execute(sql, parameters).rowcount
        finally:
            connection.close()


class OtherHands:
    """The queue's own client, past the book: some brokers take no word about a delivery from any other connection."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._loop = asyncio.get_running_loop()

    def delete(self, delivery: Delivery) -> bool:
        (answer,) = asyncio.run_coroutine_threadsafe(self._queue.ack([delivery.receipt]), self._loop).result()
        return isinstance(answer, Done)

    def show(self, delivery: Delivery) -> None:
        asyncio.run_coroutine_threadsafe(self._queue.release([delivery.receipt]), self._loop).result()


class SqsHands:
    """Calls of the official client."""

    def __init__(self, name: str, endpoint: str | None, region: str | None) -> None:
        self._name = name
        self._options = {"endpoint_url": endpoint, "region_name": region}
        self._lock = threading.Lock()
        self._client: Any = None
        self._url = ""

    def delete(self, delivery: Delivery) -> bool:
        self._sqs().delete_message(QueueUrl=self._url, ReceiptHandle=delivery.receipt)
        return True

    def show(self, delivery: Delivery) -> None:
        client = self._sqs()
        with suppress(client.exceptions.ReceiptHandleIsInvalid, client.exceptions.MessageNotInflight):
            client.change_message_visibility(QueueUrl=self._url, ReceiptHandle=delivery.receipt, VisibilityTimeout=0)

    def _sqs(self) -> Any:
        with (
            self._lock
        ):  # hooks call from threads of their own, and who finds the client must find the queue's address too
            if self._client is None:
                import boto3

                client = boto3.client("sqs", **self._options)  # type: ignore[call-overload]  # boto3's stubs want each option by name
                self._url = client.get_queue_url(QueueName=self._name)["QueueUrl"]
                self._client = client
            return self._client
