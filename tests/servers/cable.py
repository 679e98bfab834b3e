"""A cable between a client and a server that can be cut: requests that do not arrive, answers that are lost half-way or late."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.servers.run import HOST


class Cable:
    """Leads to a port of this machine. In order until told otherwise."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        self._requests_pass = True
        self._answer_bytes: int | None = None
        self._cut_at: tuple[bytes, bool, float] | None = None
        self._flowing = threading.Event()
        self._flowing.set()
        self._answers_late = 0.0
        self._lines: set[socket.socket] = set()
        self.touched = 0
        """Connections that were broken, and portions that were held up, by what was done to the cable."""
        threading.Thread(target=self._take_in, daemon=True).start()

    def lead_to(self, port: int) -> None:
        """Connections that are made from now on end there."""
        self._to = port

    def cut_requests(self) -> None:
        """From now on the next request breaks its connection, and does not arrive."""
        self._requests_pass = False

    def lose_answers(self, *, after: int = 0) -> None:
        """From now on requests arrive, and their answers break off after so many bytes."""
        self._answer_bytes = after

    def cut(self) -> None:
        """Break every connection there is now. New ones are in order."""
        lines, self._lines = self._lines, set()
        self.touched += len(lines)
        _end(*lines)

    def stall(self) -> None:
        """From now on nothing passes, either way, and nobody is told. What was sent meanwhile arrives when it heals."""
        self._flowing.clear()

    def delay_answers(self, seconds: float) -> None:
        """From now on every portion of an answer arrives so many seconds late."""
        self._answers_late = seconds

    def at_request(self, text: bytes, *, arrives: bool, after: float = 0.0) -> None:
        """Cut the client off when it sends a request with this text, once. The server notices nothing until it has the request,
        which it gets so many seconds later, if at all."""
        self._cut_at = (text, arrives, after)

    def heal(self) -> None:
        self._requests_pass, self._answer_bytes, self._answers_late = True, None, 0.0
        self._flowing.set()

    def close(self) -> None:
        self._listening.close()

    def _take_in(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((HOST, self._to))
            except OSError:
                client.close()
                continue
            self._lines.add(client)
            for pump in (self._carry_requests, self._carry_answers):
                threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _carry_requests(self, client: socket.socket, server: socket.socket) -> None:
        for data in _received(client):
            self._hold_up()
            if not self._requests_pass:
                self.touched += 1
                break
            if self._cut_at is not None and self._cut_at[0] in data:
                self._cut_off(client, server, data)
                return
            try:
                server.sendall(data)
            except OSError:
                break
        self._lines.discard(client)
        _end(client, server)

    def _hold_up(self, seconds: float = 0.0) -> None:
        """Wait while nothing passes, and as long as what passes is late."""
        if seconds or not self._flowing.is_set():
            self.touched += 1
            time.sleep(seconds)
            self._flowing.wait()

    def _cut_off(self, client: socket.socket, server: socket.socket, data: bytes) -> None:
        assert self._cut_at is not None
        (_, arrives, after), self._cut_at = self._cut_at, None
        if not after and arrives:
            server.sendall(data)
            time.sleep(0.2)  # the server has it by then
        _end(client)
        if after:
            time.sleep(after)
            server.sendall(data)
            time.sleep(0.2)
        _end(server)

    def _carry_answers(self, client: socket.socket, server: socket.socket) -> None:
        for data in _received(server):
            self._hold_up(self._answers_late)
            left = self._answer_bytes
            with suppress(OSError):  # a client that was cut off
                client.sendall(data if left is None else data[:left])
            if left is not None:
                self._answer_bytes = max(0, left - len(data))
                if len(data) >= left:
                    self.touched += 1
                    break
        _end(client, server)


def _received(source: socket.socket) -> Iterator[bytes]:
    with suppress(OSError):
        while data := source.recv(65_536):
            yield data


def _end(*ends: socket.socket) -> None:
    for one in ends:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


class Pooler(Cable):
    """Looks to a client of PostgreSQL like a pooler: it makes up the process id that a session tells at its beginning."""

    def _carry_answers(self, client: socket.socket, server: socket.socket) -> None:
        for data in _received(server):
            begun = data.find(b"K\x00\x00\x00\x0c") if b"Z\x00\x00\x00\x05I" in data else -1  # BackendKeyData, once
            with suppress(OSError):
                client.sendall(data if begun < 0 else data[: begun + 5] + b"\x00\x00\x00\x07" + data[begun + 9 :])
        _end(client, server)


@contextmanager
def cable_to(port: int) -> Iterator[Cable]:
    cable = Cable(port)
    try:
        yield cable
    finally:
        cable.close()
