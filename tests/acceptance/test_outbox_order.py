"""A queue that keeps the order of a partition is sent to in that order, whatever befell the first of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from crossfoot import Crossfoot
from crossfoot.effects.outbox import Outbox
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Outgoing, PublishAnswer, Refused

pytestmark = pytest.mark.anyio


class Throttled(EmbeddedQueue):
    """Refuses the first publish for now."""

    sent: list[str]
    refuse = True

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        if self.refuse:
            self.refuse = False
            return [Refused(one.key, "slow down", permanent=False) for one in messages]
        self.sent += [one.key.partition("|")[2] for one in messages]
        return await super().publish(messages)


@pytest.mark.parametrize("ordered", [True, False])
async def test_nothing_overtakes_what_was_put_off(tmp_path: Path, ordered: bool) -> None:
    Crossfoot("other", database=tmp_path / "queue.db").book.open().close()
    queue = Throttled(tmp_path / "queue.db", "billing", ordered=ordered)
    queue.sent = []
    app = Crossfoot("billing", database=tmp_path / "billing.db", queue=queue)
    for number in (1, 2):
        await app.publish(app.message("case.changed", id=f"m{number}", subject="case-1", sequence=number))
    assert waiting(app) == (["m1", "m2"] if ordered else ["m1"])
    with closing(sqlite3.connect(app.book.path)) as connection, app.transaction(connection) as tx:
        tx.send("case.changed", id="m3", subject="case-1", sequence=3)
        tx.send("case.changed", id="other", subject="case-2", sequence=1)

    outbox = Outbox(app.book, {"billing": queue})
    due(app, "m1", 9_000_000_000_000_000)
    await outbox.drain(queue)
    assert queue.sent == (["other"] if ordered else ["m2", "m3", "other"])
    for id_ in ("m1", "m2"):
        due(app, id_, 0)
    while await outbox.drain(queue):
        pass
    assert queue.sent[-3:] == (["m1", "m2", "m3"] if ordered else ["m3", "other", "m1"])
    assert waiting(app) == []
    await app.aclose()


def waiting(app: Crossfoot) -> list[str]:
    with closing(sqlite3.connect(app.book.path)) as connection:
        rows = connection.execute("SELECT identity FROM crossfoot_outbox ORDER BY number").fetchall()
    return [identity.partition("|")[2] for (identity,) in rows]


def due(app: Crossfoot, id_: str, at: int) -> None:
    with closing(sqlite3.connect(app.book.path)) as connection:
        connection.execute("UPDATE crossfoot_outbox SET due = ? WHERE identity = ?", (at, f"billing|{id_}"))
        connection.commit()
