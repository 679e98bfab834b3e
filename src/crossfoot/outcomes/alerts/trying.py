"""How often a notice is sent that nobody confirms, and for how long. Pure.

An episode that lasts must be heard of, however long whoever is to hear of it is away: so it is tried as long as it lasts, and for a day
after it. What was certainly not heard may be sent every few minutes. What may have been heard wakes somebody again each time who keeps no
keys: so the pauses grow to an hour.
"""

from __future__ import annotations

from crossfoot.clock import SECOND, Micros

FIRST_WAIT: Micros = 5 * SECOND
"""Doubled by each try."""

LONGEST_WAIT: Micros = 300 * SECOND
"""Between two tries, when the last was certainly not heard."""

LONGEST_DOUBT: Micros = 3_600 * SECOND
"""Between two tries, when the last may have been heard."""

AFTER_THE_END: Micros = 86_400 * SECOND
"""So long it is tried when the episode is over."""

DOUBLINGS = 20
"""More of them only make the number longer."""


def next_try(tries: int, now: Micros, *, in_doubt: bool, closed_at: Micros | None) -> Micros | None:
    """When a notice is sent again that was not confirmed; `None` when it is given up.

    Args:
        tries: how often it was sent.
        in_doubt: whether the last of them may have been heard.
        closed_at: when its episode ended; `None` while it lasts.
    """
    if closed_at is not None and now >= closed_at + AFTER_THE_END:
        return None
    longest = LONGEST_DOUBT if in_doubt else LONGEST_WAIT
    return now + min(longest, FIRST_WAIT << min(tries, DOUBLINGS))
