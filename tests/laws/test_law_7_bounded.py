"""Law 7: bounded. So many in hand, so many handlers at once, so many deliveries, and no pause above its cap."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from crossfoot.worker.retry import Retry
from tests.laws.counter import Act, Service


class Bounds(NamedTuple):
    """How a worker is told to work."""

    messages: int
    concurrency: int
    batch: int
    prefetch: int


BOUNDS = st.builds(
    Bounds,
    messages=st.integers(1, 60),
    concurrency=st.integers(1, 3),
    batch=st.integers(1, 4),
    prefetch=st.integers(1, 8),
)

RETRIES = st.tuples(
    st.floats(0.001, 10),
    st.floats(1, 100),
    st.integers(1, 2**62),
    st.floats(0, 1, exclude_min=True),
    st.integers(1, 50),
)


@settings(max_examples=40)
@given(BOUNDS)
def test_a_worker_takes_no_more_than_it_was_told_and_runs_no_more_at_once(bounds: Bounds) -> None:
    with TemporaryDirectory() as folder:
        service = Service(Path(folder))
        acts = [Act.RAISE_ALWAYS if number % 5 == 0 else Act.BILL for number in range(bounds.messages)]
        service.work(acts, concurrency=bounds.concurrency, batch=bounds.batch, prefetch=bounds.prefetch)

        waiting = max(bounds.prefetch, 2 * bounds.batch)
        assert service.witness.most_out <= waiting + bounds.concurrency * bounds.batch
        assert service.most_running <= bounds.concurrency
        assert max(service.deliveries.values()) <= 2


@given(RETRIES)
def test_pauses_keep_to_their_cap_and_attempts_come_to_an_end(scene: tuple[float, float, int, float, int]) -> None:
    base, factor, attempt, chance, attempts = scene
    retry = Retry(attempts=attempts, base=base, cap=base * factor)

    assert 0 <= retry.pause(attempt, chance) <= base * factor
    assert retry.pause(1, 1.0) == base
    assert retry.gives_up(attempts, RuntimeError())
    assert retry.suspects(attempts)
    assert retry.worn_out(retry.deaths)
    assert not any(retry.gives_up(number, RuntimeError()) for number in range(1, attempts))
