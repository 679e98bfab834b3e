"""HTTP clients over transports that answer out of memory, and over connections that fail: permits, retries, arguments."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import aiohttp
import httpx
import pytest

from crossfoot import flow
from crossfoot.errors import UsageError
from crossfoot.flow import aiohttp_client, httpx_client
from crossfoot.flow.retries import worth_another_try
from crossfoot.flow.sizes import Outcome


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Told:
    """An algorithm that keeps what it is told."""

    size = 3

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def sample(self, outcome: Outcome, seconds: float, in_use: int) -> int:
        self.outcomes.append(outcome)
        return self.size


@pytest.mark.parametrize("status", [200, 429, 503, 504])
async def test_an_answer_that_is_whole_already_gives_its_permit_back(status: int) -> None:
    told = Told()
    limit = flow.Limit(told, waiting=0)
    transport = httpx.MockTransport(lambda request: httpx.Response(status, json=1))

    async with httpx_client.Client(limit=limit, transport=transport, refusals=False) as client:
        for _ in range(5):
            assert (await client.get("http://pricing/")).json() == 1

    assert limit.in_use == 0
    assert told.outcomes == [Outcome.GOOD if status == 200 else Outcome.OVERLOADED] * 5


@pytest.mark.parametrize("total", [-1, float("nan"), "3", pytest.param(10**400, id="too many")])
def test_a_total_that_is_no_time_is_refused_when_the_client_is_made(total: Any) -> None:
    with pytest.raises(UsageError, match="give seconds, 0 or more, as a number"):
        httpx_client.Client(total=total)


# ---- connections that fail are worth another try ----------------------------------------------------------------------


def nobody_listens() -> str:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/"


@asynccontextmanager
async def hangs_up() -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    server.close()


@pytest.mark.parametrize("how", ["nobody listens", "it hangs up"])
@pytest.mark.parametrize("client", ["httpx", "aiohttp"])
async def test_a_lost_connection_is_tried_again_if_that_does_no_harm(client: str, how: str) -> None:
    tries = 0

    async def ask(url: str) -> None:
        nonlocal tries
        tries += 1
        if client == "httpx":
            async with httpx_client.Client() as asking:
                await asking.get(url)
        else:
            async with aiohttp.ClientSession() as session, aiohttp_client.request(session, "POST", url):
                pass

    again = flow.Retry(3, base=0)
    async with hangs_up() as url:
        with flow.deadline(60), pytest.raises((httpx.TransportError, aiohttp.ClientConnectionError)):
            await again.run(ask, url if how == "it hangs up" else nobody_listens(), idempotent=True)
        assert tries == 3
        with flow.deadline(60), pytest.raises(UsageError, match="only if that does no harm"):
            await again.run(ask, url)
    assert tries == 3


def test_a_certificate_that_is_not_trusted_is_not_tried_again() -> None:
    key: Any = None
    assert not worth_another_try(aiohttp.ClientConnectorCertificateError(key, ssl.CertificateError("self-signed")))
    assert not worth_another_try(httpx.UnsupportedProtocol("ftp"))
