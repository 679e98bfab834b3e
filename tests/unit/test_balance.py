"""The balance: every message has a fate, and where two boundaries disagree, the messages are named."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.large_book import make
from crossfoot.books.balance import ACCEPTED, LEDGER, OPERATIONS, RULES, Identity
from crossfoot.books.custody import Depth, depth_agrees, gaps
from crossfoot.books.digest import EMPTY, Tally, tally_of
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.fate import FATE_OF_LATEST, Fate, fate_of, fold
from crossfoot.books.measures import OPERATION, entry_measure, fate_measure
from crossfoot.books.posting import post
from crossfoot.books.stock import Part, take_stock
from crossfoot.clock import SECOND
from crossfoot.sqlite import connect
from tests.unit.book_rig import CAUSE, QUEUE, Desk, broken, counted, ids

PUBLISHED = (Kind.PUBLISHED, 0)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(tmp_path / "book.db")) as desk:
        yield desk


# ---- rows: every message has a fate --------------------------------------------------------------------------------


def test_an_empty_book_balances(desk: Desk) -> None:
    balance = desk.balance()

    assert balance.balanced
    assert balance.published == balance.unaccounted == 0
    assert set(balance.fates) == {fate.label for fate in Fate}


def test_what_was_published_is_the_sum_of_the_fates(desk: Desk) -> None:
    desk.settle(*ids("settled", 5))
    desk.bury(*ids("dead", 2))
    desk.publish(*ids("queued", 3))

    balance = desk.balance()

    assert balance.published == 10
    assert counted(balance.fates) == {"settled": 5, "dead": 2, "queued": 3}
    assert balance.unaccounted == 0
    assert counted(balance.boundaries) == {
        "published": 10, "received": 7, "committed": 5, "operations": 5, "acked": 5,
    }  # fmt: skip
    assert all(identity.holds for identity in balance.identities.values())
    assert balance.balanced, "dead letters are accounted for"
    assert balance.attention["dead"].count == 2


def test_a_message_that_nobody_receives_is_stranded_when_its_patience_is_over(desk: Desk) -> None:
    desk.publish("early", "late")
    assert counted(desk.balance().fates) == {"queued": 2}

    desk.clock.advance(15 * 60 + 1)
    balance = desk.balance()

    assert counted(balance.fates) == {"stranded": 2}
    assert balance.attention["stranded"].ids == ("early", "late")
    assert not balance.balanced


def test_what_is_stranded_where_this_book_never_received_is_said_with_what_it_cannot_know(desk: Desk) -> None:
    desk.story("far", (Kind.PUBLISHED, 0, {"due": desk.now}), queue="elsewhere")
    desk.clock.advance(15 * 60 + 1)
    (_, warning) = desk.balance().warnings
    assert warning.startswith("queue elsewhere: this book never received from it, so the 1 that it calls stranded")

    desk.story("near", (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), queue="elsewhere")
    assert not [told for told in desk.balance().warnings if "never received" in told]


def test_a_delivery_whose_lease_is_over_is_stalled(desk: Desk) -> None:
    desk.publish("one")
    desk.receive()
    assert counted(desk.balance().fates) == {"processing": 1}

    desk.clock.advance(30 + 31)

    assert counted(desk.balance().fates) == {"stalled": 1}


def test_a_publish_without_an_answer_counts_against_the_books_when_it_lasts(desk: Desk) -> None:
    desk.story("asked", (Kind.PUBLISH_IN_DOUBT, 0, {"due": desk.now + SECOND}))
    desk.execute(
        "INSERT INTO crossfoot_outbox (message, queue, identity, body, due) VALUES (?, ?, 'x', x'', 0)", 1, QUEUE
    )
    assert desk.balance().balanced

    desk.clock.advance(15 * 60 + 2)
    balance = desk.balance()

    assert counted(balance.fates) == {"in doubt": 1}
    assert balance.attention["in doubt"].ids == ("asked",)
    assert not balance.balanced


def test_an_intention_that_nobody_carries_out_becomes_doubtful(desk: Desk) -> None:
    desk.story("meant", (Kind.INTENDED, 0, {"due": desk.now}))
    assert counted(desk.balance().fates) == {"intended": 1}

    desk.clock.advance(61)

    assert counted(desk.balance().fates) == {"in doubt": 1}


def test_a_message_that_no_entry_speaks_of_is_unaccounted_and_named(desk: Desk) -> None:
    desk.settle("settled")
    desk.register("forgotten")

    balance = desk.balance()

    assert balance.published == 2
    assert (balance.unaccounted, balance.unaccounted_ids) == (1, ("forgotten",))
    assert not balance.balanced


# ---- columns: identities, bisected to ids --------------------------------------------------------------------------


def test_one_loss_and_one_duplicate_balance_the_count_and_break_the_rule() -> None:
    settled, operations = tally_of("tests|a") + tally_of("tests|b"), tally_of("tests|a") + tally_of("tests|c")

    sums = {fate_measure(Fate.SETTLED): settled, OPERATION: operations}

    assert settled.count == operations.count
    assert not OPERATIONS.holds(sums)
    assert OPERATIONS.holds({**sums, OPERATION: settled})


def test_a_settled_message_without_its_operation_is_named_even_where_counts_agree(desk: Desk) -> None:
    desk.settle(*ids("message", 20))
    desk.story("stray", PUBLISHED, (Kind.RECEIVED, 1), (Kind.NOOP, 1), (Kind.ACKED, 1))
    desk.execute("DELETE FROM crossfoot_operations WHERE message = ?", desk.keys["message-7"])
    desk.complete("bill:stray", "stray")

    balance = desk.balance()

    assert balance.boundaries["operations"] == balance.fates["settled"], "the counts agree"
    assert broken(balance) == {"operations": ("message-7", "stray")}
    assert not balance.balanced


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM crossfoot_operations WHERE key = 'bill:settled-{}'",
        f"UPDATE crossfoot_operations SET kind = {Kind.NOOP.value} WHERE key = 'bill:settled-{{}}'",
    ],
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_operation_lost_after_it_was_counted_is_missed_at_once(desk: Desk, change: str, number: int) -> None:
    desk.settle(*ids("settled", 3))
    assert desk.balance().balanced
    desk.execute(change.format(number))
    desk.settle("later")

    balance = desk.balance()

    assert broken(balance) == {"operations": (f"settled-{number}",)}
    assert balance.boundaries["operations"] == 3


def test_an_operation_that_is_given_to_another_message_counts_for_that_one(desk: Desk) -> None:
    desk.settle(*ids("settled", 2))
    desk.publish("queued")
    desk.balance()
    desk.execute("UPDATE crossfoot_operations SET message = ? WHERE key = 'bill:settled-1'", desk.keys["queued"])

    assert broken(desk.balance()) == {"operations": ("settled-1", "queued")}


def test_only_the_buckets_that_differ_are_opened(desk: Desk) -> None:
    for minute in range(5):
        desk.settle(f"message-{minute}")
        desk.clock.advance(60)
    desk.execute("DELETE FROM crossfoot_operations WHERE message = ?", desk.keys["message-2"])
    desk.balance(post=True)
    opened: list[str] = []

    with desk.book.reading() as connection:
        assert isinstance(connection, sqlite3.Connection)
        connection.set_trace_callback(opened.append)
        balance = take_stock(connection, desk.now)
        connection.set_trace_callback(None)

    assert broken(balance) == {"operations": ("message-2",)}
    assert len({statement for statement in opened if "crossfoot_messages_bucket" in statement}) == 1


def test_an_ack_that_nothing_justifies_is_named(desk: Desk) -> None:
    desk.settle("right")
    desk.story("wrong", PUBLISHED, (Kind.RECEIVED, 1), (Kind.ACKED, 1))

    balance = desk.balance()

    assert broken(balance) == {"acks": ("wrong",)}
    assert balance.fates["vanished"] == 1
    assert balance.attention["vanished"].ids == ("wrong",)


@pytest.mark.parametrize("reason", [Kind.PARKED, Kind.EXPIRED, Kind.DISCARDED, Kind.DEAD_LETTERED, Kind.NOOP])
def test_an_ack_with_a_reason_is_no_finding(desk: Desk, reason: Kind) -> None:
    desk.story("right", PUBLISHED, (Kind.RECEIVED, 1), (reason, 1), (Kind.ACKED, 1))

    assert desk.balance().identities["acks"].holds


def test_a_fate_without_the_brokers_word_is_named(desk: Desk) -> None:
    desk.settle("seen")
    desk.story("unseen", (Kind.INTENDED, 0), (Kind.REPLAYED, 1))

    assert broken(desk.balance(depth_of=None)) == {"accepted": ("unseen",)}


def test_messages_of_publishers_without_a_book_and_our_own_balance_together(desk: Desk) -> None:
    desk.publish("ours")
    desk.story("theirs", (Kind.RECEIVED, 1), (Kind.NOOP, 1), (Kind.ACKED, 1))
    desk.story("gone-unseen", (Kind.EXPIRED, 0))
    desk.story("buried-unseen", (Kind.DEAD_LETTERED, 3))

    assert desk.balance(depth_of=None).identities["accepted"].holds


# ---- the queue's own holdings --------------------------------------------------------------------------------------


def test_a_message_deleted_from_the_queue_behind_our_back_is_named(desk: Desk) -> None:
    desk.publish("kept", "taken")
    desk.execute("DELETE FROM crossfoot_queue WHERE message = 'tests|taken'")
    assert desk.balance().identities["holdings"].holds, "it may be between two transactions"

    desk.clock.advance(11)
    balance = desk.balance()

    assert broken(balance) == {"holdings": ("taken",)}
    assert balance.queues[QUEUE].queue == {"accepted": 2, "acked": 0, "removed": 1, "dead": 0, "expired": 0}

    desk.write("taken", (Kind.VANISHED, 0))
    balance = desk.balance()

    assert not broken(balance), "it is booked now, and has its fate"
    assert balance.fates["vanished"] == 1
    assert not balance.balanced


OPEN = [kind for kind, fate in FATE_OF_LATEST.items() if fate in (Fate.QUEUED, Fate.PROCESSING, Fate.RETRYING)]


@pytest.mark.parametrize("kind", [*OPEN, Kind.COMMIT_IN_DOUBT], ids=lambda kind: kind.label)
def test_whatever_was_said_of_it_last_while_it_is_open_the_queue_must_have_it(desk: Desk, kind: Kind) -> None:
    desk.send("other")
    desk.story("gone", PUBLISHED, (kind, 1))
    assert "1 differences younger than 10 s are not judged yet" in desk.balance().identities["holdings"].notes[0]
    desk.clock.advance(11)

    identity = desk.balance().identities["holdings"]
    assert (identity.holds, identity.ids, identity.count) == (False, ("gone",), 1)


def test_what_lies_there_in_a_state_that_no_queue_has_is_missing(desk: Desk) -> None:
    desk.publish("odd")
    desk.execute("UPDATE crossfoot_queue SET state = 9")
    desk.clock.advance(11)

    assert broken(desk.balance()) == {"holdings": ("odd",)}


def test_a_dead_letter_that_was_deleted_is_named(desk: Desk) -> None:
    desk.bury("kept", "taken")
    desk.execute("DELETE FROM crossfoot_queue WHERE message = 'tests|taken'")
    desk.clock.advance(11)

    assert broken(desk.balance()) == {"holdings": ("taken",)}


def test_a_dead_letter_that_the_book_calls_open_is_named(desk: Desk) -> None:
    desk.publish("one")
    (delivery,) = desk.receive()
    desk.queue.dead_letter([delivery.receipt], "by somebody else")
    desk.clock.advance(11)

    assert broken(desk.balance()) == {"holdings": ("one",)}


def test_second_copies_and_strangers_in_the_queue_break_nothing(desk: Desk) -> None:
    desk.settle("settled")
    desk.send("settled", "stranger")
    desk.clock.advance(11)

    balance = desk.balance()

    assert balance.balanced
    assert "2 more in the queue" in balance.identities["holdings"].notes[0]


def test_what_waits_in_the_outbox_need_not_be_in_the_queue(desk: Desk) -> None:
    desk.story("resumed", PUBLISHED, (Kind.RECEIVED, 1), (Kind.PARKED, 1), (Kind.RESUMED, 1))
    desk.clock.advance(11)
    assert broken(desk.balance()) == {}, "no queue of that name is here yet"

    desk.send("other")
    assert broken(desk.balance()) == {"holdings": ("resumed",)}

    desk.execute(
        "INSERT INTO crossfoot_outbox (message, queue, identity, body, due) VALUES (?, ?, 'x', x'', 0)", 1, QUEUE
    )
    assert broken(desk.balance()) == {}


def test_an_unreadable_message_is_found_in_the_queue_by_the_queues_own_key(desk: Desk) -> None:
    desk.send("whatever the publisher called it")
    (delivery,) = desk.queue.claim(1, 30.0)
    desk.story(delivery.broker_id, (Kind.RECEIVED, 1), source=f"queue:{QUEUE}", type="unreadable")
    desk.clock.advance(11)

    assert desk.balance().identities["holdings"].holds


def test_the_ledger_may_lag_and_nobody_is_accused(desk: Desk) -> None:
    desk.publish("one")
    desk.balance()
    (delivery,) = desk.receive()
    desk.write("one", (Kind.NOOP, 1), (Kind.ACKED, 1))
    desk.queue.ack([delivery.receipt])
    desk.clock.advance(11)

    balance = desk.balance(post=False)

    assert counted(balance.fates) == {"queued": 1}
    assert balance.waiting == 3
    assert not broken(balance), "what differs is folded again from its own entries"
    assert "3 newer entries are not posted yet" in balance.warnings[0]


def test_a_backlog_posted_half_breaks_no_identity(desk: Desk) -> None:
    for minute in range(10):
        desk.settle(f"message-{minute}")
        desk.clock.advance(60)
    while post(desk.book, group=3):
        balance = desk.balance(post=False)

        assert not broken(balance)
        assert balance.unaccounted == 0

    assert counted(desk.balance().fates) == {"settled": 10}


def test_a_queue_that_only_tells_numbers_is_compared_with_a_tolerance(desk: Desk) -> None:
    for number in range(100):
        desk.story(f"open-{number}", PUBLISHED)

    close = desk.balance(depth_of=lambda queue: Depth(held=95, in_flight=0, dead=0, as_of=desk.now))
    far = desk.balance(depth_of=lambda queue: Depth(held=50, in_flight=0, dead=0, as_of=desk.now))

    assert close.identities["holdings"].holds
    assert "95 and 0 in the queue by its own count, within the tolerance of 10" in close.identities["holdings"].notes[0]
    assert far.identities["holdings"].holds is False

    for number in range(11):
        desk.story(f"dead-{number}", PUBLISHED, (Kind.RECEIVED, 1), (Kind.FAILED, 1), (Kind.DEAD_LETTERED, 1))
    for dead, holds in ((11, True), (1, True), (0, False)):
        some = desk.balance(depth_of=lambda queue, dead=dead: Depth(held=100, in_flight=50, dead=dead, as_of=desk.now))
        assert some.identities["holdings"].holds is holds, f"{dead} among the dead letters"


@pytest.fixture
def told(desk: Desk) -> Callable[..., Identity]:
    """What is said of the holdings of a queue that only tells these numbers, one pair at each look: held and dead."""

    def ask(*looks: tuple[int, int]) -> Identity:
        answers = iter(Depth(held=held, in_flight=0, dead=dead, as_of=desk.now) for held, dead in looks)
        return desk.balance(depth_of=lambda queue: next(answers)).identities["holdings"]

    return ask


EMPTY_QUEUE = (0, 0)


def test_a_queue_that_says_twice_that_it_is_empty_has_lost_what_has_been_quiet_there(
    desk: Desk, told: Callable[..., Identity]
) -> None:
    desk.story("one", (Kind.PUBLISHED, 0, {"due": desk.now}))
    desk.story("dead", PUBLISHED, (Kind.RECEIVED, 1), (Kind.DEAD_LETTERED, 1))
    desk.clock.advance(4 * 60)
    assert told(EMPTY_QUEUE, EMPTY_QUEUE).holds, "its numbers may be behind"
    desk.story("young", PUBLISHED)
    desk.clock.advance(2 * 60)

    lost = told(EMPTY_QUEUE, EMPTY_QUEUE)

    assert (lost.holds, lost.ids) == (False, ("dead", "one"))
    assert "says twice that it is empty, and of 2 nothing was heard for 5 min" in lost.notes[0]


@pytest.mark.parametrize(
    "looks",
    [
        [(1, 1)],  # it holds something: then its number is only about right
        [EMPTY_QUEUE, (1, 0)],  # it said so once
        [(0, 2), (0, 2)],  # the open one may have been moved to the dead letters
    ],
)
def test_numbers_that_may_be_right_accuse_nobody(
    desk: Desk, told: Callable[..., Identity], looks: list[tuple[int, int]]
) -> None:
    desk.story("one", (Kind.PUBLISHED, 0, {"due": desk.now}))
    desk.story("two", (Kind.PUBLISHED, 0, {"due": desk.now}))
    desk.clock.advance(10 * 60)

    assert told(*looks).holds


def test_what_was_due_a_moment_ago_may_be_counted_nowhere_yet(desk: Desk, told: Callable[..., Identity]) -> None:
    desk.story("one", PUBLISHED, (Kind.RECEIVED, 1), (Kind.FAILED, 1, {"due": desk.now + 9 * 60 * SECOND}))
    desk.clock.advance(10 * 60)

    assert told(EMPTY_QUEUE, EMPTY_QUEUE).holds


def test_a_queue_that_was_not_asked_is_a_note_and_neither_a_yes_nor_a_no(desk: Desk) -> None:
    desk.settle("one")

    balance = desk.balance(depth_of=None)

    assert balance.identities["holdings"].holds is None
    assert balance.balanced
    assert "'holdings' was not checked" in balance.warnings[0]


@pytest.mark.parametrize(
    ("expected", "held", "in_flight", "agrees"),
    [(0, 10, 0, True), (0, 11, 0, False), (5_000, 5_050, 0, True), (5_000, 5_051, 0, False), (100, 0, 100, True)],
)
def test_the_tolerance_is_what_may_be_in_flight(expected: int, held: int, in_flight: int, agrees: bool) -> None:
    assert depth_agrees(expected, held, in_flight)[0] is agrees


def test_gaps_are_differences_of_sets() -> None:
    found = gaps(opened={"a", "b", "c", "d"}, dead={"x", "y", "z"}, held={"a", "z"}, aside={"b"}, buried={"c", "x"})

    assert (found.missing, found.buried, found.exhumed) == ({"d"}, {"c"}, {"y"})


# ---- the ledger ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["fate settled", "operation", "entry committed"])
def test_a_changed_tally_is_no_message_s_fault(desk: Desk, measure: str) -> None:
    desk.settle(*ids("message", 3))
    desk.balance()
    desk.execute("UPDATE crossfoot_tallies SET count = count + 1, d0 = d0 + 5 WHERE measure = ?", measure)

    balance = desk.balance()

    assert not balance.balanced
    assert all(found == () for found in broken(balance).values())
    assert all("crossfoot verify" in balance.identities[name].notes[0] for name in broken(balance))


def test_a_fate_changed_in_a_row_shows_in_the_ledger(desk: Desk) -> None:
    desk.settle("one", "two")
    desk.balance()
    desk.execute("UPDATE crossfoot_messages SET fate = ? WHERE id = 'one'", Fate.DEAD.value)

    balance = desk.balance()

    assert balance.identities["ledger"].holds is False
    assert "1 dead" not in str(counted(balance.fates)), "the tallies are believed"


def test_entries_removed_from_the_end_show_in_the_ledger(desk: Desk) -> None:
    desk.settle("one")
    desk.balance()
    desk.execute("DELETE FROM crossfoot_entries WHERE id = (SELECT max(id) FROM crossfoot_entries)")

    assert "entries were removed" in desk.balance().identities["ledger"].notes[0]


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_a_part_is_one_queue_one_type_or_a_time(desk: Desk) -> None:
    desk.settle("old")
    desk.clock.advance(600)
    since = desk.now
    desk.settle("new")
    desk.story("elsewhere", PUBLISHED, (Kind.RECEIVED, 1), queue="letters", type="letter.sent")

    assert desk.balance(Part(queue=QUEUE)).published == 2
    assert desk.balance(Part(type="letter.sent")).published == 1
    assert desk.balance(Part(since=since)).published == 2
    assert desk.balance(Part(until=since)).published == 1
    assert desk.balance(Part(queue=QUEUE, since=since)).fates["settled"] == 1
    assert set(desk.balance(Part(queue="letters")).queues) == {"letters"}


# ---- any history -------------------------------------------------------------------------------------------------------

steps = st.tuples(st.sampled_from(sorted(Kind)), st.integers(0, 3))
histories = st.lists(st.lists(steps, min_size=1, max_size=8), max_size=12)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with closing(Desk(tmp_path_factory.mktemp("archive") / "book.db")) as desk:
        yield desk


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories=histories, hours=st.integers(0, 3))
def test_every_message_is_counted_in_its_one_fate(
    archive: Desk, histories: list[list[tuple[Kind, int]]], hours: int
) -> None:
    """Of any history, also one that no sane system writes; every example is a queue of its own in one book."""
    queue = f"queue-{len(archive.keys)}"
    expected: Counter[str] = Counter()
    for history in histories:
        id_ = f"message-{len(archive.keys)}"
        due = archive.now + SECOND
        archive.story(id_, *((kind, attempt, {"due": due}) for kind, attempt in history), queue=queue)
        if any(kind is Kind.COMMITTED for kind, _ in history):
            archive.complete(f"operation:{id_}", id_)
        with archive.book.reading() as connection:
            rows = connection.execute(
                "SELECT kind, attempt, due FROM crossfoot_entries WHERE message = ?", (archive.keys[id_],)
            ).fetchall()
        entries = [_entry(*row) for row in rows]
        fate = fate_of(fold(entries), archive.now + hours * 3600 * SECOND)
        assert fate is not None
        expected[fate.label] += 1

    archive.balance()
    with archive.book.reading() as connection:
        balance = take_stock(connection, archive.now + hours * 3600 * SECOND, part=Part(queue=queue), depth_of=None)

    assert counted(balance.fates) == dict(expected)
    assert balance.published == len(histories)
    assert balance.unaccounted == 0
    assert balance.identities["operations"].holds
    assert balance.identities["ledger"].holds


def _entry(kind: int, attempt: int, due: int | None) -> Entry:
    return Entry(message=1, kind=Kind(kind), attempt=attempt, due=due, at=0)


def test_rules_hold_for_nothing_at_all() -> None:
    assert all(rule.holds({}) for rule in RULES)
    assert not ACCEPTED.holds({entry_measure(Kind.PUBLISHED): Tally(1, 2, 3)})
    assert LEDGER.holds({fate_measure(Fate.SETTLED): EMPTY})


# ---- cost --------------------------------------------------------------------------------------------------------------


def test_no_statement_reads_all_messages_or_entries(tmp_path: Path) -> None:
    make(tmp_path / "large.db", 4_000, others=0.01, hours=1.0)
    statements: list[str] = []
    with closing(connect(tmp_path / "large.db", read_only=True)) as connection:
        connection.set_trace_callback(statements.append)
        take_stock(connection, 2_000_000_000 * SECOND)
        connection.set_trace_callback(None)
        for statement in statements:
            if statement.lstrip().startswith(("BEGIN", "ROLLBACK")):
                continue
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            scans = [
                step for step in plan if re.search(r"SCAN (m|e|o|crossfoot_(messages|entries|operations))\b", step)
            ]

            assert all("crossfoot_messages_unsettled" in step for step in scans), (statement, plan)


def test_causes_are_booked_with_their_failures(desk: Desk) -> None:
    desk.bury("one")

    with desk.book.reading() as connection:
        assert connection.execute("SELECT title FROM crossfoot_causes").fetchall() == [(CAUSE.title,)]


def test_a_parked_message_that_nobody_keeps_is_named_and_so_is_one_kept_for_nothing(desk: Desk) -> None:
    published = (Kind.PUBLISHED, 0)
    keep = """INSERT INTO crossfoot_parked (handler, subject, sequence, message, predecessor, attempt, until, body)
        VALUES ('billing/bill', 'case-1', ?, ?, 1, 1, ?, x'')"""
    fine = desk.story("fine", published, (Kind.RECEIVED, 1), (Kind.PARKED, 1, {"due": desk.now + 600 * SECOND}))
    desk.execute(keep, 2, fine, desk.now + 600 * SECOND)
    assert desk.balance().identities["parked"].holds

    desk.story("forgotten", published, (Kind.RECEIVED, 1), (Kind.PARKED, 1, {"due": desk.now + 600 * SECOND}))
    other = desk.story("settled", published, (Kind.RECEIVED, 1), (Kind.COMMITTED, 1), (Kind.ACKED, 1))
    desk.execute(keep, 3, other, desk.now + 600 * SECOND)

    identity = desk.balance().identities["parked"]
    assert not identity.holds
    assert identity.ids == ("forgotten", "settled")
    assert "nothing will send them on" in " ".join(identity.notes)


def test_nor_is_one_that_was_sent_on_already_or_belongs_to_another_queue(desk: Desk) -> None:
    keep = """INSERT INTO crossfoot_parked (handler, subject, sequence, message, predecessor, attempt, until, body)
        VALUES ('billing/bill', 'case-1', ?, ?, 1, 1, ?, x'')"""
    parked = (PUBLISHED, (Kind.RECEIVED, 1), (Kind.PARKED, 1, {"due": desk.now + 600 * SECOND}))
    resumed = desk.story("resumed", *parked, (Kind.RESUMED, 1))
    desk.execute(keep, 2, resumed, 0)
    elsewhere = desk.story("elsewhere", *parked, queue="letters")
    desk.execute(keep, 3, elsewhere, desk.now + 600 * SECOND)
    desk.execute("DELETE FROM crossfoot_outbox")

    identity = desk.balance().identities["parked"]
    assert (identity.holds, identity.ids) == (True, ())

    late = desk.story("late", *parked)
    desk.execute(keep, 4, late, desk.now + 600 * SECOND)
    assert desk.balance().identities["parked"].holds
    desk.write("late", (Kind.RESUMED, 1))
    desk.write("elsewhere", (Kind.RESUMED, 1))
    desk.execute("DELETE FROM crossfoot_parked WHERE message = ?", late)
    assert desk.balance(post=False).identities["parked"].holds, "the ledger may lag"
