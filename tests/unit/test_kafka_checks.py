"""What a Kafka topic's settings mean for a queue."""

from __future__ import annotations

import pytest

from crossfoot.queues.kafka.checks import OVERHEAD, max_bytes_of, retention_of, warnings


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, None), ({"retention.ms": "-1"}, None), ({"retention.ms": "604800000"}, 604_800.0),
        ({"retention.ms": "1000", "cleanup.policy": "compact"}, None), ({"retention.ms": "1000", "cleanup.policy": "compact,delete"}, 1.0),
    ],
)  # fmt: skip
def test_retention_is_that_of_a_topic_that_deletes_by_age(settings: dict[str, str], seconds: float | None) -> None:
    assert retention_of(settings) == seconds


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"cleanup.policy": "compact"}, "compacted"), ({"cleanup.policy": "compact,delete"}, "compacted"),
        ({"unclean.leader.election.enable": "true"}, "unclean.leader.election.enable"), ({"retention.bytes": "1000"}, "retention.bytes"),
    ],
)  # fmt: skip
def test_what_a_topic_may_lose_without_a_word_is_said(settings: dict[str, str], word: str) -> None:
    (said,) = warnings(settings)
    assert word in said


def test_a_topic_that_loses_nothing_is_not_warned_of() -> None:
    settings = {
        "cleanup.policy": "delete",
        "unclean.leader.election.enable": "false",
        "retention.bytes": "-1",
        "retention.ms": "1",
    }
    assert warnings(settings) == []


def test_the_largest_message_is_the_smaller_bound_less_what_no_body_can_have() -> None:
    assert max_bytes_of({"max.message.bytes": "10000"}, 1_048_576) == 10_000 - OVERHEAD
    assert max_bytes_of({"max.message.bytes": "10000"}, 5_000) == 5_000
    assert max_bytes_of({}, 10_000_000) == 1_048_588 - OVERHEAD
