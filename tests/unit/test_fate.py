"""What becomes of a message, fact by fact. The laws themselves are in tests/laws."""

from __future__ import annotations

import pytest

from crossfoot.books.entry import ACK_REASONS, PROOFS, RANKS, Entry, Kind
from crossfoot.books.fate import OVERDUE, PATIENCE, Fate, Patience, Summary, fate_of, fold, posted_fate
from crossfoot.clock import SECOND

NOON = 1_700_000_000 * SECOND


def entry(kind: Kind, attempt: int = 0, due: int | None = None) -> Entry:
    return Entry(message=1, kind=kind, at=NOON, attempt=attempt, due=due)


def posted(*entries: Entry) -> Fate | None:
    return posted_fate(fold(entries))


SENT = (entry(Kind.INTENDED), entry(Kind.PUBLISHED))
TAKEN = (*SENT, entry(Kind.RECEIVED, 1))
DEAD = (*TAKEN, entry(Kind.FAILED, 1), entry(Kind.DEAD_LETTERED, 1))


@pytest.mark.parametrize(
    ("entries", "fate"),
    [
        ([entry(Kind.INTENDED)], Fate.INTENDED),
        ([entry(Kind.INTENDED), entry(Kind.PUT_OFF)], Fate.INTENDED),
        ([entry(Kind.INTENDED), entry(Kind.REFUSED)], Fate.REFUSED),
        ([entry(Kind.INTENDED), entry(Kind.PUBLISH_IN_DOUBT)], Fate.IN_DOUBT),
        ([entry(Kind.INTENDED), entry(Kind.PUBLISH_IN_DOUBT), entry(Kind.REFUSED)], Fate.IN_DOUBT),
        ([entry(Kind.INTENDED), entry(Kind.PUBLISH_IN_DOUBT), entry(Kind.PUBLISHED)], Fate.QUEUED),
        (SENT, Fate.QUEUED),
        (TAKEN, Fate.PROCESSING),
        ([*TAKEN, entry(Kind.EXTENDED, 1)], Fate.PROCESSING),
        ([*TAKEN, entry(Kind.RELEASED, 1)], Fate.QUEUED),
        ([*TAKEN, entry(Kind.FAILED, 1)], Fate.RETRYING),
        ([*TAKEN, entry(Kind.COMMIT_IN_DOUBT, 1)], Fate.IN_DOUBT),
        ([*TAKEN, entry(Kind.COMMIT_IN_DOUBT, 1), entry(Kind.COMMITTED, 1)], Fate.SETTLED),
        ([*TAKEN, entry(Kind.COMMITTED, 1)], Fate.SETTLED),
        ([*TAKEN, entry(Kind.COMMITTED, 1), entry(Kind.ACK_FAILED, 1)], Fate.SETTLED),
        ([*TAKEN, entry(Kind.COMMITTED, 1), entry(Kind.ACKED, 1)], Fate.SETTLED),
        ([*TAKEN, entry(Kind.NOOP, 1), entry(Kind.ACKED, 1)], Fate.NOOP),
        ([*TAKEN, entry(Kind.SUPERSEDED, 1), entry(Kind.ACKED, 1)], Fate.SUPERSEDED),
        ([*TAKEN, entry(Kind.SUPPRESSED, 1), entry(Kind.ACKED, 1)], Fate.DUPLICATE),
        ([*TAKEN, entry(Kind.COMMITTED, 1), entry(Kind.RECEIVED, 2), entry(Kind.SUPPRESSED, 2)], Fate.SETTLED),
        ([*TAKEN, entry(Kind.PARKED, 1), entry(Kind.ACKED, 1)], Fate.PARKED),
        ([*TAKEN, entry(Kind.PARKED, 1), entry(Kind.RESUMED, 1)], Fate.QUEUED),
        ([*TAKEN, entry(Kind.EXPIRED, 1), entry(Kind.ACKED, 1)], Fate.EXPIRED),
        ([*TAKEN, entry(Kind.VANISHED, 1)], Fate.VANISHED),
        ([*TAKEN, entry(Kind.ACKED, 1)], Fate.VANISHED),
        (DEAD, Fate.DEAD),
        ([*DEAD, entry(Kind.REPLAYED, 1)], Fate.QUEUED),
        ([*DEAD, entry(Kind.REPLAYED, 1), entry(Kind.RECEIVED, 2)], Fate.PROCESSING),
        ([*DEAD, entry(Kind.RECEIVED, 2), entry(Kind.COMMITTED, 2)], Fate.SETTLED),
        ([*DEAD, entry(Kind.DISCARDED, 2)], Fate.DISCARDED),
    ],
    ids=lambda value: value.label if isinstance(value, Fate) else " → ".join(e.kind.label for e in value),
)
def test_each_way_a_message_can_go_ends_in_its_fate(entries: list[Entry], fate: Fate) -> None:
    assert posted(*entries) is fate
    assert posted(*reversed(entries)) is fate


