"""What an error of the client's proves: that nothing was done, that the broker refused, or nothing at all."""

from __future__ import annotations

from typing import Any

from crossfoot.errors import missing_extra
from crossfoot.queues.queue import Doubtful, PublishAnswer, Refused


def import_client() -> Any:
    """The client's package, or the remedy when it is not there."""
    try:
        import confluent_kafka
        import confluent_kafka.admin
    except ImportError as error:
        raise missing_extra("Kafka", "kafka") from error
    return confluent_kafka


FOR_GOOD = frozenset(
    {"MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE", "INVALID_RECORD", "INVALID_TIMESTAMP", "RECORD_LIST_TOO_LARGE"}
)
"""The same bytes would be refused again. INVALID_RECORD is what a compacted topic says of a message without a key."""

NOT_STORED = frozenset({
    "UNKNOWN_TOPIC_OR_PART", "TOPIC_EXCEPTION", "TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED",
    "SASL_AUTHENTICATION_FAILED", "NOT_ENOUGH_REPLICAS", "POLICY_VIOLATION", "INVALID_REQUIRED_ACKS", "KAFKA_STORAGE_ERROR",
    "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "_QUEUE_FULL", "_AUTHENTICATION",
})  # fmt: skip
"""Answers by which the broker, or the client before it sent anything, says that it has not taken the message.

NOT_ENOUGH_REPLICAS_AFTER_APPEND is none of them: the leader has it.
"""


def publish_answer(key: str, error: Any, *, sent_once: bool = True) -> PublishAnswer:
    """What a failed delivery report says. Whatever is not known to prove that nothing was stored is in doubt.

    Args:
        sent_once: whether it is certain that the client did not send it before, without hearing of it.
    """
    name, text = str(error.name()), str(error.str())
    if name in FOR_GOOD:
        return Refused(key, f"{text} ({name})", permanent=True)
    if name in NOT_STORED and sent_once:
        return Refused(key, f"{text} ({name})", permanent=False)
    return Doubtful(key, f"{text} ({name}): it may be stored")


VOID = frozenset({"UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION", "FENCED_INSTANCE_ID", "STALE_MEMBER_EPOCH", "_FENCED"})
"""A commit that is refused so comes from somebody whom the group has given up, or who has missed a rebalance."""
