"""A deadline and a hint between processes: what is written, and what is believed of what is read. Pure.

Wall clocks of two machines differ, so what travels with a request is what is *left*, minus a margin for the way. What waits in a
queue cannot travel so; it bears a time of day, and the rules below say how far that is believed.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from crossfoot.errors import Expired, WireInvalid

HEADER = "x-deadline-ms"
"""Milliseconds left, in requests; in responses, milliseconds that were left when the answer began."""

GRPC = "grpc-timeout"

MARGIN = 0.005
"""Seconds kept back for the way to the next hop and back."""

LONGEST = 366 * 86_400.0
"""Seconds of any deadline over the wire: more is nonsense."""

SKEW = 5.0
"""Seconds by which wall clocks of two machines may differ."""

_DIGITS = re.compile(r"[0-9]{1,15}")

_UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "S": 1.0, "M": 60.0, "H": 3600.0}
_GRPC = re.compile(r"([0-9]{1,8})([HMSmun])")


def to_millis(remaining: float, *, margin: float = MARGIN) -> str | None:
    """The header's text; nothing without a deadline.

    Args:
        remaining: seconds left here.
        margin: seconds kept back.

    Raises:
        Expired: nothing would be left there, so there is no point in asking.
    """
    if remaining == math.inf:
        return None
    millis = math.floor((min(remaining, LONGEST) - margin) * 1000 + 1e-6)  # 0.3 s are 300 ms
    if millis < 1:
        raise Expired(
            f"{max(0.0, remaining):.3f} s are left, and {margin:g} s are kept back for the way: nothing was sent"
        )
    return str(millis)


def of_millis(text: str) -> float:
    """Seconds left, of the header's text. 0 is a deadline that has passed.

    Raises:
        WireInvalid: not a whole number of milliseconds.
    """
    if not _DIGITS.fullmatch(text.strip()):
        raise WireInvalid(f"{HEADER}: {text[:40]!r} is not a number of milliseconds, as 250")
    return min(int(text) / 1000, LONGEST)


def to_grpc(remaining: float, *, margin: float = MARGIN) -> str | None:
    """The text of `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, *Requests*). Rounded down.

    Raises:
        Expired: nothing would be left there.
    """
    millis = to_millis(remaining, margin=margin)
    if millis is None:
        return None
    seconds = min(remaining, LONGEST) - margin
    for unit in "umSMH":
        value = math.floor(seconds / _UNITS[unit] + 1e-6)
        if value < 10**8:
            return f"{value}{unit}"
    raise AssertionError("a year has fewer than 10**8 hours")


def of_grpc(text: str) -> float:
    """Seconds, of the text of `grpc-timeout`.

    Raises:
        WireInvalid: not of that form.
    """
    found = _GRPC.fullmatch(text)
    if found is None:
        raise WireInvalid(f"{GRPC}: {text[:40]!r} is not up to eight digits and one of H M S m u n, as 250m")
    return min(int(found[1]) * _UNITS[found[2]], LONGEST)


def to_expirytime(remaining: float, now: datetime) -> str | None:
    """CloudEvents' `expirytime` (expirytime extension: RFC 3339): when the event is no longer of use; nothing without a deadline.

    No margin and no hop: a queue may keep it for long.
    """
    if remaining == math.inf:
        return None
    moment = datetime.fromtimestamp(now.timestamp() + min(max(0.0, remaining), LONGEST), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def of_expirytime(
    expirytime: str, now: datetime, *, sent: str | None = None, queued: float | None = None, skew: float = SKEW
) -> float:
    """Seconds an event is still of use for; 0 when it is not.

    What is believed, in this order:

    1. With `sent` and `queued` no wall clock is compared with another: the sender's own two stamps say how long it was to live, and
       the queue says how long it waited.
    2. Otherwise this machine's clock is compared with the sender's, which may be `skew` seconds ahead: an event is dropped only when
       it is over by more than that. Dropping what was alive is worse than doing what was stale.
    3. With `sent`, nothing lives longer than it was to live, whatever the clocks say: an hour's step of one does not make an event
       live an hour longer.

    Args:
        expirytime: the attribute.
        now: this machine's wall clock.
        sent: the event's `time`, by the same clock as `expirytime`.
        queued: seconds since it was published, by the queue's clock alone.
        skew: seconds by which wall clocks may differ.

    Raises:
        WireInvalid: a time that is not RFC 3339, with its zone.
    """
    since = None if sent is None else _moment("time", sent).timestamp()
    return still_wanted(
        _moment("expirytime", expirytime).timestamp(), now.timestamp(), sent=since, queued=queued, skew=skew
    )


def still_wanted(
    over: float, now: float, *, sent: float | None = None, queued: float | None = None, skew: float = SKEW
) -> float:
    """The same of times in seconds since the epoch."""
    life = math.inf if sent is None else max(0.0, over - sent)
    if queued is not None and life < math.inf:
        return max(0.0, life - max(0.0, queued))
    return max(0.0, min(over - now + skew, life, LONGEST))


def retry_after(text: str, now: datetime) -> float:
    """Seconds to wait, of a `Retry-After` (RFC 9110, section 10.2.3): delay-seconds or an HTTP-date; a past date is 0.

    Raises:
        WireInvalid: neither.
    """
    stripped = text.strip()
    if _DIGITS.fullmatch(stripped):
        return min(float(stripped), LONGEST)
    try:
        moment = parsedate_to_datetime(stripped)
    except (ValueError, OverflowError):  # a day or a year that no calendar has
        raise WireInvalid(f"Retry-After: {text[:40]!r} is neither seconds nor an HTTP date") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, min((moment - now).total_seconds(), LONGEST))


def _moment(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise WireInvalid(f"{name}: {text[:40]!r} is not a time of RFC 3339 with its zone, as 2026-01-31T12:00:00Z")
    return moment
