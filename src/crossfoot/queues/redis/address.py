"""Where a queue is: server, database, stream, group, and the keys beside the stream. Pure.

All keys of a queue share one hash slot, which a cluster wants: of `billing` they are `{billing}:leases` and so on, and
the slot of both is that of `billing`.
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec

from crossfoot.errors import UsageError

LOCAL = "redis://127.0.0.1:6379/0"
"""Where a queue is that only has a name."""

GROUP = "crossfoot"
"""The consumer group, unless another one is named."""

SCHEMES = ("redis", "rediss", "unix")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """One queue's address."""

    url: str
    """The server and its database, credentials included: never to be shown."""
    stream: str
    group: str

    @property
    def name(self) -> str:
        """What books and balances call the queue."""
        return self.stream if self.group == GROUP else f"{self.stream}/{self.group}"

    @property
    def place(self) -> str:
        """The server without credentials, for errors."""
        return without_credentials(self.url)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys every script is given, in the order in which `scripts/common.lua` names them."""
        tag = self.stream if "{" in self.stream else f"{{{self.stream}}}"
        beside = ("leases", "holders", "returned", "delayed", "dead", "expired", "cursor")
        return (self.stream, *(f"{tag}:{name}" for name in beside))

    @property
    def delayed(self) -> str:
        return self.keys[4]

    @property
    def dead(self) -> str:
        """The stream of dead letters."""
        return self.keys[5]

    @property
    def expired(self) -> str:
        return self.keys[6]


def address_of(queue: str, url: str | None = None) -> Address:
    """Read an address.

    Args:
        queue: `STREAM` or `STREAM/GROUP`; or a URL that ends in either, as `redis://host:6379/0/billing`.
        url: where the server is, if `queue` does not say: `redis://`, `rediss://` (TLS) or `unix://`.

    Raises:
        UsageError: it names no stream, or the URL is none that leads to a server.
    """
    path = queue
    if "://" in queue:
        try:
            parts = urlsplit(queue)
        except ValueError as error:
            raise UsageError(f"the queue's URL cannot be read: {error}") from None
        if parts.scheme == "unix":
            raise UsageError(
                "a unix socket goes into the endpoint, as unix:///run/redis.sock, and the stream into the queue"
            )
        database, _, path = parts.path.lstrip("/").partition("/")
        if not database.isdecimal():
            database, path = "0", parts.path.lstrip("/")
        url = urlunsplit((parts.scheme, parts.netloc, f"/{database}", parts.query, ""))
    stream, _, group = (unquote(part) for part in path.partition("/"))
    url = url or LOCAL
    shown = without_credentials(url)
    if not stream:
        raise UsageError(f"queue at {shown} names no stream: write it behind the database, as in {shown}/billing")
    if ("{" in stream or "}" in stream) and not _has_tag(stream):
        raise UsageError(
            f"stream {stream!r}: braces mark a cluster's hash tag, as in {{billing}}.orders; there is none here"
        )
    if url.partition(":")[0] not in SCHEMES:
        raise UsageError(f"{shown} is no address of a Redis server: it begins with redis://, rediss:// or unix://")
    return Address(url=url, stream=stream, group=group or GROUP)


def _has_tag(stream: str) -> bool:
    """Whether the first `{` is closed, with something inside: then that is what a cluster hashes."""
    _, brace, rest = stream.partition("{")
    tag, closed, _ = rest.partition("}")
    return bool(brace and closed and tag)


def without_credentials(url: str) -> str:
    """The URL for people: no user, no password, no options."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