def test_a_worker_that_reports_late_does_not_turn_back_the_message() -> None:
    late = (entry(Kind.FAILED, 1), entry(Kind.PUBLISHED))

    assert posted(*SENT, entry(Kind.RECEIVED, 2), *late) is Fate.PROCESSING


def test_a_lease_that_was_extended_ends_with_its_last_extension() -> None:
    extended = [entry(Kind.EXTENDED, 1, NOON + seconds * SECOND) for seconds in (30, 90, 60)]

    assert fold([*TAKEN, *extended]).due == NOON + 90 * SECOND


@pytest.mark.parametrize(
    ("kind", "patience", "called"),
    [
        (Kind.INTENDED, PATIENCE.intended, Fate.IN_DOUBT),
        (Kind.PUT_OFF, PATIENCE.intended, Fate.IN_DOUBT),
        (Kind.PUBLISHED, PATIENCE.stranded, Fate.STRANDED),
        (Kind.RESUMED, PATIENCE.stranded, Fate.STRANDED),
        (Kind.FAILED, PATIENCE.stranded, Fate.STRANDED),
        (Kind.RECEIVED, PATIENCE.stalled, Fate.STALLED),
        (Kind.EXTENDED, PATIENCE.stalled, Fate.STALLED),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_an_open_fate_is_overdue_once_its_patience_is_over(kind: Kind, patience: int, called: Fate) -> None:
    summary = fold([entry(kind, 1, NOON)])

    assert fate_of(summary, NOON + patience) is posted_fate(summary)
    assert fate_of(summary, NOON + patience + 1) is called


def test_patience_is_a_setting() -> None:
    summary = fold([entry(Kind.RECEIVED, 1, NOON)])

    assert fate_of(summary, NOON + 2 * SECOND, Patience(stalled=SECOND)) is Fate.STALLED
    assert fate_of(summary, NOON + 2 * SECOND, Patience(stalled=3 * SECOND)) is Fate.PROCESSING


def test_what_names_no_due_time_is_never_overdue() -> None:
    assert fate_of(fold([entry(Kind.RECEIVED, 1)]), 2**60) is Fate.PROCESSING


@pytest.mark.parametrize("kind", [Kind.PUBLISH_IN_DOUBT, Kind.DEAD_LETTERED, Kind.COMMITTED])
def test_other_fates_wait_as_long_as_they_must(kind: Kind) -> None:
    assert fate_of(fold([entry(kind, 1, NOON)]), 2**60) is posted(entry(kind, 1))


def test_only_open_fates_become_overdue_and_they_stay_open() -> None:
    assert not any(fate.closed for pair in OVERDUE.items() for fate in pair)


def test_a_summary_tells_the_latest_fact_and_the_deliveries() -> None:
    summary = fold(DEAD)

    assert summary.kind is Kind.DEAD_LETTERED
    assert summary.attempts == 1
    assert Summary().kind is None


def test_a_proof_justifies_an_ack_and_so_does_whatever_keeps_the_message_elsewhere() -> None:
    assert set(PROOFS) < set(ACK_REASONS)
    assert set(ACK_REASONS) - set(PROOFS) == {Kind.PARKED, Kind.EXPIRED, Kind.DISCARDED, Kind.DEAD_LETTERED}


def test_numbers_are_in_databases_and_never_change() -> None:
    """Append to these lists; change nothing in them."""
    kinds = "intended put_off refused publish_in_doubt published received extended released commit_in_doubt failed"
    kinds += " ack_failed acked parked resumed expired discarded vanished dead_lettered replayed suppressed superseded"
    kinds += " noop committed"
    assert [kind.name.lower() for kind in Kind] == kinds.split()
    assert [kind.value for kind in Kind] == list(range(1, 24))
    assert max(Kind) < RANKS

    assert {fate.name.lower(): fate.value for fate in Fate} == {
        "intended": 1, "in_doubt": 2, "queued": 3, "processing": 4, "retrying": 5, "parked": 6, "stranded": 7,
        "stalled": 8, "settled": 20, "noop": 21, "superseded": 22, "duplicate": 23, "dead": 24, "expired": 25,
        "refused": 26, "discarded": 27, "vanished": 28,
    }  # fmt: skip


def test_pages_show_words() -> None:
    assert Kind.DEAD_LETTERED.label == "dead lettered"
    assert Fate.IN_DOUBT.label == "in doubt"
