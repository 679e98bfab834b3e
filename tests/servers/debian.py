"""Servers as Debian's own packages, unpacked into this folder's `.tools`, nothing installed.

`apt-get download` and `dpkg-deb -x` need no root, and apt checks signatures and sums as always. What is unpacked stays there, so that
the next run finds it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

TOOLS = Path(__file__).parents[2] / ".tools"

FETCHING_SECONDS = 300.0


class CannotBeHad(Exception):
    """No server on this machine; says why."""


def unpacked(name: str, packages: Sequence[str], is_complete: Callable[[Path], bool], *, what: str) -> Path:
    """The folder in whose `usr` the server is: the machine's own root, or `.tools/NAME`; fetched if need be, which takes seconds.
    `NAME_ROOT=/somewhere` in the environment names another one.

    Args:
        is_complete: whether a folder has all of it; `what` says what that is.

    Raises:
        CannotBeHad: says why.
    """
    variable = f"{name.upper()}_ROOT"
    named, own = os.environ.get(variable), TOOLS / name
    for place in (Path(named),) if named else (Path("/"), own):
        if is_complete(place):
            return place
    if named:
        raise CannotBeHad(f"{variable}={named} does not have {what}")
    if not sys.platform.startswith("linux"):
        raise CannotBeHad(f"it is fetched as Debian packages, and this is {sys.platform}")
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise CannotBeHad(f"it is fetched as Debian packages, and there is no {program}")
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other test processes want it, too
        if not is_complete(own):
            _fetch(own, packages, is_complete, what)
    return own


def _fetch(target: Path, packages: Sequence[str], is_complete: Callable[[Path], bool], what: str) -> None:
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    debs = part / "debs"
    debs.mkdir(parents=True)
    try:
        _download(packages, debs, part)
        for package in sorted(debs.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(part)], part)
        shutil.rmtree(debs)
        if not is_complete(part):
            raise CannotBeHad(f"Debian's packages were fetched, and do not have {what}")
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _download(packages: Sequence[str], debs: Path, part: Path) -> None:
    """With the machine's lists of packages, or else, where it has none, with lists of our own."""
    try:
        _run(["apt-get", "download", "--quiet", *packages], debs)
    except CannotBeHad:
        own = part / "apt"
        for folder in ("lists/partial", "archives/partial"):
            (own / folder).mkdir(parents=True)
        options = [f"--option=Dir::State::Lists={own / 'lists'}", f"--option=Dir::Cache={own}"]
        _run(["apt-get", *options, "update", "--quiet"], debs)
        _run(["apt-get", *options, "download", "--quiet", *packages], debs)
        shutil.rmtree(own)


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=FETCHING_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CannotBeHad(f"`{command[0]}` took longer than {FETCHING_SECONDS:g} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()[-1:]
        raise CannotBeHad(f"`{command[0]}` could not fetch or unpack its packages: {' '.join(said)[:300]}")
