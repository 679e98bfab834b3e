"""The statements of a queue in PostgreSQL, with parameters, and the indexes that serve each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from crossfoot.queues.postgres import local, sql
from crossfoot.queues.postgres.places import Places, columns
from crossfoot.queues.postgres.receiving import instant

READY, WAITING, KEY, LINE = (f"crossfoot_queue_{name}" for name in ("ready", "waiting", "pkey", "line"))

COMMON: dict[str, Any] = {"queue": "orders", "retention": timedelta(days=14), "limit": 10}
RANGES = {**columns(Places().ranges()), "since": instant(0)}
CLAIM = {
    **COMMON,
    **RANGES,
    "most": 5,
    "bytes": 2**22,
    "token": 1,
    "lease": timedelta(seconds=30),
    "reason": "worn out",
}
HELD = {
    "queue": "orders",
    "keys": [5, 6, 7],
    "tokens": [1, 2, 3],
    "lease": timedelta(1),
    "delay": timedelta(1),
    "reason": "x",
}
PUBLISH = {
    "queue": "orders", "messages": ["a|x"], "lines": ["line"], "delays": [timedelta(0)], "priorities": [0],
    "attributes": [None], "bodies": [b"x"],
}  # fmt: skip

A_CLAIM, LOOK, ACK = sql.CLAIM.encode(), sql.LOOK.encode(), sql.ACK.encode()

STATEMENTS: dict[str, tuple[bytes, dict[str, Any], set[str] | None]] = {
    "claim": (A_CLAIM, CLAIM, {READY, WAITING, KEY}),
    "look": (LOOK, {**COMMON, **RANGES}, {READY, WAITING}),
    "oldest": (sql.OLDEST.encode(), {**COMMON, **RANGES}, {READY, WAITING}),
    "publish in a line": (sql.PUBLISH.encode(), PUBLISH, set()),
    "ack": (ACK, HELD, {KEY}),
    "ack in lines": (sql.ACK_IN_LINES.encode(), HELD, {KEY}),
    "extend": (sql.EXTEND.encode(), HELD, {KEY}),
    "release": (sql.RELEASE.encode(), HELD, {KEY}),
    "release later": (sql.RELEASE_LATER.encode(), HELD, {KEY}),
    "bury": (sql.BURY.encode(), HELD, {KEY}),
    "bury in lines": (sql.BURY_IN_LINES.encode(), HELD, {KEY}),
    "browse": (sql.PAGE_OF_HELD.encode(), {**COMMON, "after": 500}, {KEY}),
    "dead letters": (sql.PAGE_OF_DEAD.encode(), {**COMMON, "after": 0}, {"crossfoot_queue_dead"}),
    "past the retention": (sql.PAGE_OF_EXPIRED.encode(), COMMON, {"crossfoot_queue_expired"}),
    "purge": (sql.PURGE.encode(), HELD, {"crossfoot_queue_expired"}),
    "depth": (sql.DEPTH.encode(), COMMON, None),
    "set aside": (sql.EXPIRE.encode(), {**COMMON, "first": 0}, {KEY}),
}
"""`None`: it counts, and looks at everything the queue holds."""

LOCAL = {
    "publish": (local.PUBLISH, ("orders", "a|x", None, timedelta(0), 0, None, b"x")),
    "ack": (local.ACK, ("orders", 5, 1)),
    "ack all": (local.ACK_ALL, ([5, 6, 7], [1, 2, 3], "orders", [5, 6, 7])),
    "release": (local.RELEASE, ("orders", 5, 1)),
    "release later": (local.RELEASE_LATER, (timedelta(1), "orders", 5, 1)),
    "bury": (local.BURY, ("x", "orders", 5, 1)),
}
