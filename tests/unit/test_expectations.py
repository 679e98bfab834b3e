"""Expectations: exact ids, at the cost of what is new, whatever is committed late, repeated, killed or evaluated twice at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossfoot import Crossfoot
from crossfoot.books import expected, sql
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.posting import post_all
from crossfoot.books.record import Record
from crossfoot.books.store import Book, find_or_add, write_entries
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection
from crossfoot.errors import NotFound, UsageError
from crossfoot.outcomes import evaluating
from crossfoot.outcomes.durations import duration, written
from crossfoot.outcomes.evaluating import Report, accept, evaluate, forget, register, reports
from crossfoot.outcomes.expectation import Expectation, expect
from tests.servers.postgres import Databases, Postgres
from tests.unit.book_rig import QUEUE, SOURCE, Lectern

pytest_plugins = ["tests.servers.postgres_fixtures"]

RELEASED, ISSUED = "case.released", "invoice.issued"
MINUTE = 60 * SECOND


@pytest.fixture(scope="module")
def databases(postgres: Postgres) -> Databases:
    return Databases(postgres, lambda url: Book(url).open().close())


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=[pytest.mark.server, pytest.mark.xdist_group("postgres")])]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a book is kept."""
    if request.param == "sqlite":
        yield str(tmp_path / "book.db")
        return
    with request.getfixturevalue("databases").one() as url:
        yield url


@pytest.fixture
def postgres_place(databases: Databases) -> Iterator[str]:
    with databases.one() as url:
        yield url


@pytest.fixture
def desk(place: str) -> Iterator[Lectern]:
    made = Lectern(place)
    yield made
    made.close()


def record(id_: str, at: Micros, **attributes: Any) -> Record:
    fields: dict[str, Any] = {
        "queue": QUEUE, "source": SOURCE, "id": id_, "type": RELEASED, "subject": id_, "operation": None,
        "correlation": None, "causation": None, "sequence": None, "at": at, "body": None,
    }  # fmt: skip
    return Record(**(fields | attributes))


def release(connection: Connection, id_: str, at: Micros, **attributes: Any) -> int:
    """A message that was published, with its first entry; in the caller's transaction."""
    key = find_or_add(connection, record(id_, at, **attributes)).key
    write_entries(connection, [Entry(message=key, kind=Kind.PUBLISHED, at=at, due=at)])
    return key


def issue(
    connection: Connection, key: int, at: Micros, *, name: str = ISSUED, subject: str | None = None, kind: Kind = Kind.COMMITTED
) -> None:  # fmt: skip
    """What a handler commits: an outcome, and the entry; in the caller's transaction."""
    connection.execute(sql.INSERT_OUTCOME, (key, name, subject, at, None))
    write_entries(connection, [Entry(message=key, kind=kind, attempt=1, at=at)])


class Scene:
    """A book, and a business of releases and invoices."""

    def __init__(self, desk: Lectern, **more: Any) -> None:
        self.desk, self.book = desk, desk.book
        self.expectation = expect(ISSUED, after=RELEASED, within="5m", **more)
        register(self.book, [self.expectation])

    def release(self, *ids: str, **attributes: Any) -> None:
        for id_ in ids:
            with self.book.writing() as connection:
                self.desk.keys[id_] = release(connection, id_, self.desk.now, **attributes)

    def issue(self, id_: str, subject: str | None = None, **more: Any) -> None:
        with self.book.writing() as connection:
            issue(connection, self.desk.keys[id_], self.desk.now, subject=subject or id_, **more)

    def report(self) -> Report:
        post_all(self.book)
        evaluate(self.book)
        return told(self.book)


def told(book: Book) -> Report:
    with book.reading() as connection:
        (report,) = reports(connection, book.clock.now())
    assert report.opened == report.met + report.waiting + report.late + report.missing + report.excused
    return report


def missing(report: Report) -> list[str]:
    return [breach.id for breach in report.missing_messages]


def late(report: Report) -> list[str]:
    return [breach.id for breach in report.late_messages]


