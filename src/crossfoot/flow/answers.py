"""What the answer of another service means, and the header it is asked with: what HTTP clients share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from crossfoot.errors import Expired, FlowError, Overloaded, Rejected, WireInvalid
from crossfoot.flow import wire
from crossfoot.flow.deadlines import check, remaining


def header(*, margin: float = wire.MARGIN) -> dict[str, str]:
    """The header that tells the other side what is left here.

    Raises:
        Expired: nothing would be left there: do not ask.
    """
    check()
    text = wire.to_millis(remaining(), margin=margin)
    return {} if text is None else {wire.HEADER: text}


def refusal(status: int, headers: Mapping[str, str], *, of: str) -> FlowError | None:
    """The error that an answer means, if it is one of 429, 503 and 504; with `Retry-After`, if it says when to come again.

    Args:
        of: who answered, for the message.
    """
    if status == 504:
        return Expired(f"{of} answered 504: it had no time left")
    if status not in (429, 503):
        return None
    hint = None
    with suppress(WireInvalid):
        text = headers.get("retry-after")
        hint = None if text is None else wire.retry_after(text, datetime.now(UTC))
    return (Rejected if status == 429 else Overloaded)(
        f"{of} answered {status}: it is asked too much", retry_after=hint
    )
