"""Proof: what shows that a handler did its work. Without any, its delivery is not acked."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import msgspec

from crossfoot.books.entry import Kind
from crossfoot.errors import NoProof, UsageError


class Noop:
    """What a handler returns when there is rightly nothing to do.

    Args:
        reason: why, for the person who asks later. Required.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        if not reason or not reason.strip():
            raise UsageError("Noop needs a reason: say why nothing had to be done, as in Noop('amount is zero')")
        self.reason = reason

    def __repr__(self) -> str:
        return f"Noop({self.reason!r})"


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a transaction holds by the time its handler returned.

    Attributes:
        rows: business rows changed, net of what savepoints undid.
        outcomes: names of the outcomes declared.
        sent: types of the messages sent.
        receipts: references of external systems.
        reason: of a `Noop`.
        gap: the predecessor that was not waited for any longer.
        of: messages that these rows were changed for, if their handler took them together.
    """

    rows: int = 0
    outcomes: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()
    receipts: tuple[str, ...] = ()
    reason: str = ""
    gap: int | None = None
    of: int = 1


def judge(result: Any, evidence: Evidence, proves: tuple[str, ...], *, what: object) -> Kind:
    """Whether the evidence is proof.

    Args:
        result: what the handler returned.
        proves: outcomes that must have been declared; then nothing less counts.
        what: the message, for the error.

    Raises:
        NoProof: nothing shows that the work was done, which is what a swallowed exception looks like.
    """
    if isinstance(result, Noop):
        return Kind.NOOP
    if isinstance(result, type) and issubclass(result, Noop):
        raise NoProof(
            f"{what}: the handler returned the class {result.__name__} itself: write Noop(reason), and say why nothing had to be done"
        )
    if result is not None and hasattr(result, "__await__"):
        if hasattr(result, "close"):
            result.close()
        raise NoProof(
            f"{what}: the handler returned something that must be awaited, and is no `async def` itself, so what it called for "
            "never happened"
        )
    if proves:
        missing = [name for name in proves if name not in evidence.outcomes]
        if missing:
            raise NoProof(
                f"{what}: the handler returned{_thing(result)} without the outcome that proves it, {', '.join(missing)}: "
                f"{_instead(missing, evidence)}"
            )
        return Kind.COMMITTED
    if evidence.rows >= evidence.of or evidence.outcomes or evidence.sent or evidence.receipts:
        return Kind.COMMITTED
    if evidence.rows > 0:
        raise NoProof(
            f"{what}: the handler was given {evidence.of} messages and changed {evidence.rows} rows, fewer than one each"
        )
    raise NoProof(
        f"{what}: the handler returned{_thing(result)}, but it changed no row, declared no outcome and sent no message: look "
        "for an exception that it caught and did not raise again, or return Noop(reason) if there was nothing to do"
    )


SHOWN = 5
"""Outcomes that an error names."""


def _thing(result: Any) -> str:
    """What came back, by its type: its value may be what the message carried."""
    return "" if result is None else f" {_article(type(result).__name__)} (which proves nothing)"


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _instead(missing: list[str], evidence: Evidence) -> str:
    """What it declared instead: a name that is misspelt, or less than was asked for."""
    declared = list(dict.fromkeys(evidence.outcomes))
    near = [(name, found[0]) for name in missing if (found := get_close_matches(name, declared, 1, 0.8))]
    if near:
        (wanted, told) = near[0]
        return f"it declared {told}, and proves= says {wanted}: spell both alike"
    if not declared:
        return "it declared no outcome: look for an exception that it caught and did not raise again"
    more = f" and {len(declared) - SHOWN:,} more" if len(declared) > SHOWN else ""
    return (
        f"it declared {', '.join(declared[:SHOWN])}{more}: look for an exception that it caught and did not raise again, or correct "
        "proves="
    )
