"""One queue's connections: requests sent once, each answered within a deadline, and nothing left half read.

Connections belong to an event loop. A service publishes in one loop and works in another (`anyio.run` twice is enough),
so there is a pool for each, closed when the queue is closed in that loop or when the loop ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import anyio
from anyio import CancelScope, CapacityLimiter

from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.redis.address import Address
from crossfoot.queues.redis.answers import (
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

CONNECTIONS = 8
"""Requests under way at once per queue and loop; waits have as many of their own."""

Argument = str | bytes | int | float
Command = Sequence[Argument]


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
        self._homes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Home] = WeakKeyDictionary()
        self._node: tuple[str, int] | None = None
        """The node of the cluster that told us to be asked, if one did."""
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
            self._move(moved.host or self._options["host"], moved.port)
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
        return self._unusable("NOSTREAM")

    def no_group(self) -> QueueUnavailable:
        return self._unusable("NOGROUP")

    async def close(self) -> None:
        """Close this loop's connections."""
        home = self._homes.pop(asyncio.get_running_loop(), None)
        if home is not None:
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
            if (
                self._node is not None
            ):  # a node of a cluster may be gone for good; the address we were given knows others
                self._move(None, 0)
            raise QueueUnavailable(
                f"queue {self.address.name} cannot be reached at {self.address.place}, nothing was sent: {self._told(error)}. "
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
            reason = f"no answer from {self.address.place}: {self._told(error)}"
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

    def _unusable(self, code: str) -> QueueUnavailable:
        address = self.address
        return QueueUnavailable(unusable(code, name=address.name, stream=address.stream, group=address.group))

    def _broken_off(self, error: Exception) -> QueueUnavailable:
        known = self._read(error) if is_answer(error) else None
        if isinstance(known, QueueUnavailable):
            return known
        return QueueUnavailable(f"queue {self.address.name} broke off a wait: {self._told(error)}. Try again")

    def _told(self, error: Exception) -> str:
        """What went wrong, without what must not be shown."""
        text = str(error) or f"{type(error).__name__} after {self._timeout:g} s"
        for secret in (self._options.get("password"), self._options.get("username")):
            text = text.replace(secret, "…") if secret else text
        return text.rstrip(".")

    async def _home(self) -> _Home:
        loop = asyncio.get_running_loop()
        home = self._homes.get(loop)
        if home is None or home.node != self._node:
            options = (
                self._options if self._node is None else {**self._options, "host": self._node[0], "port": self._node[1]}
            )
            home = self._homes[loop] = _Home(self._redis.asyncio.ConnectionPool(**options), self._node, former=home)
            await home.settle()
        return home

    def _move(self, host: str | None, port: int) -> None:
        """Ask this node of the cluster from now on, or the one we were given. All keys of a queue are on one node."""
        self._node = (host, port) if host else None


class _Home:
    """What belongs to one event loop."""

    def __init__(self, pool: Any, node: tuple[str, int] | None, former: _Home | None) -> None:
        self.pool = pool
        self.node = node
        self._former = former  # its connections may still be in use
        self.requests = CapacityLimiter(CONNECTIONS)
        self.waits = CapacityLimiter(CONNECTIONS)
        self.guard = self._close_at_the_end()

    async def settle(self) -> None:
        """From now on the connections are closed by the loop, should nobody else do it: a loop that ends closes the
        generators it knows, and it knows those that were started in it."""
        await anext(self.guard)

    async def _close_at_the_end(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            with CancelScope(shield=True):
                await self.pool.aclose()
                if self._former is not None:
                    await self._former.guard.aclose()
