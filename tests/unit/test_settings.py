"""Bounds: what is out of them is refused when the service is made, in the words of the part that has to live with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from crossfoot import Crossfoot
from crossfoot.errors import UsageError
from crossfoot.worker.retry import Retry

WRONG: list[tuple[str, Any]] = [
    *((name, value) for name in ("concurrency", "batch", "prefetch") for value in (0, -1, 10_001)),
    *((name, value) for name in ("lease", "grace", "reconcile") for value in (0.0, -1.0, math.inf, math.nan)),
    *(("wait", value) for value in (-1.0, math.inf, math.nan)),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_setting_out_of_bounds_is_refused_at_once_and_in_the_same_words_as_for_one_worker(
    tmp_path: Path, name: str, value: Any
) -> None:
    with pytest.raises(UsageError) as of_the_service:
        Crossfoot("billing", database=tmp_path / "billing.db", **{name: value})
    with pytest.raises(UsageError) as of_one_worker:
        Crossfoot("billing", database=tmp_path / "billing.db").worker(**{name: value})

    assert str(of_the_service.value) == str(of_one_worker.value)
    assert name in str(of_the_service.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attempts", 0), ("backoff", 0), ("backoff", -1), ("backoff", math.inf), ("backoff_cap", -1), ("backoff_cap", math.inf),
        ("unknown_for", -1), ("unknown_for", math.inf), ("retention", 0), ("retention", math.inf), ("max_bytes", 0),
    ],
)  # fmt: skip
def test_what_no_retry_and_no_queue_can_live_with_is_refused_too(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(UsageError):
        Crossfoot("billing", database=tmp_path / "billing.db", **{name: value})


def test_a_first_pause_longer_than_the_usual_cap_needs_no_cap_beside_it(tmp_path: Path) -> None:
    app = Crossfoot("billing", database=tmp_path / "billing.db", backoff=600)

    assert app.worker().pattern.retry == Retry(base=600, cap=600)
