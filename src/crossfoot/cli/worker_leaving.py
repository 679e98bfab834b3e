"""The end of a worker that cannot leave: a handler goes on although it was cancelled, and the worker waits for it.

A worker whose book cannot be written would wait like that for ever, alive to every probe, perhaps because that very handler holds the
file. Ended as if it were killed, it loses nothing, and whoever watches over it starts another one.
"""

from __future__ import annotations

import os

import anyio

from crossfoot.cli.output import note
from crossfoot.worker.worker import Worker

AFTER = 10.0
"""Seconds that cancelled handlers are given, beyond the grace."""

EXIT_CODE = 1


async def end_at_last(worker: Worker) -> None:
    """End this process where the worker has to leave and cannot. One that was told to stop waits for synchronous handlers."""
    await worker.leaves.wait()
    await anyio.sleep(worker.pattern.grace + AFTER)
    unwilling = worker.leases.running if worker.leases is not None else []
    if worker.stopping and not unwilling:
        return
    failure = worker.upkeep.failure if worker.upkeep is not None else ""
    why = f"it has failed ({failure})" if failure else "it was told to stop" if worker.stopping else "it has failed"
    who = (
        f"handlers go on although they were cancelled: {', '.join(unwilling)}"
        if unwilling
        else "handlers do not come to their end"
    )
    note(f"{worker.name}: {why}, and {who}. It ends as if it were killed; what it holds is delivered again")
    os._exit(EXIT_CODE)
