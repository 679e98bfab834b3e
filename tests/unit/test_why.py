"""Why: one page about a message, right for a tired person; and the ways to find the message."""

from __future__ import annotations

import io
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossfoot.books import queries, sql
from crossfoot.books.entry import Kind
from crossfoot.books.fate import PATIENCE, Fate
from crossfoot.books.record import UNREADABLE
from crossfoot.cli import COMMANDS
from crossfoot.cli.output import Output, When
from crossfoot.cli.pages import show_page
from crossfoot.clock import SECOND
from crossfoot.recover.lookup import FOLDED, LISTED, Found, look_up
from crossfoot.recover.phrases import ordinal, span, stamp
from crossfoot.recover.timeline import MARKS, Mark
from crossfoot.recover.why import NEEDS_SOMEBODY, Page
from crossfoot.recover.wording import WORDINGS
from tests.unit.book_rig import CAUSE, QUEUE, Desk, Step

PUBLISHED: Step = (Kind.PUBLISHED, 0)
RECEIVED: Step = (Kind.RECEIVED, 1)
FAILURE: dict[str, Any] = {"cause": CAUSE.fingerprint, "details": {"error": CAUSE.kind, "text": CAUSE.text}}
COMMITTED: Step = (Kind.COMMITTED, 1, {"details": {"rows": 2, "outcomes": ["invoice.issued"]}})


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(tmp_path / "book.db")) as desk:
        yield desk


def found(desk: Desk, name: str, **options: Any) -> Found:
    with desk.book.reading() as connection:
        return look_up(connection, name, desk.now, **options)


def page(desk: Desk, name: str, **options: Any) -> Page:
    found_page = found(desk, name, **options).page
    assert found_page is not None
    return found_page


# ---- every fate in words -------------------------------------------------------------------------------------------

STORIES: dict[Fate, tuple[list[Step], float, str]] = {
    Fate.INTENDED: ([(Kind.INTENDED, 0)], 1.0, "Decided on 1 s ago, durably; it has not been sent yet."),
    Fate.IN_DOUBT: (
        [(Kind.PUBLISH_IN_DOUBT, 0, {"details": {"reason": "timed out"}})],
        1.0,
        "did not answer; it is sent again under the same id. timed out.",
    ),
    Fate.QUEUED: ([PUBLISHED], 3.0, f"Published 3 s ago; it waits in queue {QUEUE} for a worker."),
    Fate.PROCESSING: ([PUBLISHED, (Kind.RECEIVED, 1, {"worker": 1, "due": 0})], 2.0, "has had it for 2 s (1st delivery)"),
    Fate.RETRYING: (
        [PUBLISHED, RECEIVED, (Kind.FAILED, 1, {**FAILURE, "due": 60})],
        1.0,
        "Its 1st delivery failed; it is tried again in 59 s. ValueError at billing:bill: amount is negative.",
    ),
    Fate.PARKED: (
        [PUBLISHED, RECEIVED, (Kind.PARKED, 1, {"details": {"predecessor": 2, "sequence": 3}})],
        1.0,
        "It came early: it waits for sequence 2 of case-1",
    ),
    Fate.STRANDED: ([(Kind.PUBLISHED, 0, {"due": 0})], 1200.0, "has been waiting in queue billing for 20 min"),
    Fate.STALLED: (
        [PUBLISHED, (Kind.RECEIVED, 1, {"worker": 1, "due": 30})],
        120.0,
        "was last heard of at 22:13:20.000 UTC: no orderly stop. Its lease has been over for 1 min 30 s",
    ),
    Fate.SETTLED: (
        [PUBLISHED, (Kind.RECEIVED, 1, {"worker": 1}), COMMITTED],
        1.0,
        "Proof: 2 rows changed, outcome invoice.issued. Its ack is not booked",
    ),
    Fate.NOOP: (
        [PUBLISHED, RECEIVED, (Kind.NOOP, 1, {"details": {"reason": "amount is zero"}}), (Kind.ACKED, 1)],
        1.0,
        "nothing to do: amount is zero.",
    ),
    Fate.SUPERSEDED: (
        [PUBLISHED, RECEIVED, (Kind.SUPERSEDED, 1, {"details": {"sequence": 3}})],
        1.0,
        "A later event of case-1 had been applied before it (its own sequence is 3).",
    ),
    Fate.DUPLICATE: ([PUBLISHED, RECEIVED, (Kind.SUPPRESSED, 1)], 1.0, "completed by another message"),
    Fate.DEAD: (
        [PUBLISHED, RECEIVED, (Kind.FAILED, 1, FAILURE), (Kind.DEAD_LETTERED, 1, FAILURE)],
        7.0,
        "Dead-lettered after 1 delivery, 7 s ago. ValueError at billing:bill: amount is negative.",
    ),
    Fate.EXPIRED: (
        [PUBLISHED, (Kind.EXPIRED, 0, {"details": {"reason": "the queue's retention is over"}})],
        1.0,
        "It expired unhandled: the queue's retention is over.",
    ),
    Fate.REFUSED: ([(Kind.REFUSED, 0, {"details": {"reason": "too large"}})], 1.0, "The queue refused it: too large."),
    Fate.DISCARDED: (
        [PUBLISHED, (Kind.DISCARDED, 0, {"details": {"reason": "test data"}})],
        1.0,
        "A person decided that it need not happen: test data.",
    ),
    Fate.VANISHED: (
        [PUBLISHED, (Kind.VANISHED, 0, {"details": {"seen": "browsed"}})],
        1.0,
        "The queue no longer has it (the queue was browsed), and nothing proves that it was handled. Last known: published",
    ),
}  # fmt: skip


