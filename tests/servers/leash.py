"""Becomes the program it is given, and is killed when the process that started it ends, however that ends (Linux).

`--user UID:GID` before the program: as that user, which only root may ask for.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    _, *words = sys.argv
    if words[0] == "--user":
        uid, _, gid = words[1].partition(":")
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
        del words[:2]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # afterwards: another user forgets it
    os.execv(words[0], words)
