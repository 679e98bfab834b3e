"""Findings: a diagnosis with its evidence and the next command. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from crossfoot.clock import Micros
from crossfoot.recover.advice import Step

QUESTIONS = {
    "publish": "was everything accepted, and under its own id?",
    "balance": "were the same messages sent, received and deleted?",
    "dead": "what lies in the dead letters, and why?",
    "time": "does the handling fit into the lease?",
    "once": "does anything take effect twice, or in the wrong order?",
    "retention": "what is forgotten, and when?",
    "outcomes": "did the business happen, or only the handling?",
    "replay": "what would go wrong if it were sent again?",
    "settings": "are the attached queues set so that nothing is lost?",
}
"""The checklist, in the order in which it is walked; the settings are looked at last."""

CODES = {
    "unaccounted": "balance",
    "nobody-publishes": "publish",
    "unregistered": "dead",
    "swallowed": "dead",
    "acked-elsewhere": "balance",
    "received-elsewhere": "balance",
    "acked-without-proof": "balance",
    "refused": "publish",
    "publish-in-doubt": "publish",
    "blocked": "time",
    "lease-too-short": "time",
    "effect-twice": "once",
    "out-of-order": "once",
    "expired": "retention",
    "malformed": "dead",
    "failing": "dead",
    "nobody-receives": "balance",
    "stalled": "balance",
    "commit-in-doubt": "balance",
    "stranded": "balance",
    "books-differ": "balance",
    "dead-unread": "dead",
    "promise-broken": "outcomes",
    "no-outcome": "outcomes",
    "loss-ahead": "retention",
    "setting": "settings",
    "no-payload": "replay",
    "stale-replay": "replay",
}
"""Every finding there is, and its question; in this order they are told: what causes others before what follows from it. A message
that was swallowed also lies in the dead letters, and has no outcome: who reads only the first line must read why."""

_RANKS = {code: rank for rank, code in enumerate(CODES)}

SHOWN = 1_000
"""Ids a finding carries; `count` tells how many there are."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong, or will be.

    Attributes:
        code: one of `CODES`: for scripts, and to accept it.
        text: the diagnosis in a sentence.
        count: how many messages it is about; `ids` are the first of them.
        of_messages: whether `ids` are those of messages; an invariant's are what its statement names.
        figures: what was measured, by name.
        first_at: when it was first seen, `last_at` last.
        next: what to do.
        accepted: whether somebody said that it is known.
    """

    code: str
    text: str
    count: int = 0
    ids: tuple[str, ...] = ()
    of_messages: bool = True
    queue: str | None = None
    figures: dict[str, str] = {}
    first_at: Micros | None = None
    last_at: Micros | None = None
    next: tuple[Step, ...] = ()
    accepted: bool = False

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code

    @property
    def question(self) -> str:
        return CODES[self.code]


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The most telling first; of one kind, what concerns most messages."""
    return tuple(sorted(findings, key=lambda one: (one.accepted, _RANKS[one.code], -one.count, one.text)))


def some(ids: Iterable[str]) -> tuple[str, ...]:
    """As many as a finding carries, each once."""
    return tuple(list(dict.fromkeys(ids))[:SHOWN])