def tell(desk: Desk, fate: Fate) -> Page:
    """The page about a message of that fate. Due times in the stories are seconds from now."""
    steps, wait, _ = STORIES[fate]
    desk.book.start_worker("worker-3", "billing")
    timed = [
        (k, a, {**f[0], "due": desk.now + f[0]["due"] * SECOND} if f and "due" in f[0] else (f or [{}])[0])
        for k, a, *f in steps
    ]
    desk.story("one", *timed, subject="case-1", sequence=3)
    desk.clock.advance(wait)
    return page(desk, "one")


def test_every_fate_has_words_and_a_story_here() -> None:
    assert set(WORDINGS) == set(STORIES) == set(Fate)


@pytest.mark.parametrize("fate", Fate)
def test_the_page_gives_the_fate_and_its_reason(desk: Desk, fate: Fate) -> None:
    told = tell(desk, fate)

    assert told.fate == fate.label
    assert STORIES[fate][2] in told.reason
    assert told.needs_somebody == (fate in NEEDS_SOMEBODY)
    assert len(told.entries) == len(STORIES[fate][0])


@pytest.mark.parametrize("fate", sorted(NEEDS_SOMEBODY | {Fate.RETRYING, Fate.QUEUED, Fate.PARKED}))
def test_who_needs_somebody_is_told_what_to_do(desk: Desk, fate: Fate) -> None:
    told = tell(desk, fate)

    assert told.next
    assert any(step.command for step in told.next)


@pytest.mark.parametrize("fate", [Fate.SETTLED, Fate.NOOP, Fate.SUPERSEDED, Fate.DISCARDED])
def test_there_is_nothing_to_do_about_what_is_closed_well(desk: Desk, fate: Fate) -> None:
    assert tell(desk, fate).next == ()


@pytest.mark.parametrize("fate", [Fate.DEAD, Fate.EXPIRED, Fate.VANISHED])
def test_what_was_sent_again_after_its_end_is_not_to_be_sent_again(desk: Desk, fate: Fate) -> None:
    steps, wait, _ = STORIES[fate]
    desk.story("one", *steps)
    desk.clock.advance(wait)
    before = page(desk, "one")
    desk.publish("one")
    desk.clock.advance(4.0)
    told = page(desk, "one")

    assert before.next[-1].command is not None
    assert before.next[-1].command.startswith("crossfoot publish")
    assert "It was sent again 4 s ago, and no worker has received that copy yet." in told.reason
    assert told.next[-1].command == "crossfoot worker MODULE:NAME"


