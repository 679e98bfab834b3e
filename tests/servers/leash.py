"""Becomes the program it is given, and is killed when the process that started it ends, however that ends (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _, program, *words = sys.argv
    os.execv(program, [program, *words])
