"""The queue that a worker works, and the one that `balance` asks under its name, are the same: one table says what a setting means."""

from __future__ import annotations

import pytest

from crossfoot.clock import SystemClock
from crossfoot.connection import without_driver
from crossfoot.errors import UsageError
from crossfoot.queues.choosing import SCHEMES, queue_of, queue_to_ask
from crossfoot.settings import Settings

SETTINGS = {
    "embedded": {"database": "postgresql://127.0.0.1/books"},
    "embedded:letters": {"database": "postgresql://127.0.0.1/books"},
    "sqs:letters": {"region": "eu-central-1"},
    "https://sqs.eu-central-1.amazonaws.com/123456789012/letters": {},
    "redis:letters": {"endpoint": "redis://127.0.0.1:6379/0"},
    "redis://127.0.0.1:6379/0/letters": {},
    "postgres:letters": {"endpoint": "postgresql://127.0.0.1/queues"},
    "postgres": {"database": "postgresql+asyncpg://127.0.0.1/books"},
    "postgresql://127.0.0.1/queues?queue=letters": {},
    "postgresql://127.0.0.1/queues": {},
    "nats://127.0.0.1:4222/LETTERS/billing": {},
    "nats://127.0.0.1:4222/LETTERS": {},
    "rabbitmq:letters": {"endpoint": "amqp://127.0.0.1:5672/"},
    "rabbitmq": {"endpoint": "amqp://127.0.0.1:5672/"},
    "amqp://127.0.0.1:5672/%2F/letters": {},
    "kafka:letters?group=billing": {"endpoint": "kafka://127.0.0.1:9092"},
    "kafka:letters": {"endpoint": "kafka://127.0.0.1:9092"},
    "kafka://127.0.0.1:9092/letters": {},
}


@pytest.mark.parametrize("named", SETTINGS)
def test_what_is_asked_is_what_is_worked(named: str) -> None:
    settings = Settings(queue=named, **SETTINGS[named])  # type: ignore[arg-type]  # each of its own type
    worked = queue_of("billing", without_driver(settings.database), settings, SystemClock())
    asked = queue_to_ask(worked.name, settings)
    assert asked is not None
    assert asked.name == worked.name
    assert type(asked) in type(worked).__mro__
    assert (
        queue_to_ask("another", settings) is None or named in ("embedded", "postgres", "rabbitmq") or "/queues" in named
    )


def test_a_queue_in_the_book_s_own_file_is_asked_by_the_book() -> None:
    assert queue_to_ask("billing", Settings(queue="embedded", database="billing.db")) is None


def test_each_scheme_is_told_to_who_asks_for_one_that_is_none() -> None:
    with pytest.raises(UsageError) as told:
        queue_of("billing", "billing.db", Settings(queue="pulsar:billing"), SystemClock())
    for name in ("embedded", "sqs", "redis", "postgres", "nats", "rabbitmq", "kafka"):
        assert name in SCHEMES
        assert f"'{name}" in str(told.value)
