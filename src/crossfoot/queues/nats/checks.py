"""Whether a stream and a consumer can be a queue: what they must be, and what is only said aloud. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from crossfoot.queues.nats.dead import limit_of, max_age_of
from crossfoot.queues.nats.given_up import Kept
from crossfoot.queues.nats.messages import OWN_BYTES
from crossfoot.queues.telling import Told

_NANOS = 1_000_000_000

MOST_PER_PULL = 100


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A queue's settings, as its stream and its consumer have them. Times in seconds."""

    subject: str
    """What is published to; empty when that cannot be told."""
    subjects: tuple[str, ...]
    """What the consumer takes; empty for all."""
    kept: Kept
    ack_wait: float
    max_attempts: int | None
    retention: float | None
    dedup: float
    max_bytes: int
    max_receive: int
    longest_pull: float | None
    """How long the consumer lets a pull wait."""


def found(stream: Mapping[str, Any], consumer: Mapping[str, Any], *, subject: str, max_payload: int) -> Found:
    """Read the settings."""
    config, durable = stream["config"], consumer["config"]
    subjects = tuple(durable.get("filter_subjects") or filter(None, [durable.get("filter_subject")]))
    alone = config.get("retention") == "workqueue"  # by interest, too, until another consumer is added
    most = int(durable.get("max_deliver", -1))
    in_flight = int(durable.get("max_ack_pending", 0))
    batch = int(durable.get("max_batch", 0))
    limits = [limit for limit in (in_flight, batch) if limit > 0]
    return Found(
        subject=subject or _literal(subjects) or ("" if subjects else _literal(tuple(config.get("subjects") or ()))),
        subjects=subjects,
        kept=Kept.UNACKED if alone else Kept.MORE,
        ack_wait=int(durable.get("ack_wait", 30 * _NANOS)) / _NANOS,
        max_attempts=most if most > 0 else None,
        retention=max_age_of(config),
        dedup=int(config.get("duplicate_window", 0)) / _NANOS,
        max_bytes=max(0, min(max_payload, limit_of(config) or max_payload) - OWN_BYTES),
        max_receive=min([MOST_PER_PULL, *limits]),
        longest_pull=int(durable.get("max_expires", 0)) / _NANOS or None,
    )


def unfit(stream: Mapping[str, Any], consumer: Mapping[str, Any]) -> str:
    """Why the consumer cannot be a queue's, with the remedy; empty when it can."""
    config = consumer["config"]
    if config.get("deliver_subject"):
        return "its consumer pushes: make a pull consumer (without deliver_subject)"
    if config.get("ack_policy") != "explicit":
        return f"its consumer's ack policy is {config.get('ack_policy')!r}: an ack must speak of one message, so make it 'explicit'"
    if config.get("backoff"):
        return "its consumer has a backoff, and leases would be what that says: remove it, the worker has pauses of its own"
    if config.get("headers_only"):
        return "its consumer delivers headers only: turn headers_only off"
    if stream["config"].get("sealed"):
        return "its stream is sealed: acked messages could not be removed"
    return ""


def warnings(stream: Mapping[str, Any], consumer: Mapping[str, Any]) -> list[str]:
    """What can be lost by these settings, and the server would not say."""
    config, durable = stream["config"], consumer["config"]
    said = []
    if config.get("storage") == "memory" or durable.get("mem_storage"):
        said.append("stream or consumer is kept in memory: a restart of the server loses it (storage: file)")
    if config.get("persist_mode") == "async":
        said.append("the stream acknowledges before it writes (persist_mode: async): what was accepted may be lost")
    if config.get("discard", "old") == "old" and any(
        int(config.get(limit, -1)) > 0 for limit in ("max_msgs", "max_bytes", "max_msgs_per_subject")
    ):
        said.append("when the stream is full it drops its oldest messages, acked or not (discard: new refuses instead)")
    if int(durable.get("inactive_threshold", 0)) > 0:
        said.append("the consumer is removed when nobody receives for a while (inactive_threshold: 0 keeps it)")
    if consumer.get("paused"):
        said.append("the consumer is paused: it delivers nothing until it is resumed")
    if int(durable.get("max_deliver", -1)) > 0:
        said.append(
            f"the consumer gives a message up after {durable['max_deliver']} deliveries without a word (max_deliver: -1 never does)"
        )
    return said


def told(stream: Mapping[str, Any], consumer: Mapping[str, Any]) -> Told:
    """How stream and consumer are set, for who audits them."""
    config, durable = stream["config"], consumer["config"]
    said = warnings(stream, consumer)
    replicas = int(config.get("num_replicas", 1))
    if config.get("storage") != "memory" and replicas == 1:
        said.append(
            "there is one replica, and a server writes to disk every two minutes unless sync_interval says otherwise, which it tells "
            "no client: if its machine stops, what was accepted last is lost (num_replicas: 3, or sync_interval: always)"
        )
    figures = {
        name: str(config[name]) for name in ("storage", "retention", "discard", "num_replicas") if name in config
    }
    return Told(
        figures=figures | {"max_deliver": str(durable.get("max_deliver", -1))},
        warnings=tuple(said),
        lease=int(durable.get("ack_wait", 30 * _NANOS)) / _NANOS,
    )


def _literal(subjects: tuple[str, ...]) -> str:
    """The one subject, if it is one that can be published to."""
    if len(subjects) == 1 and not any(part in ("*", ">") for part in subjects[0].split(".")):
        return subjects[0]
    return ""
