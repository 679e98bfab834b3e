"""The oracle sees whatever is done to the accounts behind the service's back, and names it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from tests.chaos import oracle
from tests.chaos.life import GOOD, Note
from tests.chaos.oracle import Verdict, judge
from tests.chaos.run import first_steps, keep, settle
from tests.chaos.stage import Options, Stage, staged

pytestmark = [pytest.mark.crash, pytest.mark.server]


FIRST = f"(SELECT min(key) FROM crossfoot_messages WHERE type = '{GOOD}')"
"""A message that was handled: the very first may be poison, which no handler sees."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Some seconds of a service to which nothing happened."""
    folder = tmp_path_factory.mktemp("calm")
    with staged(Options(pair="sqlite/embedded", seed=1, seconds=3), folder) as stage:
        first_steps(stage)
        keep(stage, 3)
        while len(stage.rows("SELECT number FROM moves")) < 2:
            keep(stage, 0.5)
        assert settle(stage) is not None
        yield stage


@pytest.fixture
def stage(calm: Stage, tmp_path: Path) -> Stage:
    """A copy of what it left."""
    copy = Stage(calm.options, tmp_path)
    shutil.copytree(calm.notes, copy.notes, dirs_exist_ok=True)
    copy.truth = msgspec.structs.replace(calm.truth, database=str(tmp_path / "billing.db"))
    with (
        closing(sqlite3.connect(calm.truth.database)) as source,
        closing(sqlite3.connect(copy.truth.database)) as target,
    ):
        source.backup(target)
    return copy


def tampered(stage: Stage, statement: str) -> Verdict:
    with closing(sqlite3.connect(stage.truth.database)) as connection, connection:
        assert connection.execute(statement).rowcount == 1
    return judge(stage, [])


def test_what_nobody_touched_is_clean(stage: Stage) -> None:
    verdict = judge(stage, [])
    assert verdict.clean, verdict
    assert verdict.asked == verdict.accepted > 5


@pytest.mark.parametrize("table", ["effects", "ledger", "receipts"])
class TestEffects:
    def test_one_that_is_gone_is_lost(self, stage: Stage, table: str) -> None:
        verdict = tampered(stage, f"DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})")
        assert [one.startswith(f"{table} case-") for one in verdict.lost] == [True]

    def test_one_that_is_there_twice_is_doubled(self, stage: Stage, table: str) -> None:
        verdict = tampered(stage, f"INSERT INTO {table} SELECT * FROM {table} LIMIT 1")
        assert [one.startswith(f"{table} case-") for one in verdict.doubled] == [True]

    def test_one_for_another_is_lost_and_nobody_s(self, stage: Stage, table: str) -> None:
        """The count is right."""
        verdict = tampered(
            stage, f"UPDATE {table} SET subject = 'case-x' WHERE rowid = (SELECT max(rowid) FROM {table})"
        )
        assert len(verdict.lost) == 1
        assert verdict.doubled == [f"{table} case-x (of nobody's)"]


