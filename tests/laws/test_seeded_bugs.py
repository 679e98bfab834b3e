"""The laws' tests can fail: each finds the bugs that are planted for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

from tests.laws.planting import SeededBug
from tests.laws.seeded_bugs import SEEDED_BUGS
from tests.laws.shelf import Shelf
from tests.laws.test_law_1_real_books import SPLIT_OVER
from tests.laws.test_law_3_once import Till
from tests.laws.test_law_4_rows_changed import business

# Found or not, by the same examples each time; what is found need not be small.
SEARCH = settings(
    max_examples=2_000, database=None, derandomize=True, deadline=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the laws' tests ask for by name."""
    folder = tmp_path_factory.mktemp("books")
    with ExitStack() as stack:
        shelves = [stack.enter_context(closing(Shelf(folder / f"{number}.db"))) for number in range(SPLIT_OVER + 1)]
        connection = stack.enter_context(closing(business()))
        till = stack.enter_context(closing(Till(folder / "till.db")))
        yield {"shelves": shelves, "shelf": shelves[0], "connection": connection, "till": till}


@pytest.mark.parametrize("bug", SEEDED_BUGS, ids=lambda bug: bug.says)
def test_the_law_catches(bug: SeededBug, resources: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    law = _inner(bug.law)
    given = {name: resources[name] for name in inspect.signature(law).parameters if name in resources}
    bug.plant(monkeypatch)

    assert _finds_a_violation(partial(law, **given), bug.strategy), f"nobody notices that {bug.says}"


def test_every_law_has_seeded_bugs() -> None:
    files = {path.stem for path in Path(__file__).parent.glob("test_law_*.py")}
    caught = {Path(inspect.getfile(_inner(bug.law))).stem for bug in SEEDED_BUGS}

    assert caught == files


def _inner(law: Callable[..., None]) -> Callable[..., None]:
    """The test without hypothesis around it."""
    inner: Callable[..., None] = cast("Any", law).hypothesis.inner_test
    return inner


def _finds_a_violation(check: partial[None], strategy: SearchStrategy[Any]) -> bool:
    (scene,) = inspect.signature(check).parameters.keys() - check.keywords.keys()

    def violated(example: Any) -> bool:
        try:
            check(**{scene: example})
        except AssertionError:
            return True
        return False

    try:
        find(strategy, violated, settings=SEARCH)
    except NoSuchExample:
        return False
    return True
