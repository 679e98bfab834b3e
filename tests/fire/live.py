"""Live traffic: `python -m tests.fire.live RATE SECONDS NAME` publishes, evenly, and prints how many messages it was."""

from __future__ import annotations

import sys
import time

import anyio

from tests.fire.service import app
from tests.fire.service_names import LIVE


async def publish(rate: float, seconds: float, name: str) -> int:
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        await app.publish(app.message(LIVE, subject=f"{name}-{count}", data={"at": time.time(), "phase": name}))
        count += 1
        await anyio.sleep(max(0.0, began + count / rate - time.monotonic()))
    await app.aclose()
    return count


if __name__ == "__main__":
    print(anyio.run(publish, float(sys.argv[1]), float(sys.argv[2]), sys.argv[3]))  # noqa: T201 - its answer
