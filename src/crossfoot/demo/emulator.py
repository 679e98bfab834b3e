"""MiniStack, an SQS server, in this process: `python -m crossfoot.demo.emulator PORT`.

It ends when its standard input does, however the demo ends.
"""

from __future__ import annotations

import os
import sys
import threading

HOST = "127.0.0.1"


def main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ |= {"BIND_HOST": HOST, "GATEWAY_PORT": sys.argv[1], "SERVICES": "sqs", "IOT_MTLS_ENABLED": "0"}
    os.environ |= {"LOG_LEVEL": "WARNING"}
    from ministack import app

    sys.argv = ["ministack"]
    app.main()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
