"""What a topic's settings mean for a queue, and what they lose without a word. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from crossfoot.queues.telling import Told

LARGEST = 1_048_588
"""Bytes of a batch that a topic takes unless it says otherwise (Kafka, `max.message.bytes`)."""

OVERHEAD = 1_024
"""Bytes of a batch that no body can have: its own and its record's framing, the key, and headers of ours."""


def retention_of(settings: Mapping[str, str]) -> float | None:
    """Seconds after which the topic forgets, by age."""
    text = settings.get("retention.ms", "-1")
    if "delete" not in settings.get("cleanup.policy", "delete") or not text.isdecimal():
        return None
    return int(text) / 1_000


def max_bytes_of(settings: Mapping[str, str], wanted: int) -> int:
    """The largest message, attributes included."""
    text = settings.get("max.message.bytes", "")
    largest = int(text) if text.isdecimal() else LARGEST
    return max(1, min(wanted, largest - OVERHEAD))


def told(settings: Mapping[str, str]) -> Told:
    """How a topic is set, for who audits it. What is published is confirmed by all replicas in sync (acks=all), and so by how many."""
    said = warnings(settings)
    if settings.get("min.insync.replicas") == "1":
        said.append(
            "one replica may confirm a publish alone, and lose it with its disk (min.insync.replicas: 2, of three replicas)"
        )
    names = (
        "retention.ms",
        "retention.bytes",
        "cleanup.policy",
        "min.insync.replicas",
        "unclean.leader.election.enable",
    )
    return Told(
        figures={"acks": "all", **{name: settings[name] for name in names if name in settings}}, warnings=tuple(said)
    )


def with_dead(told: Told, topic: str, settings: Mapping[str, str] | None) -> Told:
    """What is told with the settings of the topic of its dead letters; `None` where there is no such topic. They are as old as they are
    dead: who buries publishes them anew."""
    if settings is None:
        return msgspec.structs.replace(told, buries=False)
    said = tuple(f"of its dead letters in {topic}: {warning}" for warning in warnings(settings))
    return msgspec.structs.replace(
        told, buries=True, dead_retention=retention_of(settings), warnings=(*told.warnings, *said)
    )


def warnings(settings: Mapping[str, str]) -> list[str]:
    """What can be lost by these settings, and the broker would not say."""
    said = []
    if "compact" in settings.get("cleanup.policy", ""):
        said.append(
            "it is compacted: of the messages of one key only the latest is certain to be delivered (cleanup.policy: delete keeps all)"
        )
    if settings.get("unclean.leader.election.enable") == "true":
        said.append(
            "a replica that is behind may become its leader, and confirmed messages are gone (unclean.leader.election.enable)"
        )
    bytes_kept = settings.get("retention.bytes", "-1")
    if bytes_kept.isdecimal():
        said.append(
            f"it drops its oldest messages when a partition is larger than {bytes_kept} bytes, handled or not (retention.bytes)"
        )
    return said
