"""What a test that fails once leads to: in some folders a second try that is told, in the others a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.second_chance import MOST, ROOMS

pytest_plugins = ["pytester"]

ONCE = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("nth", range({many}))
def test_it(nth, request):
    seen = Path(__file__).with_suffix(f".{{nth}}")
    if not seen.exists():
        seen.touch()
        raise AssertionError("the first try of " + str(nth))
"""

ALWAYS = "def test_it(): raise AssertionError('at every try')"


@pytest.fixture(autouse=True)
def from_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def run(pytester: pytest.Pytester, room: str, code: str, *options: str) -> pytest.RunResult:
    folder = pytester.path / "tests" / room
    folder.mkdir(parents=True)
    (folder / "test_it.py").write_text(code)
    return pytester.runpytest_subprocess(
        "-p", "tests.second_chance", "--import-mode=importlib", "-o", "addopts=", f"--rootdir={pytester.path}", *options
    )  # fmt: skip


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two"])
@pytest.mark.parametrize("room", ROOMS)
def test_who_fails_once_is_tried_again_and_named(
    pytester: pytest.Pytester, room: str, options: tuple[str, ...]
) -> None:
    result = run(pytester, room, ONCE.format(many=1), *options)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["*did not pass at the first try*", "*test_it*", "*the first try of 0*", "1 of at most*"]
    )


def test_who_fails_twice_has_failed(pytester: pytest.Pytester) -> None:
    assert run(pytester, "conformance", ALWAYS).ret == 1


def test_where_no_server_is_there_is_no_second_try(pytester: pytest.Pytester) -> None:
    assert run(pytester, "unit", ONCE.format(many=1)).ret == 1


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two"])
@pytest.mark.parametrize(("many", "code"), [(MOST, 0), (MOST + 1, 1)])
def test_a_run_has_so_many_and_no_more(
    pytester: pytest.Pytester, many: int, code: int, options: tuple[str, ...]
) -> None:
    assert run(pytester, "crash", ONCE.format(many=many), *options).ret == code
