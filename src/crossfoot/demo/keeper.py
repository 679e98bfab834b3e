"""Keeps a server for the demo: `python -m crossfoot.demo.keeper COMMAND...` runs it, and ends it when standard input ends.

Standard input is a pipe from the demo, so the server ends with it, however that ends.
"""

from __future__ import annotations

import subprocess
import sys
import threading


def main() -> int:
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_parent, args=(process,), daemon=True).start()
    return process.wait()


def _end_with_parent(process: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    process.kill()


if __name__ == "__main__":
    sys.exit(main())
