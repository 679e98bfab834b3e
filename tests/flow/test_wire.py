"""The deadline between processes: relative where it can be, and believed as far as clocks can be."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from crossfoot.errors import Expired, WireInvalid
from crossfoot.flow import wire

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
SECONDS = st.floats(0.0, 1e7)
HOUR = timedelta(hours=1)


# ---- milliseconds and grpc-timeout -----------------------------------------------------------------------------------


@given(remaining=SECONDS, margin=st.floats(0, 1))
def test_what_arrives_is_never_more_than_what_was_left_without_the_margin(remaining: float, margin: float) -> None:
    assume(remaining - margin > 0.002)
    for write, read in ((wire.to_millis, wire.of_millis), (wire.to_grpc, wire.of_grpc)):
        text = write(remaining, margin=margin)
        assert text is not None
        arrived = read(text)
        assert arrived <= remaining - margin + 1e-6
        assert arrived == pytest.approx(remaining - margin, rel=0.001, abs=0.0011)


@given(hops=st.integers(1, 50))
def test_each_hop_keeps_its_margin_until_there_is_no_point_in_asking(hops: int) -> None:
    left = 0.1
    asked = 0
    try:
        for _ in range(hops):
            text = wire.to_millis(left)
            assert text is not None
            left = wire.of_millis(text)
            asked += 1
    except Expired:
        assert left < wire.MARGIN + 0.001

    assert asked == min(hops, 19)


@pytest.mark.parametrize("remaining", [-1.0, 0.0, wire.MARGIN, wire.MARGIN + 0.0005])
def test_nothing_is_asked_when_nothing_would_be_left(remaining: float) -> None:
    with pytest.raises(Expired, match="nothing was sent"):
        wire.to_millis(remaining)
    with pytest.raises(Expired):
        wire.to_grpc(remaining)


def test_without_a_deadline_nothing_is_said() -> None:
    assert wire.to_millis(math.inf) is wire.to_grpc(math.inf) is wire.to_expirytime(math.inf, NOW) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.3, "300000u"), (99.999999, "99999999u"), (100, "100000m"), (99_999.999, "99999999m"), (1e6, "1000000S")],
)
def test_grpc_has_eight_digits_and_the_finest_unit_they_allow(seconds: float, text: str) -> None:
    assert wire.to_grpc(seconds, margin=0) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5S", 5), ("250m", 0.25), ("100u", 1e-4), ("7n", 7e-9), ("2M", 120), ("1H", 3600), ("99999999H", wire.LONGEST)],
)
def test_every_unit_of_grpc_is_understood(text: str, seconds: float) -> None:
    assert wire.of_grpc(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "S", "-5S", "5s", "5.0S", "123456789S", "5S ", "\u0665S"])
def test_another_text_is_no_grpc_timeout(text: str) -> None:
    with pytest.raises(WireInvalid, match="grpc-timeout"):
        wire.of_grpc(text)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1e3", "inf", "0x10", "\u0665", "1" * 16])
def test_another_text_is_no_number_of_milliseconds(text: str) -> None:
    with pytest.raises(WireInvalid) as caught:
        wire.of_millis(text)

    assert caught.value.status == 400


@given(text=st.text())
def test_no_text_does_anything_but_to_be_read_or_refused(text: str) -> None:
    for read in (
        wire.of_millis,
        wire.of_grpc,
        lambda one: wire.retry_after(one, NOW),
        lambda one: wire.of_expirytime(one, NOW),
    ):
        with suppress(WireInvalid):
            assert 0 <= read(text) <= wire.LONGEST


# ---- expirytime ------------------------------------------------------------------------------------------------------


def text(moment: datetime) -> str:
    return moment.isoformat()


@given(remaining=st.floats(0, 1e6))
def test_clocks_that_agree_give_what_was_left_and_the_skew(remaining: float) -> None:
    written = wire.to_expirytime(remaining, NOW)
    assert written is not None

    assert wire.of_expirytime(written, NOW, skew=0) == pytest.approx(remaining, abs=0.0011)
    assert wire.of_expirytime(written, NOW, skew=5) == pytest.approx(remaining + 5, abs=0.0011)


@given(life=st.integers(1, 1000), queued=st.integers(0, 2000), jump=st.integers(-3600, 3600))
def test_with_the_queue_s_own_count_no_clock_is_compared(life: int, queued: int, jump: int) -> None:
    over = NOW + timedelta(seconds=life)

    left = wire.of_expirytime(text(over), NOW + timedelta(seconds=jump), sent=text(NOW), queued=queued)

    assert left == max(0, life - queued)


@given(life=st.integers(1, 1000), jump=st.integers(-7200, 7200))
def test_an_hour_s_step_of_a_clock_lets_nothing_live_longer_than_it_was_to(life: int, jump: int) -> None:
    over = NOW + timedelta(seconds=life)

    assert wire.of_expirytime(text(over), NOW + timedelta(seconds=jump), sent=text(NOW)) <= life


@given(behind=st.floats(0, 4.9))
def test_what_is_over_by_less_than_clocks_may_differ_is_not_dropped(behind: float) -> None:
    assert wire.of_expirytime(text(NOW), NOW + timedelta(seconds=behind), skew=5) > 0


def test_what_is_over_by_more_is() -> None:
    assert wire.of_expirytime(text(NOW), NOW + timedelta(seconds=5.1), skew=5) == 0


def test_zones_are_understood_and_a_time_without_one_is_refused() -> None:
    east = NOW.astimezone(timezone(HOUR)) + HOUR
    assert wire.of_expirytime(text(east), NOW, skew=0) == 3600
    assert wire.of_expirytime("2026-01-31T13:00:00Z", NOW, skew=0) == 3600
    with pytest.raises(WireInvalid, match="with its zone"):
        wire.of_expirytime("2026-01-31T13:00:00", NOW)


# ---- Retry-After -----------------------------------------------------------------------------------------------------


def test_retry_after_is_seconds_or_a_date() -> None:
    assert wire.retry_after("120", NOW) == 120
    assert wire.retry_after(format_datetime(NOW + HOUR, usegmt=True), NOW) == 3600
    assert wire.retry_after(format_datetime(NOW - HOUR, usegmt=True), NOW) == 0
    with pytest.raises(WireInvalid, match="Retry-After"):
        wire.retry_after("soon", NOW)


@pytest.mark.parametrize(
    "text",
    [
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2026 00:00:00 +99999999999999",
        "Mon, 99999999999 Jan 2026 00:00:00 GMT",
    ],
)
def test_a_date_that_no_calendar_has_is_none(text: str) -> None:
    with pytest.raises(WireInvalid, match="neither seconds nor an HTTP date"):
        wire.retry_after(text, NOW)
