"""What the middleware costs an application at saturation: a server of one process that answers as fast as it can, bare and bounded.

    python benchmarks/flow_edge.py [--seconds 3] [--rounds 5]

uvicorn on loopback, closed loop, 64 connections. The server's own processor time for a request says what it can do at most, whatever
else runs on the machine; requests per second are measured beside it. Goal: the bounded application does 0.9 of the bare one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import statistics
import sys
import time
from typing import Any

import psutil
import uvicorn

from crossfoot import flow
from crossfoot.flow.asgi import Bounded

GOAL = 0.9
CONNECTIONS = 64
REQUEST = b"GET /page HTTP/1.1\r\nhost: loopback\r\nx-deadline-ms: 50000\r\n\r\n"
ROWS = [{"case": f"case-{number}", "amount": number, "state": "released"} for number in range(20)]


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """As little as an application can do."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def page(scope: Any, receive: Any, send: Any) -> None:
    """Something like a page: it waits for somebody, and answers with twenty rows of JSON."""
    await asyncio.sleep(0)
    body = json.dumps(ROWS).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


APPLICATIONS = {"hello": hello, "page": page}


def serve(name: str, bounded: bool, listener: socket.socket) -> None:
    application: Any = APPLICATIONS[name]
    if bounded:
        application = Bounded(application, deadline=60.0, limit=flow.Limit(flow.Aimd(2 * CONNECTIONS), status=503))
    config = uvicorn.Config(application, loop="asyncio", http="httptools", log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


class Client(asyncio.Protocol):
    """Asks again as soon as it is answered."""

    answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._buffer = b""
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, _, body = self._buffer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(f"not answered: {head[:200]!r}")
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= size:
            self._buffer = b""
            Client.answered += 1
            self._transport.write(REQUEST)


async def ask(port: int, process: psutil.Process, seconds: float) -> tuple[float, float]:
    """Requests a second, and the server's microseconds for each."""
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(Client, "127.0.0.1", port) for _ in range(CONNECTIONS)]
    begins = Client.answered + 4 * CONNECTIONS  # it has imported what it needs, and is warm
    while Client.answered < begins:  # noqa: ASYNC110 - the answers of another process are no event
        await asyncio.sleep(0.05)
    before, used, began = Client.answered, sum(process.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(seconds)
    answered, took = Client.answered - before, time.monotonic() - began
    micros = (sum(process.cpu_times()[:2]) - used) / answered * 1e6
    for transport, _ in opened:
        transport.abort()
    return answered / took, micros


def measure(name: str, bounded: bool, seconds: float) -> tuple[float, float]:
    # With the protocol named, or asyncio leaves Nagle's algorithm on, and every answer waits 40 ms for an acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    process = multiprocessing.get_context("fork").Process(target=serve, args=(name, bounded, listener), daemon=True)
    process.start()
    try:
        return asyncio.run(ask(listener.getsockname()[1], psutil.Process(process.pid), seconds))
    finally:
        process.terminate()
        process.join()
        listener.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = {}
    for name in APPLICATIONS:
        rounds = [[measure(name, bounded, asked.seconds) for bounded in (False, True)] for _ in range(asked.rounds)]
        found[name] = {
            "bare_us": round(statistics.median(bare[1] for bare, _ in rounds), 1),
            "bounded_us": round(statistics.median(bounded[1] for _, bounded in rounds), 1),
            "of_bare": round(statistics.median(bare[1] / bounded[1] for bare, bounded in rounds), 3),
            "bare_per_s": round(statistics.median(bare[0] for bare, _ in rounds)),
            "bounded_per_s": round(statistics.median(bounded[0] for _, bounded in rounds)),
        }
    if asked.json:
        print(json.dumps(found))
    else:
        print(f"{'':8} {'bare µs':>8} {'bounded':>8} {'of bare':>8} {'bare/s':>8} {'bounded/s':>9}   goal {GOAL}")
        for name, one in found.items():
            print(
                f"{name:8} {one['bare_us']:8.1f} {one['bounded_us']:8.1f} {one['of_bare']:8.2f} {one['bare_per_s']:8.0f} "
                f"{one['bounded_per_s']:9.0f}"
            )
    return int(any(one["of_bare"] < GOAL for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
