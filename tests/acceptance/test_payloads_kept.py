"""`Crossfoot(payloads=...)`: the service decides what the book keeps, and what travels is the message itself."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from crossfoot import Crossfoot, Noop
from crossfoot.books import queries
from crossfoot.books.replays import READY
from crossfoot.errors import UsageError
from crossfoot.message import Message
from crossfoot.recover.replay.planning import Asked, plan
from crossfoot.recover.replay.policy import Policy
from crossfoot.recover.replay.running import Runner
from crossfoot.recover.replay.selection import Selection
from crossfoot.sqlite import connect
from crossfoot.worker.retry import Retry

pytestmark = pytest.mark.anyio


class Redacted:
    """Takes the name out of the data."""

    def store(self, body: bytes, *, type: str, subject: str | None) -> bytes | None:
        event = json.loads(body)
        if isinstance(event.get("data"), dict) and "name" in event["data"]:
            event["data"]["name"] = "[redacted]"
        return json.dumps(event).encode()

    def restore(self, stored: bytes, *, type: str, subject: str | None) -> bytes | None:
        return None


class Veiled:
    """Not an event any more; another one each time, as an encryption with a nonce gives."""

    def __init__(self) -> None:
        self.count = 0

    def store(self, body: bytes, *, type: str, subject: str | None) -> bytes | None:
        self.count += 1
        return bytes([self.count]) + bytes(byte ^ 0x55 for byte in body)

    def restore(self, stored: bytes, *, type: str, subject: str | None) -> bytes | None:
        return bytes(byte ^ 0x55 for byte in stored[1:])


class Broken:
    def store(self, body: bytes, *, type: str, subject: str | None) -> bytes | None:
        raise ValueError(body.decode())

    def restore(self, stored: bytes, *, type: str, subject: str | None) -> bytes | None:
        return None


class Mistaken(Broken):
    """Returns text, which is not what it should."""

    def store(self, body: bytes, *, type: str, subject: str | None) -> Any:
        return body.decode()


def service(path: Path, payloads: Any, seen: list[Any]) -> Crossfoot:
    app = Crossfoot("billing", database=path, payloads=payloads)

    @app.handler("case.released")
    def bill(message: Any, tx: Any) -> Noop:
        seen.append(message.data)
        tx.send("case.billed", data={"name": "Anna", "amount": 7})
        return Noop("seen")

    @app.handler("case.billed")
    def note(message: Any, tx: Any) -> Noop:
        seen.append(message.data)
        return Noop("seen")

    return app


def bodies(path: Path) -> dict[str, bytes | None]:
    with closing(connect(path, read_only=True)) as connection:
        return dict(connection.execute("SELECT type, body FROM crossfoot_messages").fetchall())


@pytest.mark.parametrize(
    "payloads", [Redacted(), Veiled(), Broken(), Mistaken()], ids=["redacted", "veiled", "broken", "mistaken"]
)
async def test_the_handler_has_the_message_and_the_book_what_the_service_made_of_it(
    tmp_path: Path, payloads: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    app = service(tmp_path / "book.db", payloads, seen)
    with caplog.at_level(logging.ERROR, "crossfoot.book"):
        await app.publish("case.released", data={"name": "Anna", "amount": 7}, subject="case-1")
        await app.worker().run(until_idle=True)
    await app.aclose()

    assert seen == [{"name": "Anna", "amount": 7}] * 2
    kept = bodies(tmp_path / "book.db")
    assert set(kept) == {"case.released", "case.billed"}
    for body in kept.values():
        if isinstance(payloads, Broken):
            assert body is None
            assert "payloads.store raised " in caplog.text
        else:
            assert body is not None
            assert b"Anna" not in body
    assert "Anna" not in caplog.text


async def test_what_was_veiled_is_restored_by_the_service(tmp_path: Path) -> None:
    app = service(tmp_path / "book.db", Veiled(), [])
    await app.publish("case.released", id="one", data={"name": "Anna"})

    with app.book.reading() as connection:
        (row,) = queries.named(connection, "message id", "one", 1)
        stored = queries.body_of(connection, row.key)
    restored = app.book.restored(row, stored)
    await app.aclose()

    assert restored is not None
    assert json.loads(restored)["data"] == {"name": "Anna"}


async def test_a_message_may_be_published_again_though_the_book_has_it_veiled(tmp_path: Path) -> None:
    app = service(tmp_path / "book.db", Veiled(), [])
    first, second = [await app.publish("case.released", id="one", data={"name": "Anna"}) for _ in range(2)]
    await app.aclose()

    assert [type(answer).__name__ for answer in (*first, *second)] == ["Accepted", "Accepted"]


async def test_another_message_of_that_name_is_refused_where_redaction_lets_it_be_seen(tmp_path: Path) -> None:
    app = service(tmp_path / "book.db", Redacted(), [])
    await app.publish("case.released", id="one", data={"name": "Anna", "amount": 7})
    (same,) = await app.publish("case.released", id="one", data={"name": "Berta", "amount": 7})
    (other,) = await app.publish("case.released", id="one", data={"name": "Anna", "amount": 8})
    await app.aclose()

    assert [type(answer).__name__ for answer in (same, other)] == ["Accepted", "Refused"]


def test_what_is_no_such_object_is_refused(tmp_path: Path) -> None:
    wrong: Any = "no"
    with pytest.raises(UsageError, match="store\\(\\) and restore"):
        Crossfoot("billing", database=tmp_path / "book.db", payloads=wrong)


class TestReplayed:
    """A replay sends what the service restores, keeps of a mended payload what the service makes of it, and sends no stand-in."""

    @staticmethod
    def clinic(path: Path, payloads: Any, seen: list[Any]) -> Crossfoot:
        app = Crossfoot("billing", database=path, payloads=payloads)

        @app.handler("case.released")
        def bill(message: Any, tx: Any) -> Noop:
            if len(seen) == 0:
                seen.append("broken")
                raise ValueError("broken")
            seen.append(message.data)
            return Noop("seen")

        return app

    async def replayed(self, path: Path, payloads: Any, transform: Any = None) -> tuple[list[Any], dict[str, int]]:
        seen: list[Any] = []
        app = self.clinic(path, payloads, seen)
        await app.publish("case.released", id="one", data={"name": "Anna", "amount": 7})
        await app.worker(retry=Retry(attempts=1)).run(until_idle=True)
        asked = Asked(selection=Selection(), by="anna", why="mended", transform=transform)
        number, _ = await plan(app.book, app.queue, app.registry, asked)
        with app.book.reading() as connection:
            classes = dict(
                connection.execute("SELECT class, count(*) FROM crossfoot_replay_members GROUP BY class").fetchall()
            )
        book = app.book.another()
        async with anyio.create_task_group() as tasks:
            worker = app.worker(retry=Retry(attempts=1))
            tasks.start_soon(worker.run)
            with anyio.fail_after(60):
                await Runner(book, app.queue, number, Policy(patience=20.0), hold=1.0).run()
            worker.stop()
        book.close()
        await app.aclose()
        return seen, classes

    async def test_what_was_veiled_comes_back_as_it_was(self, tmp_path: Path) -> None:
        seen, classes = await self.replayed(tmp_path / "book.db", Veiled())

        assert classes == {READY: 1}
        assert seen == ["broken", {"name": "Anna", "amount": 7}]

    async def test_a_mended_payload_is_veiled_in_the_plan_too(self, tmp_path: Path) -> None:
        def mend(message: Message) -> Message:
            return msgspec.structs.replace(message, data={**message.data, "amount": 8})

        seen, _ = await self.replayed(tmp_path / "book.db", Veiled(), mend)

        assert seen == ["broken", {"name": "Anna", "amount": 8}]
        with closing(connect(tmp_path / "book.db", read_only=True)) as connection:
            rows = connection.execute("SELECT before, after FROM crossfoot_replay_members").fetchall()
            kept = connection.execute("SELECT body FROM crossfoot_messages").fetchall()
        assert all(part and b"Anna" not in part for row in (*rows, *kept) for part in row)

    async def test_what_was_redacted_for_good_is_not_sent_without_its_name(self, tmp_path: Path) -> None:
        seen, classes = await self.replayed(tmp_path / "book.db", Redacted())

        assert "[redacted]" not in str(seen)
        if seen == ["broken"]:
            assert READY not in classes
        else:  # the dead letter has it whole
            assert seen == ["broken", {"name": "Anna", "amount": 7}]
