"""One queue's connections: requests sent once, each answered within a deadline, and nothing left half read.

Connections belong to an event loop. A service publishes in one loop and works in another (`anyio.run` twice is enough),
so there is a pool for each, closed when the queue is closed in that loop or when the loop ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import anyio
from anyio import CancelScope, CapacityLimiter

from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.redis.address import Address
from crossfoot.queues.redis.answers import (
    Absent,
    Moved,
    NoAnswer,
    Rejected,
    Unusable,
    import_redis,
    is_answer,
    read_error,
    unusable,
)
from crossfoot.queues.redis.scripts import Script

BATCH = 100
"""Items of one request."""

BATCH_BYTES = 1024 * 1024
"""What one request carries, unless a single item is larger."""

CONNECTIONS = 8
"""Requests under way at once per queue and loop; waits have as many of their own."""

Argument = str | bytes | int | float
Command = Sequence[Argument]
Node = tuple[str, int]


class Client:
    """The connections of one queue.

    Args:
        timeout: seconds until a request without an answer is given up; connecting is given as many.

    Raises:
        UsageError: the package is not there, or the URL has an option it does not know.
    """

    def __init__(self, address: Address, *, timeout: float) -> None:
        self.address = address
        self._timeout = timeout
        self._redis = import_redis()
        self._homes: dict[asyncio.AbstractEventLoop, list[_Home]] = {}
        """By loop, one for each server that was asked from it."""
        self._node: Node | None = None
        """The node of the cluster that has the queue's slot, if we were sent there. All keys of a queue are on one node."""
        try:
            self._options: dict[str, Any] = self._redis.asyncio.connection.parse_url(address.url)
        except ValueError as error:
            raise UsageError(f"queue {address.name}: {address.place} cannot be read as an address: {error}") from None
        self._options |= {
            "protocol": 2,
            "decode_responses": False,
            "socket_timeout": None,  # every request has its deadline here
            "socket_connect_timeout": timeout,
            "retry": None,
            "client_name": "crossfoot",  # also a first question: a server that lets nobody in is found before anything is sent
            **self._anonymous(),
            "max_connections": 2 * CONNECTIONS,
        }

    def _anonymous(self) -> dict[str, None]:
        """Without the library's own name, for which it would read its package's files anew with every connection."""
        return {"driver_info": None} if hasattr(self._redis, "DriverInfo") else {"lib_name": None, "lib_version": None}

    async def ask(self, *command: Argument) -> Any:
        """One command.

        Raises:
            NoAnswer, Rejected: as their names say.
            QueueUnavailable: it never left this machine, or no request to this queue can succeed.
        """
        (answer,) = await self.ask_all([command])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Commands in one go. Each is answered by what the server said, or by one of `ask`'s exceptions, not raised.

        A cancellation waits for the answers, the deadline permitting: what was done would otherwise go unheard.

        Raises:
            QueueUnavailable: nothing left this machine.
        """
        answers = await self._ask_all(commands)
        moved = answers[0] if answers else None
        if isinstance(moved, Moved) and all(isinstance(answer, Moved) for answer in answers):
            self._node = (moved.host or self._options.get("host", "localhost"), moved.port)
            answers = await self._ask_all(commands)
        return answers

    async def run(self, script: Script, *arguments: Argument) -> Any:
        """Run a script on the queue's keys. Raises what `ask` raises."""
        rest = (len(self.address.keys), *self.address.keys, self.address.group, *arguments)
        try:
            return await self.ask("EVALSHA", script.sha, *rest)
        except Rejected as error:
            if error.code != "NOSCRIPT":
                raise
            return await self.ask("EVAL", script.text, *rest)

    async def wait_for_entry(self, after: str, seconds: float) -> None:
        """Return when the stream has an entry behind the id `after`, or `seconds` have passed. Takes nothing.

        Raises:
            QueueUnavailable: the connection broke.
        """
        home = await self._home()
        async with home.waits:
            connection = await self._connected(home)
            try:
                with anyio.fail_after(seconds + self._timeout):
                    block = max(1, round(seconds * 1_000))
                    command = ("XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", self.address.stream, after)
                    await connection.send_packed_command(connection.pack_command(*command), check_health=False)
                    await connection.read_response()
            except BaseException as error:
                with CancelScope(shield=True):
                    await connection.disconnect(nowait=True)
                if isinstance(error, (self._redis.RedisError, OSError)):
                    raise self._broken_off(error) from None
                raise
            finally:
                with CancelScope(shield=True):
                    await home.pool.release(connection)

    def no_stream(self) -> QueueUnavailable:
        """What to say when a command that does not make the stream found none."""
        return self._absent("NOSTREAM")

    def no_group(self) -> QueueUnavailable:
        return self._absent("NOGROUP")

    async def close(self) -> None:
        """Close this loop's connections."""
        for home in self._homes.pop(asyncio.get_running_loop(), []):
            await home.guard.aclose()

    async def _ask_all(self, commands: Sequence[Command]) -> list[Any]:
        home = await self._home()
        async with home.requests:
            with CancelScope(shield=True):
                connection = await self._connected(home)
                try:
                    answers = await self._exchange(connection, commands)
                finally:
                    await home.pool.release(connection)
        return answers

    async def _connected(self, home: _Home) -> Any:
        try:
            with anyio.fail_after(self._timeout):
                return await home.pool.get_connection()
        except (self._redis.RedisError, OSError) as error:
            if is_answer(error) and isinstance(known := self._read(error), QueueUnavailable):
                raise known from None
            self._node = None  # one of a cluster may be gone for good; the address we were given knows others
            raise QueueUnavailable(
                f"queue {self.address.name} cannot be reached at {home.place}, and was asked nothing: {self._told(error)}. "
                "Check the address"
            ) from None

    async def _exchange(self, connection: Any, commands: Sequence[Command]) -> list[Any]:
        answers: list[Any] = []
        try:
            with anyio.fail_after(self._timeout):
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                while len(answers) < len(commands):
                    try:
                        answers.append(await connection.read_response())
                    except self._redis.exceptions.ResponseError as error:
                        answers.append(self._read(error))
        except Exception as error:  # noqa: BLE001 - whatever the parser stumbles over: it is no answer
            await connection.disconnect(nowait=True)
            if isinstance(error, self._redis.RedisError) and is_answer(error):
                answers.append(self._read(error))
            reason = f"no answer: {self._told(error)}"
            answers += [NoAnswer(reason) for _ in range(len(commands) - len(answers))]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        if any(isinstance(answer, Unusable) and answer.elsewhere for answer in answers):
            await connection.disconnect(nowait=True)
        return answers

    def _read(self, error: Exception) -> Rejected | QueueUnavailable:
        address = self.address
        return read_error(error, name=address.name, stream=address.stream, group=address.group)

    def _absent(self, code: str) -> QueueUnavailable:
        address = self.address
        return Absent(code, unusable(code, name=address.name, stream=address.stream, group=address.group))

    def _broken_off(self, error: Exception) -> QueueUnavailable:
        known = self._read(error) if is_answer(error) else None
        if isinstance(known, QueueUnavailable):
            return known
        return QueueUnavailable(f"queue {self.address.name} broke off a wait: {self._told(error)}. Try again")

    def _told(self, error: Exception) -> str:
        """What went wrong, without what must not be shown."""
        text = str(error) or f"{type(error).__name__} after {self._timeout:g} s"
        password = self._options.get("password")
        return (text.replace(password, "…") if password else text).rstrip(".")

    async def _home(self) -> _Home:
        loop, node = asyncio.get_running_loop(), self._node
        homes = self._homes.setdefault(loop, [])
        for home in homes:
            if home.node == node:
                return home
        options = self._options if node is None else {**self._options, "host": node[0], "port": node[1]}
        place = self.address.place if node is None else f"{node[0]}:{node[1]}"
        home = _Home(self._redis.asyncio.ConnectionPool(**options), node, place)
        home.guard = self._close_at_the_end(loop, home.pool)
        homes.append(home)
        await anext(home.guard)
        return home

    async def _close_at_the_end(self, loop: asyncio.AbstractEventLoop, pool: Any) -> AsyncGenerator[None]:
        """Closes a pool when it is closed itself. Should nobody do that, the loop does: one that ends closes the generators
        that were started in it and are not through."""
        try:
            yield
        finally:
            self._homes.pop(loop, None)
            with CancelScope(shield=True):
                await pool.aclose()


class _Home:
    """What belongs to one event loop, and to one server."""

    guard: AsyncGenerator[None]

    def __init__(self, pool: Any, node: Node | None, place: str) -> None:
        self.pool = pool
        self.node = node
        self.place = place
        self.requests = CapacityLimiter(CONNECTIONS)
        self.waits = CapacityLimiter(CONNECTIONS)
