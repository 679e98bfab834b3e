"""Bounded work: deadlines, limits, cancellation, partial answers. It stands alone: no queue, no book, nothing but anyio.

deadlines.py        one deadline for the whole request      watching.py   what held it up
wire.py             the deadline between processes (pure)   runtime.py    clocks and event loops
limits.py           at most so many at once                 line.py       who goes on, and who waits (pure)
sizes.py            limits that find their size (pure)
calling.py          one guarded call                        branches.py   what bounds it, and how it ended
fanning.py          several at once                         fanning_threads.py, threads.py   the same in threads
groups.py           tasks that end with their block         asgi.py, hanging_up.py   the edge towards callers
retries.py          trying again                            budgets.py    how much of that (pure)
fates.py            how things end (pure)                   ledgers.py    the books of requests
metrics.py, spans.py    the same for Prometheus and OpenTelemetry
places.py, reports.py   troubles, told with the place that caused them
"""

from crossfoot.errors import Expired, FlowError, InDoubt, Overloaded, Rejected, WireInvalid
from crossfoot.flow.branches import Branch
from crossfoot.flow.budgets import Budget
from crossfoot.flow.calling import call
from crossfoot.flow.deadlines import Deadline, check, current, deadline, remaining
from crossfoot.flow.fanning import FanOut, fan_out
from crossfoot.flow.fanning_threads import ThreadFanOut, fan_out_threads
from crossfoot.flow.fates import Fate, http_meaning
from crossfoot.flow.ledgers import LEDGER, Account, Ledger, Waste
from crossfoot.flow.limits import Limit, Order, Permit
from crossfoot.flow.reports import Report, Trouble, listen
from crossfoot.flow.retries import Retry, idempotent
from crossfoot.flow.sizes import Aimd, Gradient2, Vegas
from crossfoot.flow.threads import Threads
from crossfoot.flow.watching import watch

__all__ = [
    "LEDGER", "Account", "Aimd", "Branch", "Budget", "Deadline", "Expired", "FanOut", "Fate", "FlowError", "Gradient2", "InDoubt",
    "Ledger", "Limit", "Order", "Overloaded", "Permit", "Rejected", "Report", "Retry", "ThreadFanOut", "Threads", "Trouble", "Vegas",
    "Waste", "WireInvalid", "call", "check", "current", "deadline", "fan_out", "fan_out_threads", "http_meaning", "idempotent",
    "listen", "remaining", "watch",
]  # fmt: skip
