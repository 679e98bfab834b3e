"""Settings: where they come from, and what no setting may be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from crossfoot import Crossfoot
from crossfoot.errors import UnknownSetting, UsageError
from crossfoot.settings import CENTURY, FILE, NAMES, Settings, load
from crossfoot.worker.pattern import MOST, Pattern
from crossfoot.worker.retry import LONGEST, Retry

COUNTS = ("attempts", "concurrency", "batch", "prefetch", "max_bytes")
SECONDS = (
    "retention",
    "lease",
    "wait",
    "grace",
    "reconcile",
    "backoff",
    "backoff_cap",
    "unknown_for",
    "keep",
    "horizon",
)
NO_DURATIONS = (-0.001, -1.0, math.nan, math.inf, math.nextafter(CENTURY, math.inf))

TOO_MUCH = [
    *(("max_bytes", value) for value in (0, -1)),
    *(("retention", value) for value in (0.0, *NO_DURATIONS)),
    *((name, value) for name in ("keep", "horizon") for value in NO_DURATIONS),
    *(("synchronous", value) for value in ("OFF", "full", "")),
    *(("database", value) for value in ("sqlite:///billing.db", "mysql://localhost/billing", "host=db password=x")),
]
WITHIN = [
    *((name, value) for name in COUNTS for value in (1, 10_000)),
    *((name, value) for name in SECONDS for value in (0.001, CENTURY)),
    *(("synchronous", value) for value in ("FULL", "NORMAL", "EXTRA")),
]
OF_ANOTHER_KIND = [
    *((name, value) for name in COUNTS for value in ("many", "1.5")),
    *((name, "soon") for name in SECONDS),
    *((name, "perhaps") for name in ("ordered", "payloads")),
]

OF_NO_PATTERN = [
    *((name, value) for name in ("concurrency", "batch", "prefetch") for value in (0, MOST + 1)),
    *((name, value) for name in ("lease", "grace", "reconcile") for value in (0.0, -1.0, math.nan, LONGEST + 1)),
    *(("wait", value) for value in (-0.001, math.nan, LONGEST + 1)),
]
OF_NO_RETRY = [("attempts", {"attempts": 0}), ("base", {"base": 0.0}), ("base", {"base": -1.0}),
               ("base", {"base": math.nan}), ("cap", {"base": 2.0, "cap": 1.0}), ("cap", {"cap": math.nan})]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), TOO_MUCH)
def test_what_is_out_of_bounds_is_refused_by_name(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^{name} = "):
        load(tmp_path, {}, **{name: value})


@pytest.mark.parametrize(("name", "value"), WITHIN)
def test_what_is_just_within_them_is_taken(name: str, value: Any, tmp_path: Path) -> None:
    assert getattr(load(tmp_path, {}, **{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), OF_ANOTHER_KIND)
def test_a_value_of_another_kind_is_refused_with_its_name_and_where_it_was_said(
    name: str, value: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=rf"^the environment sets {name} = {value!r}: expected"):
        load(tmp_path, {f"CROSSFOOT_{name.upper()}": value})


@pytest.mark.parametrize(("name", "value"), OF_NO_PATTERN)
def test_a_worker_has_bounds_of_its_own(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^{name} must be"):
        Pattern(**{name: value})


@pytest.mark.parametrize(("name", "stated"), OF_NO_RETRY)
def test_so_have_retries(name: str, stated: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"{name}="):
        Retry(**stated)


def test_what_is_at_the_bounds_of_a_worker_is_taken() -> None:
    Pattern(concurrency=1, batch=MOST, prefetch=1, lease=LONGEST, grace=0.001, reconcile=LONGEST, wait=0.0)
    Retry(attempts=1, base=1.0, cap=1.0)


def test_every_number_has_bounds_that_are_tried_here() -> None:
    numbers = {name for name in NAMES if type(getattr(Settings(), name)) in (int, float)}
    assert numbers == {*COUNTS, *SECONDS}


def test_the_later_says_it_the_program_last(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("concurrency = 2\nbatch = 2\nprefetch = 2\n", encoding="utf-8")
    environment = {"CROSSFOOT_BATCH": "3", "CROSSFOOT_PREFETCH": "3", "CROSSFOOT_LEASE": "", "PATH": "/bin"}
    made = load(tmp_path, environment, prefetch=4, lease=None)
    assert (made.concurrency, made.batch, made.prefetch, made.lease) == (2, 3, 4, 30.0)


@pytest.mark.parametrize(
    ("content", "told"),
    [("batch = ", "is not valid TOML"), ("btach = 1", "did you mean 'batch'"), ("max_bytes = 0", "^max_bytes = 0")],
)
def test_a_file_that_is_wrong_is_refused(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=told):
        load(tmp_path, {})


def test_a_setting_nobody_knows_is_named_with_all_there_are_when_none_is_near(tmp_path: Path) -> None:
    with pytest.raises(UnknownSetting, match="the program sets 'zzz', which is no setting: the settings are database,"):
        load(tmp_path, {}, zzz=1)


def test_a_service_refuses_them_when_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^lease must be more than 0 seconds"):
        Crossfoot("billing", database=tmp_path / "billing.db", lease=-1)


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
