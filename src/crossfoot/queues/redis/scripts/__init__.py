"""The scripts, as the server is given them: `common.lua` and then the one that is named."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files

import msgspec


class Script(msgspec.Struct, frozen=True):
    """One script. The server keeps it under its hash until it forgets it: after a restart, or SCRIPT FLUSH."""

    name: str
    text: str
    sha: str


def _read(name: str) -> str:
    return files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")


def _script(name: str, *, alone: bool = False) -> Script:
    text = _read(name) if alone else _read("common") + _read(name)
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


RECEIVE, ACK, RELEASE, EXTEND, BURY = (_script(name) for name in ("receive", "ack", "release", "extend", "bury"))
EXPIRE, DEPTH, OLDEST = (_script(name) for name in ("expire", "depth", "oldest"))
DELAY = _script("delay", alone=True)
