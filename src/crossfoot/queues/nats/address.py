"""Where a queue is, as one line of settings says it: servers, stream, durable. Pure.

    nats://host:4222/ORDERS/billing                  servers in the address
    nats:ORDERS/billing                              servers elsewhere (the setting `endpoint`)
    nats://a:4222,b:4222/ORDERS/billing?subject=orders.new&dead=ORDERS-dead&creds=billing.creds

An address may carry a password. Nothing here puts one into an error.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

import msgspec

from crossfoot.errors import UsageError

DEFAULT_SERVER = "nats://127.0.0.1:4222"

SCHEMES = ("nats", "tls", "ws", "wss")

_NAME = re.compile(r"[^\s.*>/\\]{1,255}")
_KNOWN = ("subject", "dead", "creds")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """One queue's place.

    Attributes:
        servers: URLs, credentials included.
        subject: what to publish to, where stream and consumer leave a choice.
        dead: the stream of its dead letters.
        creds: a file with the user's credentials.
    """

    servers: tuple[str, ...]
    stream: str
    durable: str
    subject: str = ""
    dead: str = ""
    creds: str = ""

    @property
    def name(self) -> str:
        return f"{self.stream}/{self.durable}"

    @property
    def shown(self) -> str:
        """The servers without anybody's credentials."""
        return ", ".join(without_credentials(server) for server in self.servers)


def address_of(text: str, *, servers: str | None = None, durable: str | None = None) -> Address:
    """Read an address.

    Args:
        text: as above, with or without `nats:` in front.
        servers: where the servers are, if the address does not say; several with commas in between.
        durable: the consumer's name, if the address names none.

    Raises:
        UsageError: it is none; says what is wrong without repeating a password.
    """
    rest, found = text, servers or DEFAULT_SERVER
    scheme, separator, behind = text.partition("://")
    if separator:
        hosts, _, rest = behind.partition("/")
        found = f"{scheme}://{hosts}"
    else:
        rest = text.removeprefix("nats:")
    path, _, query = rest.partition("?")
    stream, _, name = path.strip("/").partition("/")
    name = name or durable or ""
    shown = f"nats:{path.strip('/')}"
    for what, value in (("stream", stream), ("durable", name)):
        if not _NAME.fullmatch(value):
            raise UsageError(
                f"queue {shown}: {value!r} cannot be a {what}'s name: write nats://HOST:4222/STREAM/DURABLE, names without "
                "spaces, dots, slashes, '*' and '>'"
            )
    options = dict(parse_qsl(query, keep_blank_values=True))
    for option in options:
        if option not in _KNOWN:
            raise UsageError(f"queue {shown}: ?{option}= is no option of a NATS queue: there are {', '.join(_KNOWN)}")
    return Address(servers=_servers(found, shown), stream=stream, durable=name, **options)


def without_credentials(server: str) -> str:
    """A server's URL as it may be shown."""
    scheme, _, rest = server.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _servers(text: str, shown: str) -> tuple[str, ...]:
    """One URL for each host; the scheme, and credentials given once, hold for all."""
    scheme, separator, hosts = text.partition("://")
    if not separator:
        scheme, hosts = "nats", text
    credentials, at, _ = hosts.partition(",")[0].rpartition("@")
    found = []
    for host in (one.strip().rstrip("/") for one in hosts.split(",")):
        bare = host.partition("://")[2] or host
        if scheme not in SCHEMES or not bare.rpartition("@")[2]:
            raise UsageError(f"queue {shown}: its servers are no NATS addresses: write nats://HOST:4222")
        found.append(f"{scheme}://{bare if '@' in bare or not at else f'{credentials}@{bare}'}")
    return tuple(found)