def test_what_nobody_could_read_is_for_its_sender_to_send_again(desk: Desk) -> None:
    desk.story("one", *STORIES[Fate.DEAD][0], type=UNREADABLE)

    assert page(desk, "one").next[-1].command is None


def test_commands_in_advice_exist(desk: Desk) -> None:
    commands = set()
    for number, fate in enumerate(Fate):
        desk.story(f"message-{number}", *STORIES[fate][0])
        commands |= {step.command for step in page(desk, f"message-{number}").next if step.command}

    assert commands
    assert {command.split()[1] for command in commands} <= set(COMMANDS)


def test_a_parked_message_that_nobody_sends_on_is_stranded(desk: Desk) -> None:
    parked = (Kind.PARKED, 1, {"details": {"predecessor": 2}, "due": desk.now})
    desk.story("one", PUBLISHED, RECEIVED, parked)
    desk.clock.advance(3600)

    told = page(desk, "one")

    assert told.fate == "stranded"
    assert "waited for sequence 2; that is over since 1 h, and no worker has sent it on" in told.reason


def test_a_message_without_entries_is_unaccounted(desk: Desk) -> None:
    desk.register("blank")

    told = page(desk, "blank")

    assert told.fate == "unaccounted"
    assert told.needs_somebody
    assert told.next[0].command == "crossfoot verify"


# ---- deliveries and their ends ---------------------------------------------------------------------------------------


def test_a_delivery_without_an_end_names_the_worker_that_stopped_answering(desk: Desk) -> None:
    number = desk.book.start_worker("w-3", "billing")
    desk.execute("UPDATE crossfoot_workers SET pid = 4711, host = 'machine-1'")
    desk.publish("one")
    desk.receive(worker=number)
    desk.clock.advance(60)
    desk.receive()

    told = page(desk, "one")

    assert [delivery.end for delivery in told.deliveries] == ["no end", "open"]
    assert told.deliveries[0].text == (
        "worker w-3 (pid 4711 on machine-1) was last heard of at 22:13:20.000 UTC: no orderly stop"
    )
    assert [line.what for line in told.timeline] == [
        "intended", "published", "received", "no end", "received", "waits for the handler",
    ]  # fmt: skip


def test_a_worker_that_stopped_in_order_is_not_said_to_have_been_killed(desk: Desk) -> None:
    number = desk.book.start_worker("w-3", "billing")
    desk.publish("one")
    desk.receive(worker=number)
    desk.book.stop_worker(number)
    desk.clock.advance(60)

    assert "stopped in order at 22:13:20.000 UTC, and did not end it" in page(desk, "one").deliveries[0].text


def test_a_worker_that_outlived_its_lease_is_not_said_to_have_been_killed(desk: Desk) -> None:
    number = desk.book.start_worker("w-3", "billing")
    desk.publish("one")
    desk.receive(worker=number)
    desk.clock.advance(60)
    desk.book.see_worker(number)

    assert "let the lease run out at 22:13:50.000 UTC, and was still alive" in page(desk, "one").deliveries[0].text


def test_each_delivery_has_its_own_end(desk: Desk) -> None:
    later = {"due": desk.now + SECOND}
    desk.story(
        "one", PUBLISHED, RECEIVED, (Kind.FAILED, 1, {**FAILURE, **later}), (Kind.RECEIVED, 2), (Kind.COMMITTED, 2),
        (Kind.ACKED, 2),
    )  # fmt: skip

    first, second = page(desk, "one").deliveries

    assert (first.end, first.cause, first.acked) == ("failed", CAUSE.fingerprint, "no")
    assert (second.end, second.cause, second.acked) == ("committed", None, "yes")


