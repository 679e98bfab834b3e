"""Bounded work: deadlines, limits, cancellation, partial answers. It stands alone: no queue, no book, nothing but anyio.

deadlines.py  one deadline for the whole request     watching.py  what held it up
wire.py       the deadline between processes         runtime.py   clocks and event loops
limits.py     at most so many at once                line.py      who goes on, and who waits (pure)
sizes.py      limits that find their size (pure)
places.py, reports.py   troubles, told with the place that caused them
"""

from crossfoot.errors import Expired, FlowError, InDoubt, Overloaded, Rejected, WireInvalid
from crossfoot.flow.deadlines import Deadline, check, current, deadline, remaining
from crossfoot.flow.limits import Limit, Order, Permit
from crossfoot.flow.reports import Report, Trouble, listen
from crossfoot.flow.sizes import Aimd, Gradient2, Vegas
from crossfoot.flow.watching import watch

__all__ = [
    "Aimd", "Deadline", "Expired", "FlowError", "Gradient2", "InDoubt", "Limit", "Order", "Overloaded", "Permit", "Rejected",
    "Report", "Trouble", "Vegas", "WireInvalid", "check", "current", "deadline", "listen", "remaining", "watch",
]  # fmt: skip
