"""HTTP clients with a true total time, over real HTTP on loopback. Servers wait for signs, and for no time."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager, closing
from typing import Any

import aiohttp
import anyio
import httpx
import pytest

from crossfoot import flow
from crossfoot.flow import aiohttp_client, httpx_client


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Service:
    """A server of HTTP that does as its path says."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self.answer(head.decode(), writer)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        first, *rest = head.strip().split("\r\n")
        self.asked.append({name.lower(): value for name, _, value in (line.partition(": ") for line in rest)})
        path = first.split()[1]
        if path in ("/hang", "/deaf"):
            self.waiting.set()
            await self.go_on.wait()
        if path == "/drip":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
            while not self.go_on.is_set():
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(0.001)
            return
        status, more = {
            "/busy": ("429 Slow", "retry-after: 7\r\n"),
            "/tomorrow": ("429 Slow", "retry-after: 86400\r\n"),
            "/full": ("503 Full", ""),
            "/late": ("504 Late", ""),
        }.get(path, ("200 OK", ""))
        if path == "/elsewhere":
            status, more = "302 Found", "location: /drip\r\n"
        writer.write(f"HTTP/1.1 {status}\r\n{more}content-length: 2\r\n\r\nhi".encode())
        await writer.drain()


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    one = Service()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield one
    one.go_on.set()
    server.close()


Ask = Callable[..., Coroutine[Any, Any, str]]


@asynccontextmanager
async def with_httpx(limit: flow.Limit | None = None) -> AsyncIterator[Ask]:
    async with httpx_client.Client(limit=limit, follow_redirects=True) as client:

        async def ask(url: str, content: bytes | None = None, **headers: str) -> str:
            method = "GET" if content is None else "PUT"
            return (await client.request(method, url, headers=headers, content=content)).text

        yield ask


@asynccontextmanager
async def with_aiohttp(limit: flow.Limit | None = None) -> AsyncIterator[Ask]:
    async with aiohttp.ClientSession() as session:

        async def ask(url: str, content: bytes | None = None, **headers: str) -> str:
            method = "GET" if content is None else "PUT"
            async with aiohttp_client.request(
                session, method, url, limit=limit, headers=headers, data=content and io.BytesIO(content)
            ) as response:
                return await response.text()

        yield ask


each = pytest.mark.parametrize("client", [with_httpx, with_aiohttp])


@each
async def test_the_other_side_is_told_what_is_left_without_the_margin(client: Any, service: Service) -> None:
    async with client() as ask:
        with flow.deadline(60):
            assert await ask(service.url, x="1") == "hi"
        assert await ask(service.url) == "hi"

    assert 0 < int(service.asked[0]["x-deadline-ms"]) <= 59_995
    assert service.asked[0]["x"] == "1"
    assert "x-deadline-ms" not in service.asked[1]


@each
@pytest.mark.parametrize("path", ["/drip", "/hang", "/elsewhere"])
async def test_one_time_counts_for_all_of_it_however_slowly_it_drips(path: str, client: Any, service: Service) -> None:
    async with client() as ask:
        with pytest.raises(flow.Expired), flow.deadline(0.3):
            await ask(service.url + path)


def never_resolved(monkeypatch: pytest.MonkeyPatch) -> str:
    async def getaddrinfo(*args: Any, **options: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    return "http://pricing.invalid"


def never_accepted(stack: ExitStack) -> str:
    """A server whose line of those that want to connect is full."""
    server = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0), backlog=0)))
    for _ in range(8):
        waiting = stack.enter_context(closing(socket.socket()))
        waiting.setblocking(False)
        waiting.connect_ex(server.getsockname())
    return f"http://127.0.0.1:{server.getsockname()[1]}"


