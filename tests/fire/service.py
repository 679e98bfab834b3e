"""The service under fire: its handlers fail for what is broken, as files in its folder say, until somebody mends that.

No unique key keeps a second effect out of the table of effects.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from crossfoot import Crossfoot
from crossfoot.message import Message
from tests.fire.service_names import CAUSES

FOLDER = Path(os.environ["FIRE_FOLDER"])
PLACE = os.environ["FIRE_DATABASE"]

app = Crossfoot(
    "fire", database=PLACE, queue=os.environ.get("FIRE_QUEUE", "embedded"), endpoint=os.environ.get("FIRE_ENDPOINT"),
    attempts=1, wait=0.2, lease=2.0, grace=5.0, synchronous="NORMAL", concurrency=2, reconcile=5.0, prefetch=8,
)  # fmt: skip

INSERT = (
    "INSERT INTO effects (id, type, phase, late) VALUES (%s, %s, %s, %s)" if PLACE.startswith("postgresql")
    else "INSERT INTO effects (id, type, phase, late) VALUES (?, ?, ?, ?)"
)  # fmt: skip


def _rounding() -> None:
    raise ValueError("rounding went wrong")


def _lookup() -> None:
    raise KeyError("no such tariff")


def _call() -> None:
    raise ConnectionError("the ledger is down")


FAILS = dict(zip(CAUSES, (_rounding, _lookup, _call), strict=True))


@app.handler("case.*", operation="bill:{type}:{subject}")
def bill(message: Message, tx: Any) -> None:
    cause = message.type.rpartition(".")[2]
    if cause in FAILS and (FOLDER / f"broken-{cause}").exists():
        FAILS[cause]()
    tx.execute(INSERT, (message.id, message.type, message.data.get("phase", ""), time.time() - message.data["at"]))
