"""The four services, in a process of their own: HTTP on loopback, and one of them becomes ill on request."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

HEALTHY = 0.08
"""Seconds of every answer."""


class _Services:
    def __init__(self) -> None:
        self.slow, self.share = HEALTHY, 0.0
        self.asked: Counter[str] = Counter()
        self.abandoned: Counter[str] = Counter()
        self.connections = 0
        self.chance = random.Random(0)

    def seconds(self, path: str) -> float:
        ill = path == "/pricing" and self.share and self.chance.random() < self.share
        return self.slow if ill else HEALTHY

    def control(self, path: str) -> bytes:
        what, _, argument = path.lstrip("/!").partition("/")
        if what == "ill":
            seconds, share = argument.split("/")
            self.slow, self.share = float(seconds), float(share)
        told = {"asked": dict(self.asked), "abandoned": dict(self.abandoned), "connections": self.connections}
        if what == "reset":
            self.asked.clear()
            self.abandoned.clear()
            self.connections = 0
        return json.dumps(told).encode()


class _Protocol(asyncio.Protocol):
    def __init__(self, services: _Services) -> None:
        self._services = services
        self._pending: dict[asyncio.TimerHandle, str] = {}
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._services.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        for timer, path in self._pending.items():
            timer.cancel()
            self._services.abandoned[path] += 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            if path.startswith("/!"):
                self._write(self._services.control(path))
                continue
            self._services.asked[path] += 1
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self._services.seconds(path), self._answer)
            self._pending[timer] = path

    def _answer(self) -> None:
        now = asyncio.get_running_loop().time()
        for timer in [one for one in self._pending if one.when() <= now + 1e-3]:
            del self._pending[timer]
            timer.cancel()
            self._write(b"1")

    def _write(self, body: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


async def _serve(told: Connection) -> None:
    services = _Services()
    server = await asyncio.get_running_loop().create_server(lambda: _Protocol(services), "127.0.0.1", 0, backlog=2048)
    told.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _main(told: Connection) -> None:
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(told))


def begin() -> tuple[multiprocessing.Process, str]:
    """Begin the services; returns their process and their URL."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_main, args=(theirs,), daemon=True)
    process.start()  # type: ignore[attr-defined,unused-ignore] # a process of either kind
    return process, f"http://127.0.0.1:{ours.recv()}"  # type: ignore[return-value,unused-ignore] # as above
