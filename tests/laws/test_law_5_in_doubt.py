"""Law 5: in doubt is a state. It ends by evidence, and neither by time nor by what the sender intends."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from crossfoot.books import fate
from crossfoot.books.entry import PROOFS, Entry, Kind
from crossfoot.books.fate import OVERDUE, Fate, Patience
from tests.laws.histories import UNPROVEN, entries, histories, moments, seeds, shuffled

DOUBTS = (Kind.PUBLISH_IN_DOUBT, Kind.COMMIT_IN_DOUBT)

BEFORE_ANYONE_ASKED = (Kind.INTENDED, Kind.PUT_OFF, Kind.REFUSED)
"""What a sender writes of another try: it says nothing of the copy that was sent without an answer."""

EVIDENCE = tuple(kind for kind in Kind if kind not in (*DOUBTS, *BEFORE_ANYONE_ASKED))
"""Somebody has seen the message or its effect: a broker, a worker, or a person who decided."""

UNSUCCESSFUL_ENDS = (Kind.ACKED, Kind.EXPIRED, Kind.DISCARDED, Kind.VANISHED, Kind.DEAD_LETTERED)

LONG = 2**41  # microseconds: three weeks


@st.composite
def _patience(draw: st.DrawFn) -> Patience:
    number = draw(st.integers(0, LONG**3 - 1))
    return Patience(stranded=number % LONG, stalled=number // LONG % LONG, intended=number // LONG**2)


@st.composite
def _doubtful(draw: st.DrawFn) -> list[Entry]:
    """A history without a proof whose last fact is a doubt, anywhere in it."""
    history = draw(histories(UNPROVEN))
    doubt, seed = draw(entries(DOUBTS)), draw(seeds)
    latest = max((entry.attempt for entry in history), default=-1)
    doubt = replace(doubt, attempt=latest + 1 + seed % 2)
    lower = UNPROVEN[: UNPROVEN.index(doubt.kind) + 1]
    beside = [Entry(message=0, kind=kind, at=0, attempt=doubt.attempt) for kind in shuffled(lower, seed)[: seed % 4]]
    return shuffled([*history, doubt, *beside], seed)


patiences = _patience()
DOUBTFUL = st.tuples(_doubtful(), moments, patiences)
ONE_MORE = st.tuples(_doubtful(), entries(), moments)
INTENTIONS = st.tuples(st.integers(1, 2**51), patiences, st.sampled_from((Kind.INTENDED, Kind.PUT_OFF)))
AGEING = st.tuples(histories(), moments, moments, patiences)


@given(DOUBTFUL)
def test_a_doubt_that_is_the_last_fact_is_the_fate_at_any_time(scene: tuple[list[Entry], int, Patience]) -> None:
    history, now, patience = scene

    assert fate.fate_of(fate.fold(history), now, patience) is Fate.IN_DOUBT


@given(ONE_MORE)
def test_one_more_entry_resolves_a_doubt_only_if_it_is_evidence(scene: tuple[list[Entry], Entry, int]) -> None:
    history, more, now = scene
    assume(more.attempt == 0 or more.kind not in BEFORE_ANYONE_ASKED)  # sends after the first: the next test

    if fate.fate_of(fate.fold([*history, more]), now) is not Fate.IN_DOUBT:
        assert more.kind in EVIDENCE, f"{more.kind.label} is no evidence"


@given(ONE_MORE)
def test_a_doubt_succeeds_only_by_proof_and_fails_only_by_an_end(scene: tuple[list[Entry], Entry, int]) -> None:
    history, more, now = scene
    after = fate.fate_of(fate.fold([*history, more]), now)
    assert after is not None

    if after in fate.FATE_OF_PROOF.values():
        assert more.kind in PROOFS
    elif after is Fate.REFUSED:
        assert more.kind is Kind.REFUSED
        assert more.attempt > max(entry.attempt for entry in history), "a refusal speaks for its own attempt only"
    elif after.closed:
        assert more.kind in UNSUCCESSFUL_ENDS


@given(st.tuples(st.integers(0, 9), st.lists(st.sampled_from(BEFORE_ANYONE_ASKED), max_size=5)))
def test_a_later_refusal_of_the_same_message_does_not_undo_a_doubt(scene: tuple[int, list[Kind]]) -> None:
    attempt, tries = scene
    doubt = Entry(message=0, kind=Kind.PUBLISH_IN_DOUBT, at=0, attempt=attempt)
    later = [Entry(message=0, kind=kind, at=1 + number, attempt=attempt) for number, kind in enumerate(tries)]

    assert fate.posted_fate(fate.fold([doubt, *later])) is Fate.IN_DOUBT


@given(AGEING)
def test_time_alone_never_closes_a_fate_and_never_opens_one(scene: tuple[list[Entry], int, int, Patience]) -> None:
    history, now, then, patience = scene
    summary = fate.fold(history)
    posted = fate.posted_fate(summary)
    for at in (now, then, 0, 2**60):
        seen = fate.fate_of(summary, at, patience)
        assert seen is posted or (posted is not None and seen is OVERDUE.get(posted))
        assert posted is None or (seen is not None and seen.closed == posted.closed)


@given(AGEING)
def test_what_is_overdue_stays_overdue(scene: tuple[list[Entry], int, int, Patience]) -> None:
    history, one, two, patience = scene
    summary = fate.fold(history)
    early, late = min(one, two), max(one, two)
    if fate.fate_of(summary, early, patience) is not fate.posted_fate(summary):
        assert fate.fate_of(summary, late, patience) is fate.fate_of(summary, early, patience)


@given(INTENTIONS)
def test_an_intention_that_is_overdue_counts_as_in_doubt(scene: tuple[int, Patience, Kind]) -> None:
    due, patience, kind = scene
    summary = fate.fold([Entry(message=0, kind=kind, at=0, due=due)])

    assert fate.fate_of(summary, due + patience.intended, patience) is Fate.INTENDED
    assert fate.fate_of(summary, due + patience.intended + 1, patience) is Fate.IN_DOUBT
