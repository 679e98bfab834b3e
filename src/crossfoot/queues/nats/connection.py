"""The way to one queue's servers, and its errors read as what they prove.

Three things can be known after a request: it was done (an answer), it was not done (a refusal, or it never left this
machine), or nobody knows (sent, no answer). The client's own reconnecting blurs the last two: it keeps what could not be
sent and sends it later, when the caller has long been told something else. So it is switched off. A connection that is
lost ends every wait on it at once, and the next request makes a new one, or says that it could not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from anyio import Lock, to_thread

from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.nats.answers import NoAnswer, answer_of
from crossfoot.queues.nats.link import Link, import_nats

if TYPE_CHECKING:
    from nats.aio.msg import Msg


PAUSE_SECONDS = 0.5
"""After a failure to connect."""


class Connection:
    """The way to one queue's servers, made when first needed and again whenever it was lost.

    Args:
        servers: their URLs, credentials included; `shown` is what errors may say of them.
        label: the queue's name, for errors.
        timeout: seconds until a request without an answer is given up.
        options: more for the client's `connect`: credentials, TLS.
    """

    def __init__(
        self, servers: Sequence[str], *, shown: str, label: str, timeout: float, options: Mapping[str, Any]
    ) -> None:
        self.label = label
        self.timeout = timeout
        self._servers = list(servers)
        self._shown = shown
        self._options = dict(options)
        self._connecting = Lock()
        self._link: Link | None = None
        self._failed: tuple[float, str] = (0.0, "")
        """Until when no other attempt is made, and why the last one failed."""

    @property
    def standing(self) -> Link | None:
        """The connection there is, if it is up."""
        return self._link if self._link is not None and self._link.up else None

    async def link(self) -> Link:
        """A connection that is up.

        Raises:
            QueueUnavailable: there is none to be had.
            UsageError: the client is not installed.
        """
        async with self._connecting:
            if self._link is None or not self._link.up:
                until, why = self._failed
                if anyio.current_time() < until:  # many requests were waiting for it: they need not wait one by one
                    raise QueueUnavailable(why)
                await self._drop()
                self._link = await self._connect()
            return self._link

    async def ask(self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None) -> Msg:
        """One request, sent at most once. A cancellation waits for its answer, as long as the timeout at most.

        Raises:
            NoAnswer, NobodyListens: as their names say.
            QueueUnavailable: the request never left this machine, or the servers forbid it.
        """
        link = await self.link()
        return await link.ask(subject, payload, headers, shield=True)

    async def api(self, what: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A request to JetStream's own interface that changes nothing, and its answer. Asked again if the connection broke.

        Raises:
            Rejected: it refuses. Also what `ask` raises.
        """
        payload = msgspec.json.encode(request) if request is not None else b""
        link = await self.link()
        try:
            return answer_of((await link.ask(f"$JS.API.{what}", payload)).data)
        except NoAnswer:
            if link.up:
                raise
        return answer_of((await (await self.link()).ask(f"$JS.API.{what}", payload)).data)

    async def close(self) -> None:
        async with self._connecting:
            await self._drop()

    async def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _connect(self) -> Link:
        errors = (await to_thread.run_sync(import_nats)).errors
        link = Link(self.label, self.timeout)
        try:
            with anyio.fail_after(self.timeout):
                await link.open(self._servers, self._options)
        except (errors.Error, OSError, TimeoutError, ValueError) as error:
            await link.close()
            why = f"queue {self.label} cannot be reached at {self._shown}, and was asked nothing: {_why(error, link)}"
            self._failed = (anyio.current_time() + PAUSE_SECONDS, why)
            raise QueueUnavailable(why) from None
        except ImportError as error:
            await link.close()
            raise UsageError(
                f"queue {self.label}: credentials files and nkeys need nats-py[nkeys]: pip install 'nats-py[nkeys]'"
            ) from error
        except BaseException:
            await link.close()
            raise
        return link


def _why(error: BaseException, link: Link) -> str:
    """The client's last words, which name no credentials."""
    said = link.last_error if isinstance(error, TimeoutError) or "no servers available" in str(error) else str(error)
    if "authorization" in said.lower():
        return "it refused us (authorization violation). Check user, password or credentials file"
    return f"{said or 'no answer in time'}. Check the address, and whether the server runs"
