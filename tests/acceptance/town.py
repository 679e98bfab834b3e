"""What `check` finds where an incident was built."""

from __future__ import annotations

import time

from crossfoot import Crossfoot
from crossfoot.books import lately
from crossfoot.books.posting import post_all
from crossfoot.cli.check_queues import service_of
from crossfoot.cli.depths import contents_of
from crossfoot.clock import SECOND
from crossfoot.recover.checklist.survey import survey
from crossfoot.recover.checklist.walk import Report, walk
from tests.acceptance.incidents import Expected


def checked(app: Crossfoot, *, later: float = 0.0, program: bool = True) -> Report:
    """What `check` finds, `later` seconds from now."""
    app.book.open()
    post_all(app.book)
    path = app.book.path
    with app.book.reading() as connection:
        service = service_of(path, lately.queues(connection), app if program else None, ask=True)
        now = time.time_ns() // 1000 + round(later * SECOND)
        return walk(survey(connection, now, service=service, depth_of=lambda queue: contents_of(queue, path)))


def first_is(report: Report, expected: Expected) -> None:
    first = report.findings[0]
    told = [(one.code, one.text) for one in report.findings]
    assert first.code == expected.code, told
    assert frozenset(first.ids) == expected.ids, told
    assert first.count == len(expected.ids)
    assert all(word in first.text for word in expected.words), first.text
    assert any(step.command for step in first.next), first.next
    assert all(step.command is None or step.command.startswith("crossfoot ") for step in first.next)
    assert not report.well
