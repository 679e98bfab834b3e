"""What will die: `python -m tests.fire.fill COUNT` publishes so many messages, of each cause a third."""

from __future__ import annotations

import sys
import time

import anyio

from tests.fire.service import app
from tests.fire.service_names import CAUSES

GROUP = 500


async def fill(count: int) -> None:
    for first in range(0, count, GROUP):
        numbers = range(first, min(first + GROUP, count))
        await app.publish(
            *(app.message(f"case.{CAUSES[n % 3]}", subject=f"case-{n}", data={"at": time.time()}) for n in numbers)
        )
    await app.aclose()


if __name__ == "__main__":
    anyio.run(fill, int(sys.argv[1]))
