"""Alerts and the checklist on a queue of SQS, as somebody types them: what the queue itself says decides what is told of it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest
from boto3.session import Session

from crossfoot.clock import SECOND
from crossfoot.queues.sqs import ensure
from tests.acceptance.shell import crossfoot, rows
from tests.servers.processes import Server

pytest_plugins = ["tests.servers.fixtures"]

pytestmark = pytest.mark.server

PROGRAM = """
from crossfoot import Crossfoot

app = Crossfoot("billing", attempts=1)


@app.handler("case.released")
def bill(message, tx):
    if message.data["amount"] < 0:
        raise ValueError("amount is negative")
    tx.outcome("invoice.issued")
"""


class Desk:
    """A folder with the service's program and settings, whose queue is one of SQS; each book of it is a file there."""

    def __init__(self, folder: Path, server: Server, aws: Session) -> None:
        self.folder = folder
        self.queue = anyio.run(
            lambda: ensure(f"billing-{uuid4().hex[:8]}", endpoint_url=server.url, session=aws, max_attempts=1)
        )
        (folder / "billing.py").write_text(PROGRAM, encoding="utf-8")
        (folder / "crossfoot.toml").write_text(
            f'queue = "sqs:{self.queue}"\nendpoint = "{server.url}"\nregion = "eu-central-1"\n', encoding="utf-8"
        )
        self._client: Any = aws.client("sqs", endpoint_url=server.url)

    def run(self, *arguments: str, book: str = "billing.db", code: int | None = 0) -> str:
        variables = {
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-central-1",
            "CROSSFOOT_DATABASE": book, "PYTHONWARNINGS": "default",
        }  # fmt: skip
        return str(crossfoot(self.folder, *arguments, code=code, **variables).stdout)

    def publish(self, *amounts: int, book: str = "billing.db") -> None:
        for amount in amounts:
            self.run("publish", "billing:app", "case.released", "--data", json.dumps({"amount": amount}), book=book)

    def work(self, book: str = "billing.db") -> None:
        self.run("worker", "billing:app", "--until-idle", book=book)

    def forgets_dead_letters_after(self, seconds: int) -> None:
        url = self._client.get_queue_url(QueueName=f"{self.queue}-dead")["QueueUrl"]
        self._client.set_queue_attributes(QueueUrl=url, Attributes={"MessageRetentionPeriod": str(seconds)})

    def pass_time(self, seconds: float, book: str = "billing.db") -> None:
        """As if all that is in the book had been written so much earlier."""
        with closing(sqlite3.connect(self.folder / book)) as connection, connection:
            past = round(seconds * SECOND)
            connection.execute("UPDATE crossfoot_entries SET at = at - ?, due = due - ?", (past, past))
            connection.execute("UPDATE crossfoot_messages SET due = due - ? WHERE due > 0", (past,))

    def alerts(self, *more: str, code: int | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("alerts", "check", "--json", *more, code=code))["episodes"]
        return found


@pytest.fixture
def desk(tmp_path: Path, ministack: Server, aws: Session) -> Desk:
    return Desk(tmp_path, ministack, aws)


def test_dead_letters_are_told_before_the_queue_forgets_them(desk: Desk) -> None:
    desk.forgets_dead_letters_after(3_600)
    desk.publish(1, -1)
    desk.work()
    (id_,) = rows(desk.folder / "billing.db", "SELECT id FROM crossfoot_messages WHERE fate = 24")[0]
    desk.pass_time(2_000)
    assert [one for one in desk.alerts() if one["alert"] == "dead letter loss"] == []
    assert desk.alerts("--dead-retention", "2400")[0]["ids"] == [id_], (
        "what somebody states goes before what the queue says"
    )
    desk.pass_time(1_000)
    (told,) = [one for one in desk.alerts(code=1) if one["alert"] == "dead letter loss"]
    assert (told["about"], told["ids"], told["step"]) == (desk.queue, [id_], f"crossfoot check --queue {desk.queue}")
    assert "the first in 9 min" in told["text"]
    assert "ValueError at billing:bill" in told["text"]
    assert "the book keeps what they carried" in told["text"]
    page = desk.run("check", "--queue", desk.queue, code=1)
    assert "loss-ahead" in page
    assert "crossfoot replay plan MODULE:NAME --cause" in page


def test_a_publishers_own_book_accuses_nobody_of_what_another_book_settled(desk: Desk) -> None:
    desk.publish(1, 2, book="web.db")
    desk.pass_time(3_600, book="web.db")
    untaken = json.loads(desk.run("check", "--json", book="web.db", code=1))
    assert [one["code"] for one in untaken["findings"] if one["question"] == "balance"] == ["nobody-receives"]
    desk.work(book="billing.db")
    taken = json.loads(desk.run("check", "--json", book="web.db", code=None))
    assert {"nobody-receives", "stranded"}.isdisjoint(one["code"] for one in taken["findings"])
    unasked = json.loads(desk.run("check", "--json", "--no-queue", book="web.db", code=None))
    (answer,) = [one for one in unasked["answers"] if one["question"] == "balance"]
    assert answer["note"].startswith(f"not known: whether anybody received 2 sent to queue {desk.queue}")