def test_causes_are_told_once_with_the_words_of_the_latest_failure(desk: Desk) -> None:
    raised = "billing.py:42 charge()"
    again = {**FAILURE, "details": {"text": "amount is very negative", "raised": raised}}
    desk.story("one", PUBLISHED, RECEIVED, (Kind.FAILED, 1, FAILURE), (Kind.RECEIVED, 2), (Kind.FAILED, 2, again))

    (cause,) = page(desk, "one").causes

    assert (cause.title, cause.text, cause.raised) == (CAUSE.title, "amount is very negative", raised)
    assert cause.deliveries == 2


def test_the_page_does_not_wait_for_the_posting(desk: Desk) -> None:
    desk.story("one", PUBLISHED, RECEIVED, COMMITTED)

    assert page(desk, "one").fate == "settled"


def test_details_that_are_no_json_are_shown_as_they_are(desk: Desk) -> None:
    desk.story("one", PUBLISHED)
    desk.execute("UPDATE crossfoot_entries SET kind = ?, details = 'broken {'", int(Kind.REFUSED))

    assert "The queue refused it: broken {." in page(desk, "one").reason


def test_every_kind_has_a_mark() -> None:
    bad = {kind for kind in Kind if MARKS.get(kind, Mark.DONE) is Mark.FAILED}

    assert bad == {Kind.REFUSED, Kind.FAILED, Kind.EXPIRED, Kind.VANISHED, Kind.DEAD_LETTERED}


steps = st.tuples(
    st.sampled_from(sorted(Kind)), st.integers(0, 3),
    st.fixed_dictionaries({
        "delivery": st.integers(0, 3), "worker": st.integers(0, 2), "at": st.integers(0, 2**51),
        "due": st.none() | st.integers(0, 2**51), "cause": st.sampled_from([None, CAUSE.fingerprint, "lost"]),
        "details": st.sampled_from([{}, {"reason": "r"}, {"text": 3}, {"rows": "two", "outcomes": 1}, {"predecessor": []}]),
    }),
)  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with closing(Desk(tmp_path_factory.mktemp("archive") / "book.db")) as desk:
        desk.book.start_worker("worker-1", "billing")
        yield desk


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(steps, max_size=8))
def test_any_history_has_a_page_whatever_clocks_and_writers_did(archive: Desk, history: list[Step]) -> None:
    id_ = f"message-{len(archive.keys)}"
    archive.story(id_, *history)

    told = page(archive, id_)

    assert told.reason
    assert len(told.entries) == len(history)
    assert len(told.timeline) >= len(history)
    with io.StringIO() as written, redirect_stdout(written):
        show_page(Output(When.never), told)
        assert id_ in written.getvalue()


# ---- what is around it -------------------------------------------------------------------------------------------------


def test_a_duplicate_names_the_message_that_completed_its_operation(desk: Desk) -> None:
    desk.story("first", PUBLISHED, RECEIVED, COMMITTED)
    desk.complete("bill:case-1", "first")
    desk.story("second", PUBLISHED, RECEIVED, (Kind.SUPPRESSED, 1, {"details": {"operation": "bill:case-1", "by": 1}}))

    told = page(desk, "second")

    assert told.operation is not None
    assert (told.operation.key, told.operation.completed_by, told.operation.by_this) == ("bill:case-1", "first", False)
    assert "had been completed by message first" in told.reason
    assert told.next[0].command == "crossfoot why first"


def test_an_operation_was_completed_by_the_commit_and_not_when_the_handler_began(desk: Desk) -> None:
    desk.story("first", PUBLISHED, RECEIVED)
    desk.complete("bill:case-1", "first")
    desk.clock.advance(15.0)
    desk.write("first", COMMITTED)
    committed = desk.now
    desk.clock.advance(15.0)
    desk.story("second", PUBLISHED, RECEIVED, (Kind.SUPPRESSED, 1, {"details": {"operation": "bill:case-1", "by": 1}}))

    for name in ("first", "second"):
        operation = page(desk, name).operation
        assert operation is not None
        assert operation.at == committed


