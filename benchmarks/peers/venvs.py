"""One virtual environment a peer, from requirements/, made by uv. crossfoot runs in the one that runs this."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.peers.places import HERE, ROOT, VENVS

OURS = "crossfoot"


def programs(venv: str) -> Path:
    """Its bin folder."""
    return Path(sys.executable).parent if venv == OURS else VENVS / venv / "bin"


def make(names: Iterable[str]) -> None:
    """Make those that are not there, or whose requirements have changed."""
    for name in sorted(set(names) - {OURS}):
        requirements = HERE / "requirements" / f"{name}.txt"
        folder, wanted = VENVS / name, requirements.read_text()
        stamp = folder / "installed.txt"
        if stamp.exists() and stamp.read_text() == wanted:
            continue
        print(f"installing {name} into {folder}", file=sys.stderr, flush=True)
        python = str(folder / "bin/python")
        subprocess.run([uv(), "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([uv(), "pip", "install", "-q", "--python", python, "-r", str(requirements)], check=True)
        stamp.write_text(wanted)


def uv() -> str:
    """The one that make uses, or else the machine's."""
    stated = os.environ.get("UV") or shutil.which("uv")
    ours = sorted((ROOT / ".tools").glob("uv-*/bin/uv"))
    found = stated or (str(ours[-1]) if ours else "")
    if not found:
        sys.exit("uv is not here: run `make bench-peers`, or install it")
    return found
