"""What counts as proof, and what a handler is told that gave none."""

from __future__ import annotations

import pytest

from crossfoot.books.entry import Kind
from crossfoot.effects.proof import Evidence, Noop, judge
from crossfoot.errors import NoProof, UsageError


def judged(result: object, evidence: Evidence, *proves: str) -> Kind:
    return judge(result, evidence, proves, what="case.released 7 (case-7)")


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(rows=1),
        Evidence(outcomes=("invoice.issued",)),
        Evidence(sent=("invoice.issued",)),
        Evidence(receipts=("stripe:ch_1",)),
    ],
)
def test_any_trace_of_the_work_is_proof_unless_the_handler_names_one(evidence: Evidence) -> None:
    assert judged(None, evidence) is Kind.COMMITTED


@pytest.mark.parametrize("result", [None, True, "done", {"status": "ok"}])
def test_a_return_alone_proves_nothing(result: object) -> None:
    with pytest.raises(NoProof, match=r"^case.released 7 \(case-7\): .*changed no row.*return Noop\(reason\)"):
        judged(result, Evidence())


@pytest.mark.parametrize("evidence", [Evidence(gap=4), Evidence(reason="words")])
def test_remarks_are_no_proof(evidence: Evidence) -> None:
    with pytest.raises(NoProof):
        judged(None, evidence)


def test_a_noop_with_a_reason_is_proof() -> None:
    assert judged(Noop("amount is zero"), Evidence()) is Kind.NOOP
    assert judged(Noop("amount is zero"), Evidence(), "invoice.issued") is Kind.NOOP


def test_an_audit_row_is_not_enough_when_the_handler_says_what_proves_it() -> None:
    audited = Evidence(rows=3, outcomes=("audit.written",), sent=("mail",), receipts=("stripe:ch_1",))

    with pytest.raises(NoProof, match=r"proves it, invoice\.issued: it declared audit\.written: look for an exception"):
        judged(None, audited, "invoice.issued")


def test_every_outcome_that_is_named_must_be_there() -> None:
    both = ("invoice.issued", "ledger.booked")

    assert judged(None, Evidence(outcomes=(*both, "another")), *both) is Kind.COMMITTED
    with pytest.raises(NoProof, match=r"proves it, ledger\.booked:"):
        judged(None, Evidence(outcomes=both[:1]), *both)


def test_a_misspelt_outcome_is_named_beside_the_one_that_proves() -> None:
    charged = Evidence(outcomes=("card.charged",))

    with pytest.raises(
        NoProof, match=r"card\.chraged: it declared card\.charged, and proves= says card\.chraged: spell both alike"
    ):
        judged(None, charged, "card.chraged")


def test_what_came_back_is_told_by_its_type_and_not_by_its_value() -> None:
    for evidence, proves in ((Evidence(), ()), (Evidence(rows=1), ("invoice.issued",))):
        with pytest.raises(NoProof, match=r"the handler returned a dict \(which proves nothing\)") as raised:
            judged({"iban": "DE02"}, evidence, *proves)
        assert "DE02" not in str(raised.value)
    with pytest.raises(NoProof, match=r"invoice\.issued: it declared no outcome: look for an exception"):
        judged(None, Evidence(rows=1), "invoice.issued")


@pytest.mark.parametrize("evidence", [Evidence(), Evidence(rows=1, outcomes=("invoice.issued",))])
def test_the_class_noop_is_no_noop(evidence: Evidence) -> None:
    with pytest.raises(NoProof, match=r"returned the class Noop itself: write Noop\(reason\)"):
        judged(Noop, evidence)


@pytest.mark.parametrize("reason", ["", "  ", "\n"])
def test_a_noop_needs_a_reason(reason: str) -> None:
    with pytest.raises(UsageError, match="Noop needs a reason"):
        Noop(reason)


def test_a_noop_shows_its_reason() -> None:
    assert repr(Noop("amount is zero")) == "Noop('amount is zero')"