class TestStanding:
    def test_what_comes_in_time_is_counted_and_not_kept(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a", "b")
        desk.clock.advance(60)
        scene.issue("a")
        scene.issue("b")
        report = scene.report()
        assert (report.opened, report.met, report.breached) == (2, 2, False)
        with desk.book.reading() as connection:
            assert connection.execute("SELECT count(*) FROM crossfoot_expected").fetchone()[0] == 0

    def test_what_does_not_come_is_missing_by_id_once_its_time_is_over(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a", "b", "c")
        scene.issue("b")
        assert scene.report().waiting == 2
        desk.clock.advance(300)
        assert scene.report().missing == 0, "it has five minutes"
        desk.clock.advance(0.000001)
        report = scene.report()
        assert missing(report) == ["a", "c"]
        assert (report.met, report.waiting, report.breached) == (1, 0, True)

    def test_a_later_arrival_makes_the_missing_late(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a", "b")
        desk.clock.advance(400)
        assert missing(scene.report()) == ["a", "b"]
        scene.issue("b")
        report = scene.report()
        assert (missing(report), late(report)) == (["a"], ["b"])
        (breach,) = report.late_messages
        assert breach.answered_at is not None
        assert breach.answered_at - breach.due == 100 * SECOND

    def test_an_outcome_from_before_the_message_answers_nothing(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("first")
        scene.issue("first", subject="case")
        desk.clock.advance(10)
        scene.release("again", subject="case")
        desk.clock.advance(301)
        assert missing(scene.report()) == ["first", "again"], "the first one's subject is another one"

    def test_clocks_may_differ_by_as_much_as_is_said(self, desk: Lectern) -> None:
        scene = Scene(desk, skew="2s")
        scene.release("other")
        scene.issue("other", subject="case")
        desk.clock.advance(2)
        scene.release("case")
        scene.issue("other", subject="other")
        assert scene.report().met == 2

    def test_what_its_own_handler_recorded_answers_whatever_the_clocks_say(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a")
        desk.clock.advance(-30)
        scene.issue("a")
        assert scene.report().met == 1

    def test_other_outcomes_and_other_types_are_not_meant(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a")
        scene.issue("a", name="invoice.reversed")
        scene.release("b", type="case.closed")
        desk.clock.advance(301)
        report = scene.report()
        assert (report.opened, missing(report)) == (1, ["a"])

    def test_a_message_without_a_subject_cannot_be_answered_and_is_named(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a", subject=None)
        desk.clock.advance(301)
        assert missing(scene.report()) == ["a"]

    def test_a_redelivery_opens_nothing_again(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a")
        scene.issue("a")
        assert scene.report().met == 1
        desk.write("a", (Kind.RECEIVED, 2), (Kind.SUPPRESSED, 2))
        report = scene.report()
        assert (report.opened, report.met) == (1, 1)

    def test_what_was_published_before_is_not_looked_at(self, desk: Lectern) -> None:
        scene = Scene(desk, since=desk.now + 1)
        scene.release("old")
        desk.clock.advance(1)
        scene.release("new")
        desk.clock.advance(301)
        assert missing(scene.report()) == ["new"]


class TestWhatIsInCommon:
    def test_the_flow(self, desk: Lectern) -> None:
        scene = Scene(desk, by="correlation")
        scene.release("first")  # names its flow by its own id
        scene.release("child", type="case.billed", correlation="first", subject="x")
        scene.release("lost", correlation="flow-2")
        scene.release("other", type="case.billed", correlation="flow-3")
        scene.issue("child", subject="whatever")
        scene.issue("other", subject="lost")
        desk.clock.advance(301)
        report = scene.report()
        assert (report.met, missing(report)) == (1, ["lost"])

    def test_the_flow_of_an_outcome_that_was_there_before_its_message_was_read(self, desk: Lectern) -> None:
        scene = Scene(desk, by="correlation")
        scene.release("first")
        scene.issue("first")
        scene.release("child", type="case.billed", correlation="flow-2")
        scene.release("second", correlation="flow-2")
        scene.issue("child")
        evaluate(desk.book, group=1)
        assert told(desk.book).met == 2

    def test_the_message_itself(self, desk: Lectern) -> None:
        scene = Scene(desk, by="message")
        scene.release("a", subject="case")
        scene.release("b", subject="case")
        scene.issue("a", subject="elsewhere")
        desk.clock.advance(301)
        report = scene.report()
        assert (report.met, missing(report)) == (1, ["b"])


class TestExcuses:
    def test_a_noop_a_duplicate_and_a_discarded_one_are_excused_and_counted(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("noop", "duplicate", "superseded", "discarded", "dead")
        desk.write("noop", (Kind.RECEIVED, 1), (Kind.NOOP, 1))
        desk.write("duplicate", (Kind.RECEIVED, 1), (Kind.SUPPRESSED, 1))
        desk.write("superseded", (Kind.RECEIVED, 1), (Kind.SUPERSEDED, 1))
        desk.write("discarded", (Kind.DISCARDED, 0))
        desk.write("dead", (Kind.RECEIVED, 1), (Kind.DEAD_LETTERED, 1))
        desk.clock.advance(301)
        report = scene.report()
        assert (report.excused, missing(report)) == (4, ["dead"])
        assert report.missing_messages[0].fate == "dead"

    def test_which_fates_excuse_may_be_said(self, desk: Lectern) -> None:
        scene = Scene(desk, excused=())
        scene.release("noop")
        desk.write("noop", (Kind.RECEIVED, 1), (Kind.NOOP, 1))
        desk.clock.advance(301)
        assert missing(scene.report()) == ["noop"]

    def test_an_outcome_of_a_noop_counts(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a")
        scene.issue("a", kind=Kind.NOOP)
        assert scene.report().met == 1


class TestAccepting:
    def test_what_a_person_accepts_is_excused_and_the_book_keeps_who_and_why(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a", "b", "waits")
        desk.clock.advance(301)
        scene.release("young")
        scene.issue("b")
        scene.report()
        accept(desk.book, ["a", "b"], by="anna", reason="sent by hand")
        report = scene.report()
        assert (report.excused, missing(report), report.late, report.waiting) == (2, ["waits"], 0, 1)
        with desk.book.reading() as connection:
            (kept,) = connection.execute(
                "SELECT DISTINCT accepted FROM crossfoot_expected WHERE id IN ('a', 'b')"
            ).fetchall()
        assert json.loads(kept[0]) == {"by": "anna", "reason": "sent by hand", "at": desk.now}

    def test_nothing_is_accepted_where_one_of_them_is_not_missing(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a")
        desk.clock.advance(301)
        scene.release("young")
        scene.report()
        with pytest.raises(NotFound, match="expected of young"):
            accept(desk.book, ["a", "young"], by="anna", reason="sent by hand")
        assert missing(scene.report()) == ["a"]

    def test_a_message_that_left_the_book_is_still_named(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a")
        desk.clock.advance(301)
        scene.report()
        desk.execute("DELETE FROM crossfoot_messages WHERE id = 'a'")
        (breach,) = told(desk.book).missing_messages
        assert (breach.id, breach.fate, breach.queue) == ("a", "no longer in the book", None)


class TestAnyOrder:
    """However the book is written and evaluated, what comes of it is what all of it together says."""

    def test_the_earliest_of_several_counts(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a")
        scene.release("other", type="case.reopened")
        desk.clock.advance(400)
        scene.issue("a")
        scene.report()
        desk.clock.advance(10)
        scene.issue("other", subject="a")
        (breach,) = scene.report().late_messages
        assert breach.answered_at is not None
        assert breach.answered_at - breach.due == 100 * SECOND

    def test_an_outcome_that_was_read_before_its_message_is_found(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("other")
        scene.issue("other", subject="case")
        evaluate(desk.book)
        scene.release("case")
        desk.clock.advance(301)
        assert missing(scene.report()) == ["other"]

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_evaluating_as_it_comes_equals_evaluating_at_the_end(self, tmp_path: Path, data: st.DataObject) -> None:
        by = data.draw(st.sampled_from(["subject", "correlation", "message"]))
        path = tmp_path / f"{data.draw(st.uuids())}.db"
        desk = Lectern(path)
        try:
            scene = Scene(desk, by=by)
            ids = [f"m{number}" for number in range(data.draw(st.integers(1, 6)))]
            subjects = st.sampled_from(["s1", "s2"])
            waiting = list(ids)
            for _ in range(data.draw(st.integers(8, 40))):
                act = data.draw(st.sampled_from(["release", "issue", "evaluate", "again", "wait"]))
                if act == "release" and waiting:
                    scene.release(
                        waiting.pop(0),
                        subject=data.draw(subjects),
                        correlation=data.draw(st.sampled_from([None, "m0", "f"])),
                    )
                elif act == "issue" and desk.keys:
                    scene.issue(data.draw(st.sampled_from(sorted(desk.keys))), subject=data.draw(subjects))
                elif act == "evaluate":
                    evaluate(desk.book, group=data.draw(st.integers(1, 3)))
                elif act == "again" and desk.keys:
                    desk.write(data.draw(st.sampled_from(sorted(desk.keys))), (Kind.RECEIVED, 2))
                else:
                    desk.clock.advance(data.draw(st.sampled_from([1, 200, 301, -50])))
            evaluate(desk.book)
            register(desk.book, [expect(ISSUED, after=RELEASED, within="5m", by=by, name="at the end")])
            evaluate(desk.book)
            with desk.book.reading() as connection:
                as_it_came, at_the_end = sorted(reports(connection, desk.now), key=lambda one: one.name == "at the end")
        finally:
            desk.close()
        names = ("opened", "met", "waiting", "late", "missing")
        assert [getattr(as_it_came, name) for name in names] == [getattr(at_the_end, name) for name in names]
        assert missing(as_it_came) == missing(at_the_end)
        assert [(b.id, b.answered_at) for b in as_it_came.late_messages] == [
            (b.id, b.answered_at) for b in at_the_end.late_messages
        ]

    def test_a_step_that_is_cut_short_is_done_again_from_its_beginning(
        self, desk: Lectern, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene = Scene(desk)
        scene.release("a", "b", "c")
        scene.issue("b")
        move = expected.move

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(expected, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(desk.book)
        monkeypatch.setattr(expected, "move", move)
        desk.clock.advance(301)
        report = scene.report()
        assert (report.opened, report.met, missing(report)) == (3, 1, ["a", "c"])

    def test_two_at_once_count_once(self, desk: Lectern) -> None:
        scene = Scene(desk)
        ids = [f"m{number}" for number in range(60)]
        scene.release(*ids)
        for id_ in ids[::2]:
            scene.issue(id_)
        desk.clock.advance(301)
        failures: list[BaseException] = []

        def work() -> None:
            book = desk.book.another()
            try:
                evaluate(book.open(), group=3)
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)
            finally:
                book.close()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        report = scene.report()
        assert (report.opened, report.met, missing(report)) == (60, 30, ids[1::2])


class TestDefinitions:
    def test_a_new_one_reads_the_book_from_its_beginning_and_then_goes_with_the_others(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a", "b")
        scene.issue("a")
        scene.report()
        register(desk.book, [expect("letter.sent", after=RELEASED, within="1m", name="letters")])
        desk.clock.advance(61)
        evaluate(desk.book, group=1)
        with desk.book.reading() as connection:
            letters = next(one for one in reports(connection, desk.now) if one.name == "letters")
            places = {one.place for one in expected.kept(connection)}
        assert missing(letters) == ["a", "b"]
        assert len(places) == 1

    def test_one_that_says_something_else_begins_anew(self, desk: Lectern) -> None:
        scene = Scene(desk)
        scene.release("a")
        desk.clock.advance(301)
        assert missing(scene.report()) == ["a"]
        assert register(desk.book, [scene.expectation]) == []
        changed = expect(ISSUED, after=RELEASED, within="1h")
        assert register(desk.book, [changed]) == [changed.name]
        report = scene.report()
        assert (report.opened, report.waiting, report.missing) == (1, 1, 0)

    def test_one_that_is_forgotten_is_gone(self, desk: Lectern) -> None:
        scene = Scene(desk)
        forget(desk.book, scene.expectation.name)
        assert evaluate(desk.book) == 0
        with pytest.raises(NotFound, match="crossfoot outcomes"):
            forget(desk.book, scene.expectation.name)

    @pytest.mark.parametrize(
        ("stated", "says"),
        [
            ({"within": "soon"}, "write a number and its unit"),
            ({"within": 0}, "within is 0"),
            ({"after": ""}, "after is ''"),
            ({"after": "case.*"}, "expect each of them"),
            ({"by": "case"}, "it is one of subject, correlation, message"),
            ({"bye": "subject"}, "did you mean 'by'"),
            ({"excused": ["sleeping"]}, "no fate that ends a message"),
            ({"since": "2026-11-01"}, "a time with its zone"),
        ],
    )
    def test_what_cannot_be_meant_is_refused_with_the_remedy(self, stated: dict[str, Any], says: str) -> None:
        arguments: dict[str, Any] = {"after": RELEASED, "within": "5m", **stated}
        with pytest.raises(UsageError, match=says):
            expect(ISSUED, **arguments)

    def test_a_program_states_each_name_once(self, tmp_path: Path) -> None:
        app = Crossfoot("billing", database=tmp_path / "book.db")
        app.expect(ISSUED, after=RELEASED, within="5m")
        with pytest.raises(UsageError, match="name="):
            app.expect(ISSUED, after=RELEASED, within="1h")

    @pytest.mark.parametrize(
        ("text", "span"), [("90s", 90), ("5m", 300), ("1.5h", 5400), ("2d", 172_800), ("250ms", 0.25), (3, 3)]
    )
    def test_spans_are_read_as_people_write_them(self, text: Any, span: float) -> None:
        assert duration(text, what="within") == span * SECOND
        assert duration(written(duration(text, what="within")), what="within") == span * SECOND


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
class TestLateCommits:
    """In PostgreSQL a transaction may take its numbers first and commit last."""

    @contextmanager
    def scene(self, place: str) -> Iterator[tuple[Scene, Lectern]]:
        desk = Lectern(place)
        try:
            yield Scene(desk), desk
        finally:
            desk.close()

    def test_a_message_that_is_committed_after_later_ones_is_not_stepped_over(self, postgres_place: str) -> None:
        with self.scene(postgres_place) as (scene, desk):
            other = desk.book.another().open()
            with other.writing() as slow:
                release(slow, "slow", desk.now)
                scene.release("quick")
                scene.issue("quick")
                evaluate(desk.book)
            desk.clock.advance(301)
            report = scene.report()
            other.close()
        assert (report.opened, report.met, missing(report)) == (2, 1, ["slow"])

    def test_an_outcome_that_is_committed_late_was_in_time_all_the_same(self, postgres_place: str) -> None:
        with self.scene(postgres_place) as (scene, desk):
            scene.release("slow", "quick")
            other = desk.book.another().open()
            with other.writing() as slow:
                issue(slow, desk.keys["slow"], desk.now, subject="slow")
                scene.issue("quick")
                desk.clock.advance(301)
                evaluate(desk.book)
                assert missing(told(desk.book))[:1] == ["slow"]
            report = scene.report()
            other.close()
        assert (report.met, report.breached) == (2, False)

    def test_a_book_that_was_copied_to_another_server_is_evaluated_anew(self, postgres_place: str) -> None:
        with self.scene(postgres_place) as (scene, desk):
            scene.release("a", "b")
            scene.issue("a")
            desk.clock.advance(301)
            before = scene.report()
            desk.execute("UPDATE crossfoot_expectations SET place = '999999999:1'")  # of a server that had done more
            desk.execute("SELECT crossfoot_moved()")
            after = scene.report()
        assert (
            (after.opened, after.met, missing(after)) == (before.opened, before.met, missing(before)) == (2, 1, ["b"])
        )


@pytest.mark.parametrize("by", ["subject", "correlation", "message"])
def test_nothing_but_what_is_new_is_read(tmp_path: Path, by: str) -> None:
    """Whatever the planner thinks of the tables: each statement begins with the group, and looks up the rest."""
    with_book = Lectern(tmp_path / "book.db")
    try:
        statements: Sequence[str] = (expected.OPENING[by], expected.ANSWERING[by])
        parameters: dict[str, Any] = {
            "name": "x", "outcome": ISSUED, "after": RELEASED, "since": 0, "skew": 0, "begin": "0", "upto": "9",
        }  # fmt: skip
        with with_book.book.reading() as connection:
            for statement in statements:
                plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
                scans = [
                    step
                    for step in plan
                    if step.startswith("SCAN") and step.split()[1] not in ("g", "f", "(subquery-1)")
                ]
                assert scans == [], plan
    finally:
        with_book.close()


def test_the_evaluator_is_a_chore_of_every_worker(tmp_path: Path) -> None:
    app = Crossfoot("billing", database=tmp_path / "book.db")
    app.expect(ISSUED, after=RELEASED, within="5m")

    @app.handler(RELEASED)
    def bill(message: Any, tx: Any) -> None:
        tx.outcome(ISSUED if message.subject != "2" else "invoice.forgotten")

    import anyio

    async def work() -> None:
        await app.publish(*(app.message(RELEASED, subject=str(number)) for number in range(4)))
        await app.worker().run(until_idle=True)

    anyio.run(work)
    with app.book.reading() as connection:
        (report,) = reports(connection, app.clock.now())
    assert (report.opened, report.met, report.waiting) == (4, 3, 1)
    anyio.run(app.aclose)
    assert isinstance(app.promises.expectations[f"{ISSUED} after {RELEASED}"], Expectation)
    assert evaluating.GROUP > 0