class TestABrokerThatForgets:
    """What it confirmed and its log does not have is its loss, if the book says that it vanished."""

    @pytest.fixture
    def gone(self, stage: Stage) -> tuple[str, str]:
        """A message without effects that vanished by the book, and its subject."""
        ((id_, subject),) = stage.rows(f"SELECT id, subject FROM crossfoot_messages WHERE key = {FIRST}")
        with closing(sqlite3.connect(stage.truth.database)) as connection, connection:
            for table in ("effects", "ledger", "receipts"):
                connection.execute(f"DELETE FROM {table} WHERE subject = ?", (subject,))
            connection.execute(f"UPDATE crossfoot_messages SET fate = {Fate.VANISHED.value} WHERE id = ?", (id_,))
        stage.options = msgspec.structs.replace(stage.options, pair="postgres/kafka")
        return id_, subject

    def test_is_told_apart(self, stage: Stage, gone: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(oracle, "ids_in_log", lambda queue, endpoint: {"another"})
        verdict = judge(stage, [])
        assert verdict.forgotten == [gone[0]]
        assert verdict.lost == []

    def test_what_is_in_the_log_was_lost_here(
        self, stage: Stage, gone: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(oracle, "ids_in_log", lambda queue, endpoint: {gone[0]})
        verdict = judge(stage, [])
        assert verdict.forgotten == []
        assert verdict.lost == [f"{table} {gone[1]}" for table in ("effects", "ledger", "receipts")]


class TestMoves:
    def test_one_that_was_applied_twice_is_doubled(self, stage: Stage) -> None:
        with closing(sqlite3.connect(stage.truth.database)) as connection, connection:
            connection.execute("INSERT INTO moves (subject, sequence) SELECT subject, min(sequence) FROM moves")
        verdict = judge(stage, [])
        assert [one.startswith("moves patient-") for one in verdict.doubled] == [True]

    def test_one_that_is_gone_is_lost(self, stage: Stage) -> None:
        verdict = tampered(stage, "DELETE FROM moves WHERE number = (SELECT max(number) FROM moves)")
        assert [one.startswith("moves patient-") for one in verdict.lost] == [True]

    def test_those_that_changed_places_are_out_of_order(self, stage: Stage) -> None:
        with closing(sqlite3.connect(stage.truth.database)) as connection, connection:
            connection.execute("UPDATE moves SET number = 1000 WHERE number = (SELECT min(number) FROM moves)")
        assert any("were applied out of order" in one for one in judge(stage, []).problems)


class TestBooks:
    def test_a_message_that_the_book_does_not_know_is_unaccounted(self, stage: Stage) -> None:
        verdict = tampered(
            stage,
            f"DELETE FROM crossfoot_messages WHERE key = {FIRST}",
        )
        assert any(one.endswith("(not in the book)") for one in verdict.unaccounted)
        assert any(one.startswith("verify") for one in verdict.problems)

    def test_a_delivery_that_the_book_does_not_know_is_unseen(self, stage: Stage) -> None:
        of_the_first = f"kind = {Kind.RECEIVED.value} AND message = {FIRST}"
        verdict = tampered(
            stage,
            f"DELETE FROM crossfoot_entries WHERE id = (SELECT min(id) FROM crossfoot_entries WHERE {of_the_first})",
        )
        assert [one.endswith("the book has no delivery of it") for one in verdict.unseen] == [True]

    def test_a_delivery_that_lost_its_end_is_unseen_unless_its_worker_died(self, stage: Stage) -> None:
        ends = f"({Kind.COMMITTED.value}, {Kind.ACKED.value})"
        with closing(sqlite3.connect(stage.truth.database)) as connection, connection:
            connection.execute(f"DELETE FROM crossfoot_entries WHERE kind IN {ends} AND message = {FIRST}")
        verdict = judge(stage, [])
        assert any("has no end, and its worker" in one for one in verdict.unseen)
        assert verdict.unaccounted

    def test_a_fate_that_is_not_that_of_the_entries_is_a_problem(self, stage: Stage) -> None:
        verdict = tampered(
            stage,
            f"UPDATE crossfoot_messages SET fate = {Fate.NOOP.value} WHERE key = {FIRST}",
        )
        assert any("by its entries, and noop in the ledger" in one for one in verdict.problems)


class TestNotes:
    def test_an_answer_that_the_book_does_not_know_is_unseen(self, stage: Stage) -> None:
        (notes,) = stage.notes.glob("publisher-*.jsonl")
        asked = msgspec.json.Decoder(Note).decode_lines(notes.read_bytes())[0]
        with notes.open("ab") as file:
            file.write(msgspec.json.encode(Note("doubtful", asked.id, asked.at)) + b"\n")
        verdict = judge(stage, [])
        assert verdict.unseen == [
            f"the publish of {asked.id} was doubtful, and the book has no entry 'publish in doubt'"
        ]

    def test_a_message_that_nobody_asked_for_is_a_problem(self, stage: Stage) -> None:
        (notes,) = stage.notes.glob("publisher-*.jsonl")
        lines = notes.read_bytes().splitlines(keepends=True)
        first = msgspec.json.decode(lines[0], type=Note).id
        notes.write_bytes(b"".join(line for line in lines if msgspec.json.decode(line, type=Note).id != first))
        verdict = judge(stage, [])
        assert f"{first} is in the book, and nobody asked for it" in verdict.problems

    def test_an_order_without_its_message_is_lost(self, stage: Stage) -> None:
        verdict = tampered(stage, "INSERT INTO orders (message) VALUES ('x')")
        assert verdict.lost == ["the message x of an order"]
