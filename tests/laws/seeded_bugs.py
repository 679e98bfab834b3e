"""Bugs that one could really write, each with the law that must catch it. What a law lets through it does not prove."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from crossfoot.books import digest, fate, posting
from crossfoot.books import sql as statements
from crossfoot.books.digest import Tally
from crossfoot.books.entry import PROOFS, Entry, Kind
from crossfoot.books.fate import FATE_OF_LATEST, Fate, Summary
from crossfoot.effects import outbox, perform, proof, sequence, together
from crossfoot.effects import work as work_module
from crossfoot.effects.databases import changes
from crossfoot.effects.databases.changes import ChangeCounter
from crossfoot.effects.databases.sqlite import SqliteSession
from crossfoot.effects.proof import Evidence, Noop
from crossfoot.effects.sequence import InOrder, Turn
from crossfoot.effects.work import Work
from crossfoot.errors import NoProof
from crossfoot.worker.retry import Retry
from crossfoot.worker.settling import Settling
from crossfoot.worker.worker import Worker
from tests.laws import test_law_1_one_fate as one_fate
from tests.laws import test_law_1_real_books as real_books
from tests.laws import test_law_2_write_ahead as write_ahead
from tests.laws import test_law_3_once as once
from tests.laws import test_law_4_no_proof_no_ack as no_proof
from tests.laws import test_law_4_rows_changed as rows_changed
from tests.laws import test_law_5_in_doubt as in_doubt
from tests.laws import test_law_6_the_books_balance as balance
from tests.laws import test_law_7_bounded as bounded
from tests.laws import test_law_9_no_wall_clocks as clocks
from tests.laws import test_law_posting_is_the_fold as posted
from tests.laws.planting import caught_by, means, replaced, sql

# ---- law 1: the fold ---------------------------------------------------------------------------------------------


def _fold_of_the_last(entries: Iterable[Entry]) -> Summary:
    entries = list(entries)
    marks = sum({1 << entry.kind for entry in entries})
    return Summary(marks, entries[-1].rank, entries[-1].due or 0) if entries else Summary()


def _fold_of_the_last_by_time(entries: Iterable[Entry]) -> Summary:
    return _fold_of_the_last(sorted(entries, key=lambda entry: (entry.at, entry.rank, entry.due or 0)))


def _join_that_adds(one: Summary, other: Summary) -> Summary:
    latest, due = max((one.latest, one.due), (other.latest, other.due))
    return Summary(one.marks + other.marks, latest, due)


def _join_that_toggles(one: Summary, other: Summary) -> Summary:
    latest, due = max((one.latest, one.due), (other.latest, other.due))
    return Summary(one.marks ^ other.marks, latest, due)


def _join_that_keeps_its_own_due(one: Summary, other: Summary) -> Summary:
    latest, due = (other.latest, other.due) if other.latest > one.latest else (one.latest, one.due)
    return Summary(one.marks | other.marks, latest, due)


def _join_that_forgets_the_other_proofs(one: Summary, other: Summary) -> Summary:
    higher = max(one, other, key=lambda summary: (summary.latest, summary.due, summary.marks))
    return Summary(higher.marks, higher.latest, higher.due)


def _fate_that_a_redelivery_opens_again(summary: Summary) -> Fate | None:
    kind = summary.kind
    if kind in FATE_OF_LATEST:
        return FATE_OF_LATEST[kind]
    return fate.FATE_OF_PROOF[kind] if kind is not None else None


def _rank_of_the_kind_alone(entry: Entry) -> Summary:
    return Summary(1 << entry.kind, int(entry.kind), entry.due or 0)


LAW_1 = (
    *caught_by(
        one_fate.test_the_fate_does_not_depend_on_order_or_repetition,
        one_fate.REARRANGED,
        ("the last entry written is the state", replaced(fate, "fold", _fold_of_the_last)),
        ("marks are added up", replaced(fate, "join", _join_that_adds)),
    ),
    *caught_by(
        one_fate.test_the_fate_does_not_depend_on_which_books_the_entries_are_in,
        one_fate.SCATTERED,
        ("marks are added up, over several books", replaced(fate, "join", _join_that_adds)),
    ),
    *caught_by(
        one_fate.test_join_is_commutative_associative_and_idempotent,
        one_fate.THREE,
        ("a fact seen twice is forgotten", replaced(fate, "join", _join_that_toggles)),
        ("of two leases of one attempt the first one counts", replaced(fate, "join", _join_that_keeps_its_own_due)),
    ),
    *caught_by(
        one_fate.test_join_only_ever_learns,
        one_fate.THREE,
        ("the marks are those of the later book", replaced(fate, "join", _join_that_forgets_the_other_proofs)),
    ),
    *caught_by(
        one_fate.test_a_proof_is_final,
        one_fate.PROVEN,
        (
            "a redelivery opens a settled message again",
            replaced(fate, "posted_fate", _fate_that_a_redelivery_opens_again),
        ),
        ("the weakest proof tells", replaced(fate, "PROOFS", tuple(reversed(PROOFS)))),
    ),
    *caught_by(
        one_fate.test_a_later_attempt_outranks_all_that_is_no_proof,
        one_fate.OUTRANKED,
        ("the kind outranks the attempt", replaced(fate, "summary_of", _rank_of_the_kind_alone)),
    ),
    *caught_by(
        real_books.test_books_that_each_hold_a_part_say_the_same_once_they_are_merged,
        real_books.SCATTERED,
        ("a group replaces what was posted before", sql("_JOIN", ("m.marks | g.marks AS marks", "g.marks AS marks"))),
        ("the later group is the later fact", sql("_JOIN", ("max(m.latest, g.latest)", "g.latest"))),
    ),
    *caught_by(
        real_books.test_a_book_written_in_another_order_and_with_repetitions_says_the_same,
        real_books.REARRANGED,
        ("of two equal facts SQLite picks the due", sql("_GATHER", ("max(coalesce(due, 0))", "coalesce(due, 0)"))),
    ),
)


# ---- law 4: proof ------------------------------------------------------------------------------------------------


def _judge_that_ignores_what_proves(result: Any, evidence: Evidence, proves: tuple[str, ...], *, what: str) -> Kind:
    return _judge(result, evidence, (), what=what)


def _judge_that_believes_the_handler(result: Any, evidence: Evidence, proves: tuple[str, ...], *, what: str) -> Kind:
    return Kind.COMMITTED if result and not isinstance(result, Noop) else _judge(result, evidence, proves, what=what)


def _judge_that_takes_any_named_outcome(result: Any, evidence: Evidence, proves: tuple[str, ...], *, what: str) -> Kind:
    if proves and not isinstance(result, Noop) and not set(proves) & set(evidence.outcomes):
        raise NoProof(what)
    return _judge(result, evidence, tuple(set(proves) & set(evidence.outcomes)), what=what)


def _judge_that_takes_fewer_rows(result: Any, evidence: Evidence, proves: tuple[str, ...], *, what: str) -> Kind:
    if evidence.rows and not proves and not isinstance(result, Noop):
        return Kind.COMMITTED
    return _judge(result, evidence, proves, what=what)


def _last_word(text: str) -> tuple[bytes, bool]:
    words = text.split() or [""]
    return words[-1].strip(";\"'`[]").lower().encode(), any(word.upper() == "TO" for word in words)


_judge = proof.judge

LAW_4 = (
    *caught_by(
        no_proof.test_when_a_handler_says_what_proves_it_nothing_less_counts,
        no_proof.RETURNS,
        (
            "rows prove it although the handler named an outcome",
            replaced(proof, "judge", _judge_that_ignores_what_proves),
        ),
    ),
    *caught_by(
        no_proof.test_a_return_is_believed_only_with_evidence,
        no_proof.RETURNS,
        ("a handler that returns something has worked", replaced(proof, "judge", _judge_that_believes_the_handler)),
        ("one of two named outcomes is enough", replaced(proof, "judge", _judge_that_takes_any_named_outcome)),
        ("rows taken back are rows, too", replaced(proof, "judge", _judge_that_takes_fewer_rows)),
    ),
    *caught_by(
        no_proof.test_an_ack_that_nothing_justified_is_a_vanished_message,
        no_proof.ACKED,
        ("what is acked is settled", means(FATE_OF_LATEST, Kind.ACKED, Fate.SETTLED)),
    ),
    *caught_by(
        rows_changed.test_rows_changed_are_net_of_what_savepoints_undid,
        rows_changed.PROGRAMS,
        ("total_changes as it is", replaced(ChangeCounter, "_undo", lambda *_: None)),
        ("the last word is the savepoint's name", replaced(changes, "_target", _last_word)),
        (
            "names of savepoints are told apart by case",
            replaced(changes, "_plain", lambda token: token[0].strip("\"'`[]").encode()),
        ),
        (
            "a released savepoint is kept in mind",
            replaced(
                ChangeCounter,
                "_forget",
                lambda self, name, *, keep: next((mark for mark in reversed(self._stack) if mark.name == name), None),
            ),
        ),
    ),
)


# ---- law 5: in doubt ---------------------------------------------------------------------------------------------


def _fold_in_which_a_refusal_ends_the_doubt(entries: Iterable[Entry]) -> Summary:
    entries = list(entries)
    refused = {entry.attempt for entry in entries if entry.kind is Kind.REFUSED}
    left = (entry for entry in entries if not (entry.kind is Kind.PUBLISH_IN_DOUBT and entry.attempt in refused))
    return _fold(left)


def _fate_that_gives_up(summary: Summary, now: int, patience: fate.Patience = fate.PATIENCE) -> Fate | None:
    known = _fate_of(summary, now, patience)
    return Fate.VANISHED if known is Fate.IN_DOUBT and now > summary.due + patience.stranded else known


_fold, _fate_of = fate.fold, fate.fate_of

LAW_5 = (
    *caught_by(
        in_doubt.test_a_doubt_that_is_the_last_fact_is_the_fate_at_any_time,
        in_doubt.DOUBTFUL,
        ("in doubt is rounded to refused", means(FATE_OF_LATEST, Kind.PUBLISH_IN_DOUBT, Fate.REFUSED)),
        ("in doubt is rounded to settled", means(FATE_OF_LATEST, Kind.COMMIT_IN_DOUBT, Fate.SETTLED)),
    ),
    *caught_by(
        in_doubt.test_one_more_entry_resolves_a_doubt_only_if_it_is_evidence,
        in_doubt.ONE_MORE,
        (
            "a refused second copy ends the doubt about the first",
            replaced(fate, "fold", _fold_in_which_a_refusal_ends_the_doubt),
        ),
    ),
    *caught_by(
        in_doubt.test_a_doubt_succeeds_only_by_proof_and_fails_only_by_an_end,
        in_doubt.ONE_MORE,
        ("whoever receives it after a doubt has settled it", means(FATE_OF_LATEST, Kind.RECEIVED, Fate.SETTLED)),
    ),
    *caught_by(
        in_doubt.test_time_alone_never_closes_a_fate_and_never_opens_one,
        in_doubt.AGEING,
        ("a doubt that lasts is given up", replaced(fate, "fate_of", _fate_that_gives_up)),
        ("a stranded message is expired", means(fate.OVERDUE, Fate.QUEUED, Fate.EXPIRED)),
    ),
    *caught_by(
        in_doubt.test_an_intention_that_is_overdue_counts_as_in_doubt,
        in_doubt.INTENTIONS,
        ("an intention nobody carried out was refused", means(fate.OVERDUE, Fate.INTENDED, Fate.REFUSED)),
    ),
)


# ---- law 6: identity ---------------------------------------------------------------------------------------------

_lanes = digest.lanes

LAW_6 = (
    *caught_by(
        balance.test_one_loss_and_one_duplicate_balance_the_count_and_are_noticed_all_the_same,
        balance.LOST_AND_DOUBLED,
        ("only the count is compared", replaced(digest, "lanes", lambda identity: (0, 0))),
        (
            "the digest leaves the source out",
            replaced(digest, "lanes", lambda identity: _lanes(identity.split("|")[-1])),
        ),
        ("eight bits of hash will do", replaced(digest, "lanes", lambda identity: (_lanes(identity)[0] % 256, 0))),
    ),
    *caught_by(
        balance.test_two_books_agree_only_if_they_hold_the_same_messages_as_often,
        balance.TWO_BOOKS,
        (
            "hashes are combined by exclusive or",
            replaced(Tally, "__add__", lambda one, two: Tally(one.count + two.count, one.d0 ^ two.d0, one.d1 ^ two.d1)),
        ),
    ),
    *caught_by(
        balance.test_a_tally_does_not_depend_on_the_order,
        balance.BUCKETED,
        (
            "hashes are chained in the order of arrival",
            replaced(
                Tally,
                "__add__",
                lambda one, two: Tally(one.count + two.count, one.d0 * 31 + two.d0, one.d1 * 31 + two.d1),
            ),
        ),
    ),
    *caught_by(
        balance.test_what_was_added_can_be_taken_off_again,
        balance.BUCKETED,
        (
            "taking off forgets a lane",
            replaced(Tally, "__sub__", lambda one, two: Tally(one.count - two.count, one.d0 - two.d0, one.d1)),
        ),
    ),
)


# ---- law 9: clocks and sequences ---------------------------------------------------------------------------------


def _last_write_wins(last: int | None, sequence: int, predecessor: int | None, order: InOrder) -> Turn:
    return Turn.APPLY


def _never_waits(last: int | None, sequence: int, predecessor: int | None, order: InOrder) -> Turn:
    return Turn.SUPERSEDE if last is not None and sequence <= last else Turn.APPLY


def _applies_the_same_again(last: int | None, sequence: int, predecessor: int | None, order: InOrder) -> Turn:
    return Turn.APPLY if last == sequence else _turn_of(last, sequence, predecessor, order)


_turn_of = sequence.turn_of

LAW_9 = (
    *caught_by(
        clocks.test_wrong_clocks_change_no_fate,
        clocks.DATED_ANEW,
        ("the entry of the latest time is the state", replaced(fate, "fold", _fold_of_the_last_by_time)),
    ),
    *caught_by(
        clocks.test_wrong_clocks_change_nothing_that_is_posted,
        clocks.DATED_ANEW,
        (
            "posting takes the entry of the latest time",
            sql(
                "_GATHER",
                ("max(rank), due", "max(at) * 0 + rank, due"),
                ("1 << kind AS mark,", "1 << kind AS mark, at,"),
            ),
        ),
    ),
    *caught_by(
        clocks.test_events_take_effect_in_order_and_once_whatever_order_they_arrive_in,
        clocks.ARRIVALS,
        ("last write is latest event", replaced(sequence, "turn_of", _last_write_wins)),
        ("the early event does not wait", replaced(sequence, "turn_of", _never_waits)),
        ("the same event is applied again", replaced(sequence, "turn_of", _applies_the_same_again)),
    ),
)


# ---- law 2: write ahead ----------------------------------------------------------------------------------------------


def _no_entries(*_: Any) -> Iterator[Any]:
    return iter(())


LAW_2 = (
    *caught_by(
        write_ahead.test_every_ack_dead_letter_hand_back_and_publish_finds_its_reason_in_the_book,
        write_ahead.SCENES,
        ("the effect commits without its entry", replaced(perform, "write", _no_entries)),
        ("a failure is carried out and not booked", replaced(Settling, "_book_failures", lambda *_: [])),
        ("a message is sent before anybody intended it", replaced(outbox, "write_entries", lambda *_: None)),
    ),
)


# ---- law 3: once -----------------------------------------------------------------------------------------------------


def _claims_for_everybody(works: Sequence[Work], *, by_columns: bool) -> Iterator[Any]:
    for work in works:
        work.claimed = True
    return iter(())


def _keeps_what_failed(self: SqliteSession) -> None:
    self._unwatch()


def _commits_what_died(self: SqliteSession) -> None:
    self._unwatch()
    if self.handle.in_transaction:
        self.handle.finish()


LAW_3 = (
    *caught_by(
        once.test_every_operation_has_its_effect_once_whatever_comes_and_however_it_is_grouped,
        once.GROUPS,
        (
            "an operation that is complete is claimed again",
            replaced(
                statements,
                "INSERT_OPERATION",
                statements.INSERT_OPERATION.replace("NOTHING", "UPDATE SET at = excluded.at"),
            ),
        ),
        ("a batch claims operations without asking", replaced(together, "claim", _claims_for_everybody)),
        ("a work of a batch that failed keeps its claim", replaced(together, "disclaim", lambda work: iter(()))),
        ("a work of a batch that failed is not undone", replaced(SqliteSession, "undo", _keeps_what_failed)),
        ("what died before its commit is committed", replaced(SqliteSession, "rollback", _commits_what_died)),
        ("the entries are left out", replaced(perform, "write", _no_entries)),
        ("what is sent is left out", replaced(work_module, "send", lambda *_, **__: iter(()))),
    ),
)


# ---- law 7: bounded --------------------------------------------------------------------------------------------------

LAW_7 = (
    *caught_by(
        bounded.test_a_worker_takes_no_more_than_it_was_told_and_runs_no_more_at_once,
        bounded.BOUNDS,
        ("a worker takes whatever there is", replaced(Worker, "_capacity", 1_000)),
        (
            "a message is tried once more than allowed",
            replaced(Retry, "gives_up", lambda self, n, _: n > self.attempts),
        ),
    ),
    *caught_by(
        bounded.test_pauses_keep_to_their_cap_and_attempts_come_to_an_end,
        bounded.RETRIES,
        (
            "pauses grow without bound",
            replaced(Retry, "pause", lambda self, n, chance: self.base * 2.0 ** min(n - 1, 99) * chance),
        ),
        ("it never gives up", replaced(Retry, "gives_up", lambda *_: False)),
    ),
)


# ---- posting -----------------------------------------------------------------------------------------------------


def _stale_cursor(patch: pytest.MonkeyPatch) -> None:
    """Each poster reads where it is before it waits for its turn, and believes it still."""
    right = posting._cursor
    seen: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])

    def cursor(connection: Any, name: str) -> int:
        seen[name].append(right(connection, name))
        if not seen[name][-1]:
            seen[name] = [0, 0, 0]  # a new book: what was read in another one is not remembered
        return min(seen[name][-3], seen[name][-1])

    patch.setattr(posting, "_cursor", cursor)


POSTING = (
    *caught_by(
        posted.test_posting_equals_the_fold_whatever_the_groups_and_whoever_posts,
        posted.TURNS,
        ("a message received again is counted again", sql("_TALLY_KINDS", ("marks & ~had & ", "marks & "))),
        ("the old fate is not taken off", sql("_TALLY_FATES", ("was, -n, -d0, -d1", "was, 0, -d0, -d1"))),
        ("the digest of the old fate is not taken off", sql("_TALLY_FATES", ("-n, -d0, -d1", "-n, 0, -d1"))),
        ("the cursor skips an entry", sql("_MOVE_CURSOR", ("VALUES (?, ?)", "VALUES (?, CAST(? + 1 AS TEXT))"))),
        ("two posters take the same group", _stale_cursor),
        ("repeated kinds are told apart by counting them", sql("_GATHER", ("sum(DISTINCT mark)", "sum(mark)"))),
        (
            "duplicate goes before settled",
            sql(
                "_JOIN",
                (
                    f"WHEN (marks & {1 << Kind.COMMITTED}) <> 0 THEN",
                    f"WHEN (marks & {1 << Kind.SUPPRESSED}) <> 0 THEN {Fate.DUPLICATE.value} "
                    f"WHEN (marks & {1 << Kind.COMMITTED}) <> 0 THEN",
                ),
            ),
        ),
        ("the lease is the one seen first", sql("_JOIN", ("OR g.latest = m.latest AND g.due > m.due", ""))),
        (
            "two operations of one message count once a group",
            sql(
                "_TALLY_OPERATIONS",
                ("count(*), sum(m.d0), sum(m.d1)", "count(DISTINCT m.key), sum(DISTINCT m.d0), sum(DISTINCT m.d1)"),
            ),
        ),
        (
            "a noop is an operation of the business",
            sql("_TALLY_OPERATIONS", (f"o.kind = {Kind.COMMITTED.value}", f"o.kind >= {Kind.NOOP.value}")),
        ),
        ("posting again tallies again", sql("_TALLY_FATES", ("WHERE fate <> was AND fate <> 0", "WHERE fate <> 0"))),
    ),
)

SEEDED_BUGS = (*LAW_1, *LAW_2, *LAW_3, *LAW_4, *LAW_5, *LAW_6, *LAW_7, *LAW_9, *POSTING)
