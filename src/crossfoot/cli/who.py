"""Who types a command, for what the book keeps of decisions."""

from __future__ import annotations

import getpass
import os
import socket


def typist() -> str:
    """Who types this, as far as the machine knows."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container whose user has no name
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"
