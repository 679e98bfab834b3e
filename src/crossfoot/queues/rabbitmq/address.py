"""Where a queue is, as one line of settings says it: server, virtual host, queue. Pure.

    amqp://host:5672/billing                         on the virtual host `/`
    amqps://user:secret@host/prod/billing            on the virtual host `prod`, encrypted
    rabbitmq:billing                                 the server and its virtual host elsewhere (the setting `endpoint`)
    rabbitmq:billing?exchange=orders&key=order.placed&dead=graveyard&heartbeat=120&held=3600

An address may carry a password. Nothing here puts one into an error.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec

from crossfoot.errors import UsageError

LOCAL = "amqp://127.0.0.1:5672"
"""Where a queue is that only has a name."""

SCHEMES = ("amqp", "amqps")

LONGEST_NAME = 200
"""Bytes; AMQP takes 255, and queues beside this one have longer names."""

LONGEST_KEY = 255

_NAME = re.compile(r"[^\x00-\x1f\x7f]+")
_NUMBER = re.compile(r"[0-9]{1,9}")
_KNOWN = ("exchange", "key", "dead", "heartbeat", "held")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """One queue's place.

    Attributes:
        url: the server and its virtual host, credentials included: never to be shown.
        exchange, key: what to publish to; the default exchange, which leads to the queue of that name, unless given.
        dead: the queue of its dead letters.
        heartbeat: seconds of silence after which the broker takes us for dead, and gives what we hold to others.
        held: seconds after which the broker closes the channel of whoever still holds a message (its `consumer_timeout`).
    """

    url: str
    queue: str
    exchange: str
    key: str
    dead: str
    heartbeat: int = 60
    held: int = 1_800

    @property
    def name(self) -> str:
        return self.queue

    @property
    def longest_lease(self) -> int:
        """Seconds: neither silence nor patience of the broker's may end before it."""
        return min(self.heartbeat, self.held)

    @property
    def holders(self) -> str:
        """The queue that never has a message: who consumes from it holds some of this one's."""
        return f"{self.queue}.holders"

    @property
    def shown(self) -> str:
        """The server without anybody's credentials."""
        return without_credentials(self.url)


def address_of(text: str, *, url: str | None = None) -> Address:
    """Read an address.

    Args:
        text: as above, with or without `rabbitmq:` in front.
        url: the server, and its virtual host as the path, if the address does not say.

    Raises:
        UsageError: it is none; says what is wrong without repeating a password.
    """
    for place in (text, url or ""):
        if "://" in place:
            _must_be_told_apart(place)
    if "://" in text:
        rest, _, query = text.partition("?")
        server, separator, queue = rest.rpartition("/")
        if separator and server.endswith(("/", ":")):  # amqp://host
            server, queue = rest, ""
    else:
        server, (queue, _, query) = url or LOCAL, text.removeprefix("rabbitmq:").partition("?")
    queue = unquote(queue)
    shown = f"rabbitmq:{queue}"
    _must_be_name(queue, shown)
    options = dict(parse_qsl(query, keep_blank_values=True))
    for option in options:
        if option not in _KNOWN:
            raise UsageError(
                f"queue {shown}: ?{option}= is no option of a RabbitMQ queue: there are {', '.join(_KNOWN)}"
            )
    exchange, dead = options.get("exchange", ""), options.get("dead") or f"{queue}.dead"
    _must_be_name(dead, shown)
    key = options.get("key", "" if exchange else queue)
    if len(key.encode()) > LONGEST_KEY or len(exchange.encode()) > LONGEST_KEY:
        raise UsageError(f"queue {shown}: ?key= and ?exchange= take up to {LONGEST_KEY} bytes")
    return Address(
        url=_server(server, shown), queue=queue, exchange=exchange, dead=dead,
        key=key,
        heartbeat=_seconds(options.get("heartbeat", "60"), "heartbeat", shown, most=60_000),
        held=_seconds(options.get("held", "1800"), "held", shown, most=10**9),
    )  # fmt: skip


def without_credentials(url: str) -> str:
    """A server's URL as it may be shown."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def _server(text: str, shown: str) -> str:
    """The server's URL, with the virtual host as AMQP URIs have it: nothing for `/`."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # what is said of it may hold the password
        raise UsageError(
            f"queue {shown}: its server's address cannot be read: write amqp://USER:PASSWORD@HOST:PORT/VHOST"
        ) from None
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise UsageError(f"queue {shown}: its server's address begins with amqp://HOST or amqps://HOST")
    vhost = unquote(parts.path.removeprefix("/")) or "/"
    path = "" if vhost == "/" else f"/{quote(vhost, safe='')}"
    default = 5671 if parts.scheme == "amqps" else 5672
    return f"{parts.scheme}://{parts.netloc if port else f'{parts.netloc}:{default}'}{path}"


def _must_be_told_apart(url: str) -> None:
    """Who has a `/`, `?` or `#` in the password has it where a host, a queue or an option should be, all of which are shown."""
    before, at, after = url.partition("://")[2].rpartition("@")
    if at and (set("/?#") & set(before)):
        raise UsageError(
            f"a queue's address on RabbitMQ, ...@{after.partition('?')[0]}, cannot be read: write it as "
            "amqp://USER:PASSWORD@HOST:PORT/VHOST/QUEUE, with special characters in each part as %-escapes"
        )


def _must_be_name(name: str, shown: str) -> None:
    if not _NAME.fullmatch(name) or len(name.encode()) > LONGEST_NAME or name.startswith("amq."):
        raise UsageError(
            f"queue {shown}: {name!r} cannot be a queue's name: write amqp://HOST:5672/VHOST/QUEUE, with a name of up to "
            f"{LONGEST_NAME} bytes that does not begin with 'amq.'"
        )


def _seconds(text: str, option: str, shown: str, *, most: int) -> int:
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= most:
        raise UsageError(f"queue {shown}: ?{option}={text!r}: give whole seconds from 1 to {most:,}")
    return int(text)