def test_an_operation_that_nobody_completed_is_told_as_such(desk: Desk) -> None:
    desk.story("one", PUBLISHED, operation="bill:case-1")

    operation = page(desk, "one").operation

    assert operation is not None
    assert (operation.key, operation.completed_by, operation.at) == ("bill:case-1", None, None)


def test_outcomes_and_relatives_are_on_the_page(desk: Desk) -> None:
    desk.story("parent", PUBLISHED, RECEIVED, COMMITTED)
    with desk.book.writing() as connection:
        connection.execute(
            sql.INSERT_OUTCOME, (desk.keys["parent"], "invoice.issued", "case-1", desk.now, '{"amount":7}')
        )
    desk.story("child", PUBLISHED, RECEIVED, (Kind.DEAD_LETTERED, 1), causation="parent", correlation="parent")
    desk.story("stranger", PUBLISHED, causation="parent", correlation="another flow")

    parent, child = page(desk, "parent"), page(desk, "child")

    assert [(one.name, one.facts) for one in parent.outcomes] == [("invoice.issued", '{"amount":7}')]
    assert [(one.message.id, one.fate) for one in parent.children] == [("child", "dead")]
    assert [(one.message.id, one.fate) for one in child.parents] == [("parent", "settled")]


# ---- finding it --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("id-1", "message id"), ("case-1", "subject"), ("flow-1", "correlation id"), ("bill:1", "operation key"),
        ("stated:1", "operation key"), ("tests|id-1", "message key"),
    ],
)  # fmt: skip
def test_a_message_is_found_by_each_of_its_names(desk: Desk, name: str, kind: str) -> None:
    desk.story("id-1", PUBLISHED, subject="case-1", correlation="flow-1", operation="stated:1")
    desk.complete("bill:1", "id-1")

    assert found(desk, name).kind == kind
    assert page(desk, name).message.id == "id-1"


def test_an_id_counts_before_a_subject_of_the_same_name(desk: Desk) -> None:
    desk.story("same", PUBLISHED)
    desk.story("other", PUBLISHED, subject="same")

    assert page(desk, "same").message.id == "same"


def test_nothing_of_that_name_is_nothing(desk: Desk) -> None:
    assert found(desk, "nothing").count == 0
    assert found(desk, "no|such").count == 0
    assert found(desk, "").count == 0


def test_several_messages_are_listed_newest_first_with_their_fates(desk: Desk) -> None:
    desk.story("first", PUBLISHED, RECEIVED, COMMITTED, subject="case-1")
    desk.story(
        "second", PUBLISHED, RECEIVED, (Kind.FAILED, 1, FAILURE), (Kind.DEAD_LETTERED, 1, FAILURE), subject="case-1"
    )

    several = found(desk, "case-1")

    assert several.page is None
    assert [(line.message.id, line.fate) for line in several.listed] == [("second", "dead"), ("first", "settled")]
    assert several.fates == {"dead": 1, "settled": 1}
    assert several.listed[0].title == CAUSE.title


def test_a_long_list_is_cut_and_counted(desk: Desk) -> None:
    with desk.book.writing() as connection:
        connection.executemany(
            sql.INSERT_MESSAGE.replace("RETURNING key", ""),
            [(QUEUE, "s", f"m-{n}", "t", "busy", None, None, None, n, 0, 0, 0, 0, None) for n in range(FOLDED + 20)],
        )
        connection.execute(
            f"INSERT INTO crossfoot_entries SELECT key, key, {int(Kind.PUBLISHED)}, 0, 0, 0, NULL, 0, NULL, NULL FROM crossfoot_messages"
        )

    several = found(desk, "busy")

    assert (several.count, several.folded, len(several.listed)) == (FOLDED + 20, FOLDED, LISTED)
    assert several.listed[0].message.id == f"m-{FOLDED + 19}"
    assert several.fates == {"queued": FOLDED}


