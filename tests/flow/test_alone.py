"""The room stands alone: to import it imports nothing else of crossfoot, and of others only anyio."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import sys
before = set(sys.modules)
import crossfoot.flow
print(*sorted(set(sys.modules) - before))
"""


def loaded() -> set[str]:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_it_imports_nothing_else_of_crossfoot() -> None:
    ours = {name for name in loaded() if name.partition(".")[0] == "crossfoot"}

    assert {name for name in ours if not name.startswith("crossfoot.flow")} == {"crossfoot", "crossfoot.errors"}


def test_it_needs_anyio_and_what_anyio_needs_and_nothing_more() -> None:
    others = {name.partition(".")[0] for name in loaded()} - set(sys.stdlib_module_names) - {"crossfoot"}

    assert others <= {"anyio", "idna", "sniffio", "typing_extensions"}


def test_the_package_still_has_its_names() -> None:
    import crossfoot

    assert {name for name in crossfoot.__all__ if not hasattr(crossfoot, name)} == set()
    assert set(crossfoot.__all__) <= set(dir(crossfoot))
    assert not hasattr(crossfoot, "Nonsense")
