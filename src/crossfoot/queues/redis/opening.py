"""Opening: is the server new enough, are stream and group there, and what may the server lose by itself?

Nothing is made and nothing is changed. What cannot be asked, because the server does not let us, is not complained about.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.redis.answers import NoAnswer, Rejected, Unusable
from crossfoot.queues.redis.client import Client
from crossfoot.queues.redis.entries import pairs_of, text_of
from crossfoot.queues.redis.scripts import DEPTH
from crossfoot.queues.telling import Told

OLDEST_VERSION = (6, 2)
"""XADD NOMKSTREAM, exclusive ranges and XPENDING by pages of a stream are there since then."""

SETTINGS = ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save")

_log = logging.getLogger("crossfoot.queues.redis")


async def check(client: Client) -> Told:
    """See that the queue can be worked. Returns how its server is set.

    Raises:
        QueueUnavailable: it does not exist, cannot be reached, refuses us, or is on a server that is too old.
    """
    name = client.address.name
    try:
        server = await _server(client)
        if server and (old := _too_old(server)):
            raise QueueUnavailable(f"queue {name} is on Redis {old}: crossfoot needs Redis 6.2, or Valkey")
        await client.run(DEPTH)
        groups = await client.ask("XINFO", "GROUPS", client.address.stream)
        if client.address.group.encode() not in [pairs_of(group)["name"] for group in groups]:
            raise client.no_group()
    except (NoAnswer, Rejected) as error:
        raise QueueUnavailable(f"queue {name} could not be opened: {error}. Check its address") from error
    configuration = await _configuration(client)
    told = Told(figures=dict(configuration), warnings=tuple(warnings(server, configuration)), buries=True)
    for warning in told.warnings:
        _log.warning("queue %s: %s", name, warning)
    return told


async def _server(client: Client) -> Mapping[str, str]:
    """What INFO tells; nothing, where we may not ask."""
    try:
        return _facts(await client.ask("INFO"))
    except Unusable as error:
        if error.code == "NOPERM":
            return {}
        raise


async def _configuration(client: Client) -> Mapping[str, str]:
    """The settings that decide what may be lost; nothing, where we may not ask. Passwords are settings, too, and none of ours."""
    told = await client.ask_all([("CONFIG", "GET", name) for name in SETTINGS])
    return {
        name: text_of(value)
        for answer in told
        if not isinstance(answer, Exception)
        for name, value in pairs_of(answer).items()
    }


def warnings(server: Mapping[str, str], configuration: Mapping[str, str]) -> list[str]:
    """What the server may forget although it accepted it. Pure."""
    found = []
    policy = configuration.get("maxmemory-policy", server.get("maxmemory_policy", ""))
    limited = configuration.get("maxmemory", server.get("maxmemory", "0")) != "0"
    if limited and policy.startswith("allkeys"):
        found.append(
            f"the server may evict the whole queue when its memory is full (maxmemory-policy {policy}): set it to noeviction"
        )
    log = configuration.get("appendonly", "yes" if server.get("aof_enabled") == "1" else "no" if server else "")
    fsync = configuration.get("appendfsync", "")
    snapshots = configuration.get("save", "")
    if log == "no" and configuration and not snapshots:
        found.append("the server keeps nothing on disk: a restart loses every message; set appendonly yes")
    elif log == "no":
        found.append(
            "the server saves snapshots at most: a crash loses what came since the last one; set appendonly yes"
        )
    elif fsync in ("everysec", "no"):
        found.append(
            f"the server confirms a publish before it is on disk (appendfsync {fsync}): a crash loses what came last, and the "
            "books will call it vanished; appendfsync always loses nothing, and is slower"
        )
    return found


def _facts(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in text_of(info).splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in lines}


def _too_old(server: Mapping[str, str]) -> str:
    """The version, if it is too old. Valkey tells the one of Redis that it is compatible with."""
    version = server.get("redis_version", "")
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    return version if len(parts) == 2 and parts < OLDEST_VERSION else ""
