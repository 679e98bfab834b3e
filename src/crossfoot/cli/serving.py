"""A few pages over HTTP, for machines: metrics and probes. Each request is answered in a thread of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from crossfoot.errors import UsageError

Page = Callable[[Mapping[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application (PEP 3333)."""

SECONDS = 30.0
"""How long a client may take over its request."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without asking the name service what this machine is called, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds."""


def address(text: str) -> tuple[str, int]:
    """HOST:PORT as its parts; a port alone is one of this machine's.

    Raises:
        UsageError: it is neither.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) < 65_536):
        raise UsageError(f"{text!r} is no address to listen on: write HOST:PORT, as in 127.0.0.1:9464, or PORT alone")
    return host.strip("[]") or "127.0.0.1", int(port)


class Pages:
    """Serves pages by their path, until closed.

    Raises:
        UsageError: the address cannot be listened on.
    """

    def __init__(self, where: str, pages: Mapping[str, Page]) -> None:
        host, port = address(where)
        self._pages = pages
        try:
            self._server = make_server(host, port, self._answer, _Server6 if ":" in host else _Server, _Quiet)
        except OSError as error:
            raise UsageError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --listen") from error
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, name="crossfoot pages", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: Mapping[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        page = self._pages.get(environ.get("PATH_INFO", ""))
        if page is None:
            return say("404 Not Found", f"there are {', '.join(self._pages)}\n", start)
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return say("405 Method Not Allowed", "these pages are only read\n", start)
        return page(environ, start)


def say(status: str, text: str, start: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with a line of text."""
    start(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode()]


def probe(well: Callable[[], str]) -> Page:
    """A page that says `ok`, or with status 503 what is the matter; `well` tells that, or nothing."""

    def page(environ: Mapping[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        matter = well()
        return say("503 Service Unavailable", f"{matter}\n", start) if matter else say("200 OK", "ok\n", start)

    return page
