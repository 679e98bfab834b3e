"""Where a queue is, as one line of settings says it: servers, topic, consumer group. Pure.

    kafka://host:9092/billing?group=letters          one server is enough, the others are learned from it
    kafkas://user:secret@host:9093,other:9093/billing?group=letters&sasl=SCRAM-SHA-512
    kafka:billing?group=letters                      the servers elsewhere (the setting `endpoint`)
    kafka:billing?group=letters&dead=graveyard&session=60&ahead=500&mode=binary&retention=604800

An address may carry a password. Nothing here puts one into an error.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from crossfoot.errors import UsageError

LOCAL = "127.0.0.1:9092"
"""Where a topic is that only has a name."""

SCHEMES = ("kafka", "kafkas")

LONGEST_NAME = 249
"""Characters of a topic's name (Kafka, `Topic.java`)."""

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

_TOPIC = re.compile(r"[a-zA-Z0-9._-]+")
_SERVER = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^\s,:/@\[\]]+)(?::[0-9]{1,5})?")
_NUMBER = re.compile(r"[0-9]{1,12}")
_KNOWN = ("group", "dead", "session", "ahead", "mode", "retention", "sasl")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """One group's place on one topic.

    Attributes:
        servers: as the client takes them, `host:port,host:port`.
        dead: the topic of its dead letters.
        session: seconds of silence after which the group takes us for dead, and gives our partitions to others.
        ahead: messages of one partition that may be in hand beyond the committed offset.
        binary: whether events are published in CloudEvents' binary mode (headers) instead of its structured one.
        retention: seconds after which the topic forgets, where its settings may not be read.
        login: user, password and mechanism; never to be shown.
    """

    servers: str
    topic: str
    group: str
    dead: str
    encrypted: bool = False
    session: int = 45
    ahead: int = 1_000
    binary: bool = False
    retention: float | None = None
    login: tuple[str, str, str] | None = None

    @property
    def name(self) -> str:
        return f"{self.topic}/{self.group}"

    @property
    def security(self) -> dict[str, Any]:
        """The client's settings for encryption and credentials."""
        kind = ("SASL_" if self.login else "") + ("SSL" if self.encrypted else "PLAINTEXT")
        if self.login is None:
            return {"security.protocol": kind}
        user, password, mechanism = self.login
        return {
            "security.protocol": kind, "sasl.mechanism": mechanism, "sasl.username": user, "sasl.password": password,
        }  # fmt: skip


def address_of(text: str, *, servers: str | None = None, group: str | None = None) -> Address:
    """Read an address.

    Args:
        text: as above, with or without `kafka:` in front.
        servers: `host:port,host:port` or `kafka://host:port`, if the address does not say.
        group: the consumer group, if the address does not say.

    Raises:
        UsageError: it is none; says what is wrong without repeating a password.
    """
    if "://" in text:
        rest, _, query = text.partition("?")
        server, _, topic = rest.rpartition("/")
    else:
        server, (topic, _, query) = servers or LOCAL, text.removeprefix("kafka:").partition("?")
    topic = unquote(topic)
    options = dict(parse_qsl(query, keep_blank_values=True))
    if any("@" in one for one in (topic, *options)) or ":" in topic:  # a password's, perhaps: nothing of it is shown
        raise UsageError(
            "the queue's address names no topic: write kafka://USER:PASSWORD@HOST:9092/TOPIC?group=GROUP, with '?', '/' and '@' in a "
            "password as %3F, %2F and %40"
        )
    shown = f"kafka:{topic}"
    _must_be_topic(topic, shown)
    for option in options:
        if option not in _KNOWN:
            raise UsageError(f"queue {shown}: ?{option}= is no option of a Kafka queue: there are {', '.join(_KNOWN)}")
    group = options.get("group") or group
    if not group:
        raise UsageError(f"queue {shown} names no consumer group: write kafka://HOST:9092/TOPIC?group=GROUP")
    dead = options.get("dead") or f"{topic}.dead"
    _must_be_topic(dead, shown)
    mode = options.get("mode", "structured")
    if mode not in ("structured", "binary"):
        raise UsageError(f"queue {shown}: ?mode={mode!r}: there are structured and binary")
    retention = options.get("retention")
    encrypted, where, login = _server(server, options.get("sasl"), shown)
    return Address(
        servers=where, topic=topic, group=group, dead=dead, encrypted=encrypted, login=login, binary=mode == "binary",
        session=_number(options.get("session", "45"), "session", shown, most=1_800),
        ahead=_number(options.get("ahead", "1000"), "ahead", shown, most=100_000),
        retention=None if retention is None else float(_number(retention, "retention", shown, most=10**11)),
    )  # fmt: skip


def _server(text: str, mechanism: str | None, shown: str) -> tuple[bool, str, tuple[str, str, str] | None]:
    """Whether it is encrypted, where it is, and who we are there."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "kafka", text
    credentials, at, where = rest.rstrip("/").rpartition("@")
    if scheme not in SCHEMES or not where or not all(_SERVER.fullmatch(one) for one in where.split(",")):
        raise UsageError(f"queue {shown}: its servers' address begins with kafka://HOST:9092 or kafkas://HOST:9093")
    if not at:
        if mechanism is not None:
            raise UsageError(f"queue {shown}: ?sasl= wants a user and a password: kafkas://USER:PASSWORD@HOST:9093")
        return scheme == "kafkas", where, None
    user, colon, password = credentials.partition(":")
    mechanism = mechanism or "PLAIN"
    if not user or not colon or mechanism not in MECHANISMS:
        raise UsageError(
            f"queue {shown}: give USER:PASSWORD@ before its servers, and ?sasl= of {', '.join(MECHANISMS)}"
        )
    return scheme == "kafkas", where, (unquote(user), unquote(password), mechanism)


def _must_be_topic(name: str, shown: str) -> None:
    if not _TOPIC.fullmatch(name) or len(name) > LONGEST_NAME or name in (".", ".."):
        raise UsageError(
            f"queue {shown}: {name!r} cannot be a topic's name: write kafka://HOST:9092/TOPIC?group=GROUP, with up to "
            f"{LONGEST_NAME} letters, digits, '.', '_' and '-'"
        )


def _number(text: str, option: str, shown: str, *, most: int) -> int:
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= most:
        raise UsageError(f"queue {shown}: ?{option}={text!r}: give a whole number from 1 to {most:,}")
    return int(text)
