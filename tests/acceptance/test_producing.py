"""Publishing when something is in the way: the intention is durable before anybody is asked."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from boto3.session import Session

from crossfoot import Crossfoot
from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.message import Message
from crossfoot.queues.sqs import SqsQueue, ensure
from tests.servers.processes import Server

pytest_plugins = ["tests.servers.fixtures"]

pytestmark = pytest.mark.anyio


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.server
@pytest.mark.xdist_group("ministack")
@pytest.mark.usefixtures("no_blocking_calls")
async def test_what_is_published_to_a_queue_that_cannot_be_reached_is_sent_when_it_can(
    tmp_path: Path, ministack: Server, aws: Session
) -> None:
    path = tmp_path / "billing.db"
    nobody = Crossfoot(
        "billing", database=path, queue=SqsQueue("orders-late", endpoint_url="http://127.0.0.1:9", session=aws)
    )
    with pytest.raises(QueueUnavailable, match="orders-late"):
        await nobody.publish("case.released", subject="case-1")
    await nobody.aclose()
    assert rows(path, "SELECT subject FROM crossfoot_messages") == [("case-1",)]
    assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(1,)]

    await ensure("orders-late", endpoint_url=ministack.url, session=aws)
    app = Crossfoot(
        "billing", database=path, wait=0.1, queue=SqsQueue("orders-late", endpoint_url=ministack.url, session=aws)
    )
    handled = []

    @app.handler("case.released")
    def bill(message: Message, tx: object) -> None:
        handled.append(message.subject)
        tx.outcome("invoice.issued")  # type: ignore[attr-defined] # a transaction, whichever

    with closing(sqlite3.connect(path)) as connection:  # the pause after a failed send, cut short
        connection.execute("UPDATE crossfoot_outbox SET due = 0")
        connection.commit()
    with anyio.fail_after(60):
        await app.worker().run(until_idle=True)
    await app.aclose()
    assert handled == ["case-1"]
    assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(0,)]


def test_a_book_that_was_open_when_the_process_was_forked_is_not_used_by_the_child(tmp_path: Path) -> None:
    app = Crossfoot("billing", database=tmp_path / "billing.db")
    app.book.open()
    child = os.fork()
    if child == 0:
        try:
            app.book.start_worker("child", "billing")
        except UsageError as error:
            os._exit(0 if "forked" in str(error) else 2)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    app.book.close()
    assert os.waitstatus_to_exitcode(status) == 0
