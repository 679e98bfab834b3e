"""Law 4: no proof, no ack; and law 3's other half, an ack that nothing justified is found."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crossfoot.books import fate
from crossfoot.books.entry import ACK_REASONS, Entry, Kind
from crossfoot.books.fate import Fate
from crossfoot.effects import proof
from crossfoot.effects.proof import Evidence, Noop
from crossfoot.errors import NoProof
from tests.laws.histories import histories

NAMES = ("invoice.issued", "invoice.reversed", "audit.written")
UNJUSTIFIED = tuple(kind for kind in Kind if kind < Kind.ACKED)
"""Facts of a delivery that is not over yet."""

names = st.lists(st.sampled_from(NAMES), max_size=3).map(tuple)
evidences = st.builds(Evidence, rows=st.integers(-2, 2), outcomes=names, sent=names, receipts=names)
returned = st.sampled_from((None, True, "done", 7, Noop("nothing to bill")))
RETURNS = st.tuples(returned, evidences, names)
ACKED = histories(UNJUSTIFIED)


def _judged(result: object, evidence: Evidence, proves: tuple[str, ...]) -> Kind | None:
    try:
        return proof.judge(result, evidence, proves, what="an order")
    except NoProof:
        return None


@given(RETURNS)
def test_a_return_is_believed_only_with_evidence(scene: tuple[object, Evidence, tuple[str, ...]]) -> None:
    result, evidence, proves = scene
    kind = _judged(result, evidence, proves)
    shown = evidence.rows > 0 or bool(evidence.outcomes or evidence.sent or evidence.receipts)
    named = set(proves) <= set(evidence.outcomes)

    if isinstance(result, Noop):
        assert kind is Kind.NOOP
    else:
        assert kind is (Kind.COMMITTED if (named if proves else shown) else None)


@given(RETURNS)
def test_when_a_handler_says_what_proves_it_nothing_less_counts(
    scene: tuple[object, Evidence, tuple[str, ...]],
) -> None:
    result, evidence, _ = scene
    missing = tuple(name for name in NAMES if name not in evidence.outcomes)
    if missing and not isinstance(result, Noop):
        assert _judged(result, evidence, missing) is None


@given(ACKED)
def test_an_ack_that_nothing_justified_is_a_vanished_message(history: list[Entry]) -> None:
    last = max((entry.attempt for entry in history), default=0)
    acked = Entry(message=0, kind=Kind.ACKED, at=0, attempt=last)

    assert not set(UNJUSTIFIED) & set(ACK_REASONS)
    assert fate.posted_fate(fate.fold([*history, acked])) is Fate.VANISHED