@each
@pytest.mark.parametrize("what", ["its name", "its connection", "a place in the pool", "the reading of what is sent"])
async def test_what_comes_before_the_answer_counts_too(
    what: str, client: Any, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        url, body, limit = service.url + "/hang", None, None
        if what == "its name":
            url = never_resolved(monkeypatch)
        elif what == "its connection":
            url = never_accepted(stack)
        elif what == "a place in the pool":
            limit = flow.Limit(1, wait=60)
        else:
            url, body = service.url + "/deaf", b"." * 50_000_000
        async with client(limit) as ask, anyio.create_task_group() as group:
            if limit is not None:
                group.start_soon(ask, url)
                await service.waiting.wait()
            with pytest.raises(flow.Expired), flow.deadline(0.3):
                await ask(url, content=body)
            service.go_on.set()


async def test_a_pool_of_aiohttp_s_own_counts_too(service: Service) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:

        async def ask() -> None:
            async with aiohttp_client.request(session, "GET", service.url + "/hang") as response:
                await response.read()

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await service.waiting.wait()
            with pytest.raises(flow.Expired), flow.deadline(0.3):
                await ask()
            service.go_on.set()
    assert len(service.asked) == 1


async def test_tries_and_the_pauses_between_them_count_too(service: Service) -> None:
    again = flow.Retry(attempts=3)
    async with httpx_client.Client() as client:
        with pytest.raises(flow.Rejected) as caught, flow.deadline(3600):
            await again.run(client.get, service.url + "/tomorrow", idempotent=True)

    assert "not tried again" in caught.value.__notes__[0], "the pause it asks for is longer than what is left"
    assert len(service.asked) == 1


@each
async def test_an_expired_deadline_asks_nobody(client: Any, service: Service) -> None:
    async with client() as ask:
        with pytest.raises(flow.Expired), flow.deadline(60) as held:
            held.at = held.clock()
            await ask(service.url)
        with pytest.raises(flow.Expired), flow.deadline(60) as held:  # less than the margin is left, or nothing
            held.at = held.clock() + 0.004
            await ask(service.url)

    assert service.asked == []


@each
@pytest.mark.parametrize(
    ("path", "kind", "hint"),
    [("/busy", flow.Rejected, 7), ("/full", flow.Overloaded, None), ("/late", flow.Expired, None)],
)
async def test_refusals_are_errors_that_keep_their_meaning(
    path: str, kind: type[flow.FlowError], hint: float | None, client: Any, service: Service
) -> None:
    async with client() as ask:
        with pytest.raises(kind) as caught:
            await ask(service.url + path)

    assert type(caught.value) is kind
    assert caught.value.retry_after == hint


@each
async def test_a_thousand_cancelled_calls_leave_the_pool_usable(client: Any, service: Service) -> None:
    limit = flow.Limit(10, waiting=1000, wait=600)

    async def cancelled(ask: Ask, after: int) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(ask, service.url + "/hang")
                for _ in range(after):
                    await asyncio.sleep(0)
                scope.cancel()

    async with client(limit) as ask:
        for _ in range(20):
            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(cancelled, ask, number % 25)
        assert (limit.in_use, limit.waiting) == (0, 0)
        with flow.deadline(60):
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(ask, service.url)
            assert await ask(service.url) == "hi"


async def test_a_stream_that_is_read_later_keeps_its_permit_and_its_deadline(service: Service) -> None:
    limit = flow.Limit(1)
    async with httpx_client.Client(limit=limit) as client:
        with pytest.raises(flow.Expired), flow.deadline(0.3):
            async with client.stream("GET", service.url + "/drip") as response:
                assert limit.in_use == 1
                async for _ in response.aiter_bytes():
                    pass

    assert limit.in_use == 0


async def test_a_total_of_the_client_s_own_counts_without_any_other_deadline(service: Service) -> None:
    async with httpx_client.Client(total=0.3) as client, aiohttp.ClientSession() as session:
        with pytest.raises(flow.Expired):
            await client.get(service.url + "/drip")
        with pytest.raises(flow.Expired):
            async with aiohttp_client.request(session, "GET", service.url + "/drip", total=0.3) as response:
                await response.read()
        with pytest.raises(flow.Expired):
            async with client.stream("GET", service.url + "/drip") as response:
                await response.aread()
        assert (await client.get(service.url)).status_code == 200


async def test_answers_that_are_no_refusals_or_are_not_to_be_raised_are_answers(service: Service) -> None:
    async with httpx_client.Client(refusals=False) as client:
        assert (await client.get(service.url + "/busy")).status_code == 429
    assert isinstance(client, httpx.AsyncClient)


async def test_what_a_transport_is_made_with_reaches_it_and_every_way_has_a_limit(
    monkeypatch: pytest.MonkeyPatch, service: Service
) -> None:
    made: list[dict[str, Any]] = []

    class Transport(httpx.AsyncHTTPTransport):
        def __init__(self, **options: Any) -> None:
            made.append(options)
            super().__init__(limits=options["limits"])

    monkeypatch.setattr(httpx, "AsyncHTTPTransport", Transport)
    limit = flow.Limit(1, waiting=0)
    elsewhere = Transport(limits=httpx.Limits())
    client = httpx_client.Client(
        limit=limit, verify=False, cert="client.pem", http2=True, trust_env=False, mounts={"all://127.0.0.1": elsewhere}
    )
    async with client, limit.permit():
        with pytest.raises(flow.Rejected):
            await client.get(service.url)

    _, own = made
    assert (own["verify"], own["cert"], own["http2"], own["trust_env"]) == (False, "client.pem", True, False)


async def test_headers_may_be_pairs_and_repeat(service: Service) -> None:
    async with aiohttp.ClientSession() as session:
        pairs = [("x-tag", "one"), ("accept", "text/plain")]
        async with aiohttp_client.request(session, "GET", service.url, total=30, headers=pairs) as response:
            assert response.status == 200

    assert (service.asked[-1]["x-tag"], service.asked[-1]["accept"]) == ("one", "text/plain")
