"""Somebody else's hands on a queue are used by many threads at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest

from crossfoot.demo.hands import SqsHands
from crossfoot.queues.queue import Delivery

DELIVERY = Delivery(body=b"{}", receipt="receipt", attempt=1, lease_until=0)


class SlowToFind:
    """A client that takes its time to find the queue, and remembers what it was asked to delete."""

    def __init__(self) -> None:
        self.deleted_from: list[str] = []

    def get_queue_url(self, **_named: str) -> dict[str, str]:
        time.sleep(0.05)
        return {"QueueUrl": "http://queue"}

    def delete_message(self, **named: Any) -> None:
        self.deleted_from.append(named["QueueUrl"])


def test_who_comes_while_the_first_looks_for_the_queue_waits_until_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    client, start = SlowToFind(), threading.Barrier(4)
    monkeypatch.setattr(boto3, "client", lambda *_which, **_options: client)
    hands = SqsHands("lab", None, None)

    def delete() -> bool:
        start.wait()
        return hands.delete(DELIVERY)

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(delete) for _ in range(4)]
    assert all(one.result() for one in done)
    assert client.deleted_from == ["http://queue"] * 4