def test_one_queue_of_several_is_chosen_by_its_name(desk: Desk) -> None:
    desk.story("one", PUBLISHED)
    desk.keys["one"] = desk.register("one", queue="letters")
    desk.write("one", (Kind.RECEIVED, 1), (Kind.NOOP, 1))

    assert found(desk, "one").count == 2
    assert page(desk, "one", queue="letters").fate == "noop"
    assert page(desk, "one", queue=QUEUE).fate == "queued"


@pytest.mark.parametrize("kind", queries.KINDS_OF_NAME)
def test_no_way_of_finding_reads_all_messages(desk: Desk, kind: str) -> None:
    statements: list[str] = []
    with desk.book.reading() as connection:
        assert isinstance(connection, sqlite3.Connection)
        connection.set_trace_callback(statements.append)
        queries.named(connection, kind, "source|name", 10)
        queries.count_named(connection, kind, "source|name")
        connection.set_trace_callback(None)
        plans = [row[3] for one in statements for row in connection.execute(f"EXPLAIN QUERY PLAN {one}")]

    assert plans
    assert not [step for step in plans if re.match("SCAN", step)], plans


def test_no_part_of_the_page_reads_all_of_anything(desk: Desk) -> None:
    desk.settle("one")
    desk.story("child", PUBLISHED, causation="one", correlation="one")
    statements: list[str] = []
    with desk.book.reading() as connection:
        assert isinstance(connection, sqlite3.Connection)
        connection.set_trace_callback(statements.append)
        look_up(connection, "one", desk.now, patience=PATIENCE)
        connection.set_trace_callback(None)
        plans = [
            row[3]
            for one in statements
            if one.startswith("SELECT")
            for row in connection.execute(f"EXPLAIN QUERY PLAN {one}")
        ]

    # What is expected at all is a row for each app.expect() of a program: that table is read as a whole.
    whole = [step for step in plans if re.match("SCAN", step) and step != "SCAN crossfoot_expectations"]
    assert not whole, plans


# ---- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0 ms"), (1_234, "1.23 ms"), (999_499, "999 ms"), (1_000_000, "1 s"), (1_250_000, "1.2 s"), (59_900_000, "59.9 s"),
        (60_000_000, "1 min"), (61_000_000, "1 min 1 s"), (3_600_000_000, "1 h"), (90_000_000_000, "1 d 1 h"),
    ],
)  # fmt: skip
def test_spans_have_as_many_digits_as_a_person_wants(micros: int, text: str) -> None:
    assert span(micros) == text


def test_ordinals() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 113)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "113th",
    ]  # fmt: skip


def test_times_for_machines_keep_their_microseconds() -> None:
    assert stamp(1_700_000_000_000_001) == "2023-11-14T22:13:20.000001Z"


def test_the_story_is_told_in_the_order_in_which_it_happened(desk: Desk) -> None:
    desk.publish("m")
    for step in (
        RECEIVED, (Kind.FAILED, 1, FAILURE), (Kind.DEAD_LETTERED, 1, FAILURE),
        (Kind.REPLAYED, 0, {"details": {"replay": 1, "by": "anna", "reason": "mended"}}),
        (Kind.RECEIVED, 2), (Kind.COMMITTED, 2, {"details": {"rows": 2}}), (Kind.ACKED, 2),
    ):  # fmt: skip
        desk.clock.advance(1)
        desk.write("m", step)

    told = page(desk, "m").story

    begun = (
        "tests decided", "The queue took", "A worker received", "It was put into", "It was sent again", "A worker received", "Proof: 2",
    )  # fmt: skip
    assert [line.startswith(words) for line, words in zip(told, begun, strict=True)] == [True] * len(begun), told
    assert "and committed its effect" in told[5]
    assert "by anna: mended" in told[4]
