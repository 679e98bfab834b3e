"""Whether this process is a fork of the one that began something."""

from __future__ import annotations

import os

_depth = 0


def _deeper() -> None:
    global _depth  # noqa: PLW0603 - one process, one depth
    _depth += 1


os.register_at_fork(after_in_child=_deeper)


def depth() -> int:
    """How many forks lie between this process and the one that imported this; a system call cheaper than asking for its id."""
    return _depth
