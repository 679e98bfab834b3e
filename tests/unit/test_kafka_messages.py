"""What comes from a Kafka topic and goes to it, whoever wrote it, and where a queue is."""

from __future__ import annotations

from typing import Any

import pytest

from crossfoot.errors import UsageError
from crossfoot.queues.kafka.address import address_of
from crossfoot.queues.kafka.checks import OVERHEAD
from crossfoot.queues.kafka.dead import held_of
from crossfoot.queues.kafka.messages import DELIVERIES, FRAME, REASON, Came, Entry, buried, came_of, entry_of
from crossfoot.queues.queue import Outgoing, Refused

NOW = 1_790_000_000_000_000


class TestAddresses:
    """They may carry a password."""

    @pytest.mark.parametrize(
        "address",
        [
            "kafka://user:hunter2@host",
            "kafka://user:hunter2@host:9092",
            "kafka://user:hunter2@host?group=letters",
            "kafka://user:hunter2?hunter2@host/billing?group=letters",
            "kafka://user:pass/hunter2?hunter2@host/billing?group=letters",
            "kafka:/user:hunter2@host/billing?group=letters",
            "kafka:user:hunter2@host/billing?group=letters",
            "kafka://user:hunter2@host/bil ling?group=letters",
            "kafka://user:hunter2@ho st/billing?group=letters",
            "kafka://user:hunter2@host/billing?group=letters&sasl=GSSAPI",
            "kafka://user:hunter2@host/billing",
            "kafka://:hunter2@host/billing?group=letters",
        ],
    )
    def test_one_that_cannot_be_read_is_refused_without_showing_the_password(self, address: str) -> None:
        with pytest.raises(UsageError) as refusal:
            address_of(address)
        assert "hunter2" not in str(refusal.value)

    def test_a_password_may_have_any_characters_written_with_percent_signs(self) -> None:
        place = address_of("kafkas://me:a%3Fb%2Fc%40d@host:9093/billing?group=letters&sasl=SCRAM-SHA-256")
        assert place.login == ("me", "a?b/c@d", "SCRAM-SHA-256")
        assert (place.servers, place.name, place.encrypted) == ("host:9093", "billing/letters", True)


class TestTimes:
    """By whoever published; the books hold none of any size."""

    @pytest.mark.parametrize(
        ("header", "stamp", "at"),
        [
            (str(NOW).encode(), 5, NOW), (None, 5, 5_000), (None, 2**62, None), (b"9" * 19, 5, None), (b"9" * 5_000, 5, 5_000),
            (b"x", 5, 5_000), (b"0", 5, None), (None, -1, None),
        ],
    )  # fmt: skip
    def test_a_time_that_is_none_is_not_told(self, header: bytes | None, stamp: int, at: int | None) -> None:
        headers = [] if header is None else [("x-crossfoot-at", header)]
        assert came_of(Record(headers, stamp)).at == at


class Record:
    """As the client has it."""

    def __init__(self, headers: list[tuple[str, bytes]], stamp: int = 1) -> None:
        self._headers = headers
        self._stamp = stamp

    def headers(self) -> Any:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        return 1, self._stamp

    def offset(self) -> int:
        return 7

    def key(self) -> None:
        return None

    def value(self) -> None:
        return None


class Unreadable(Record):
    """One whose headers the client does not hand out, however often it is asked."""

    def headers(self) -> Any:
        raise SystemError("returned a result with an exception set")

    def topic(self) -> str:
        return "billing"

    def partition(self) -> int:
        return 3


def test_a_message_whose_headers_cannot_be_read_comes_without_them_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert came_of(Unreadable([])).headers == []
    assert "message billing/3/7 comes without those of its headers" in caplog.text


class TestEntries:
    """What is sent."""

    def of(self, message: Outgoing, max_bytes: int = 1_000) -> Entry | Refused:
        return entry_of(message, topic="billing", binary=False, max_bytes=max_bytes, now=NOW)

    @pytest.mark.parametrize(
        "message",
        [
            Outgoing(key="k", body=b"{}", partition="\ud800"),
            Outgoing(key="k", body=b"{}", attributes={"note": "\ud800"}),
            Outgoing(key="k", body=b"{}", attributes={"\ud800": "mine"}),
            Outgoing(key="k", body=b"{}", attributes={"no\0te": "mine"}),
            Outgoing(key="k", body=b"{}", attributes={"": "mine"}),
            Outgoing(key="k", body=b"x" * 900, partition="y" * 101),
        ],
    )
    def test_one_that_kafka_cannot_have_is_refused_by_itself_and_for_good(self, message: Outgoing) -> None:
        answer = self.of(message)
        assert isinstance(answer, Refused)
        assert answer.permanent

    def test_the_largest_message_fits_among_the_dead_letters_whatever_the_reason(self) -> None:
        entry = self.of(Outgoing(key="k", body=b"x" * 900, partition="y" * 100))
        assert isinstance(entry, Entry)
        came = Came(offset=10**15, key=entry.line, body=entry.body, headers=entry.headers, at=NOW)
        topic = "t" * 249
        for reason in ("\u00e4" * 5_000, "\ud800" * 5_000, "\U0001f525" * 5_000):
            dead = buried(came, key="k", topic=topic, dead="d", partition=10**6, attempt=10**6, reason=reason)
            size = len(dead.body) + len(dead.line or b"")
            size += sum(len(name) + len(value) + 4 for name, value in dead.headers)  # each with its lengths
            assert size - 1_000 < OVERHEAD - 100, "a batch and a record have a hundred bytes of their own"
            assert dict(dead.headers)[REASON].decode()
        assert FRAME < OVERHEAD

    def test_a_dead_letter_that_tells_a_number_of_any_size_is_not_believed(self) -> None:
        came = Came(offset=0, key=None, body=b"", headers=[(DELIVERIES, b"9" * 18)], at=None)
        assert held_of("billing.dead", 0, came, dead=True).attempt == 0
