"""Where a RabbitMQ server comes from: Debian's own packages, unpacked into this folder's `.tools`, nothing installed.

`apt-get download` and `dpkg-deb -x` need no root. What is unpacked stays there, so that the next run finds it. A machine that
has RabbitMQ and Erlang installed already is served by those. `RABBITMQ_ROOT=/somewhere` names another folder that has both
under `usr/lib`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TOOLS = Path(__file__).parents[2] / ".tools"

PACKAGES = (
    "rabbitmq-server",
    *(
        f"erlang-{part}"
        for part in (
            "base", "asn1", "crypto", "eldap", "ftp", "inets", "mnesia", "os-mon", "parsetools", "public-key", "runtime-tools",
            "snmp", "ssl", "syntax-tools", "tftp", "tools", "xmerl",
        )
    ),
)  # fmt: skip

FETCHING_SECONDS = 300.0


class CannotBeHad(Exception):
    """No server on this machine; says why."""


def root() -> Path:
    """The folder whose `usr/lib` has RabbitMQ and Erlang; fetched if need be, which takes seconds.

    Raises:
        CannotBeHad: says why.
    """
    named = os.environ.get("RABBITMQ_ROOT")
    for place in (Path(named),) if named else (Path("/"), TOOLS / "rabbitmq"):
        if _is_complete(place):
            return place
    if named:
        raise CannotBeHad(f"RABBITMQ_ROOT={named} has no usr/lib/rabbitmq and usr/lib/erlang")
    if not sys.platform.startswith("linux"):
        raise CannotBeHad(f"it is fetched as Debian packages, and this is {sys.platform}")
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise CannotBeHad(f"it is fetched as Debian packages, and there is no {program}")
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "rabbitmq.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other test processes want it, too
        if not _is_complete(TOOLS / "rabbitmq"):
            _fetch(TOOLS / "rabbitmq")
    return TOOLS / "rabbitmq"


def _is_complete(place: Path) -> bool:
    lib = place / "usr/lib"
    return any((lib / "rabbitmq/lib").glob("rabbitmq_server-*")) and any((lib / "erlang").glob("erts-*/bin/erlexec"))


def _fetch(target: Path) -> None:
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    debs = part / "debs"
    debs.mkdir(parents=True)
    try:
        _download(debs, part)
        for package in sorted(debs.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(part)], part)
        shutil.rmtree(debs)
        if not _is_complete(part):
            raise CannotBeHad("Debian's packages were fetched, and RabbitMQ or Erlang is not in them")
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _download(debs: Path, part: Path) -> None:
    """With the machine's lists of packages, or else, where it has none, with lists of our own."""
    try:
        _run(["apt-get", "download", "--quiet", *PACKAGES], debs)
    except CannotBeHad:
        own = part / "apt"
        for folder in ("lists/partial", "archives/partial"):
            (own / folder).mkdir(parents=True)
        options = [f"--option=Dir::State::Lists={own / 'lists'}", f"--option=Dir::Cache={own}"]
        _run(["apt-get", *options, "update", "--quiet"], debs)
        _run(["apt-get", *options, "download", "--quiet", *PACKAGES], debs)
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
