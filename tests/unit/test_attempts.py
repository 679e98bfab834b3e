"""How often a message was delivered is told by attributes that anybody may set who may send to the queue."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from crossfoot.queues.attempts import attempts_told
from crossfoot.queues.nats.dead import held_of as seen_on_nats
from crossfoot.queues.nats.stream import Stored
from crossfoot.queues.redis.entries import ATTEMPT as REDIS_ATTEMPT
from crossfoot.queues.redis.entries import BODY, entered_at
from crossfoot.queues.redis.entries import held_of as seen_on_redis
from crossfoot.queues.sqs.dead import held_of as seen_on_sqs

NO_NUMBERS = ["", "-1", "1.5", " 7", "seven", "\u0667", "1e3", "9" * 7, "9" * 25, "9" * 5_000]


@pytest.mark.parametrize("text", ["0", "7", "0012", "999999"])
def test_a_number_is_taken_at_its_word(text: str) -> None:
    assert attempts_told(text, 5) == int(text)


@pytest.mark.parametrize("text", [None, *NO_NUMBERS], ids=lambda text: repr(text)[:12])
def test_what_is_no_number_of_deliveries_tells_nothing(text: str | None) -> None:
    assert attempts_told(text, 5) == 5


@pytest.mark.parametrize("text", NO_NUMBERS, ids=lambda text: repr(text)[:12])
def test_no_queue_believes_it(text: str) -> None:
    attributes = {"crossfoot-attempt": {"StringValue": text}}
    on_sqs = seen_on_sqs({"Body": "{}", "MessageId": "m", "MessageAttributes": attributes})
    fields = [BODY.encode(), b"{}", REDIS_ATTEMPT.encode(), text.encode()]
    on_redis = seen_on_redis(fields, broker_id="1-0", attempt=0, dead=True)
    stored = Stored(sequence=1, body=b"{}", headers={"crossfoot-attempt": quote(text)}, at_nanos=0)
    on_nats = seen_on_nats("dead", stored, dead=True)

    assert [held.attempt for held in (on_sqs, on_redis, on_nats)] == [0, 0, 0]


@pytest.mark.parametrize("entry", ["9" * 25 + "-0", "9" * 5_000, "x-1", ""], ids=lambda text: repr(text)[:12])
def test_an_entry_s_id_that_is_no_time_tells_none(entry: str) -> None:
    assert entered_at(entry) is None
