"""Where the servers of the tests do otherwise than what they stand for, AWS or Kafka: one table, checked by every run.

A test named here is expected to fail on that server. It appears in the run's summary with its reason, and should it
pass one day, the run fails until the row is gone (unless the difference is a race, which shows only at times).
"""

from __future__ import annotations

from typing import NamedTuple

import pytest


class Difference(NamedTuple):
    """One difference, as one test shows it."""

    server: str
    kind: str
    """`standard`, `fifo` or `kafka`."""
    test: str
    does: str
    """What the server does, and then what AWS or Kafka does."""
    always: bool = True
    """False for a race."""


DIFFERENCES = [
    Difference(
        "ministack",
        "standard",
        "test_deleting_twice_is_no_error",
        "calls a receipt void once it was used; AWS deletes what is gone without complaint",
    ),
    Difference(
        "ministack",
        "fifo",
        "test_a_fifo_receipt_is_void_when_its_lease_is_over",
        "takes the receipt until the message is delivered again; AWS says that it has expired",
    ),
    Difference(
        "moto",
        "fifo",
        "test_a_fifo_receipt_is_void_when_its_lease_is_over",
        "takes any receipt ever given; AWS says that it has expired",
    ),
    Difference(
        "moto",
        "fifo",
        "test_an_earlier_receipt_is_void_once_the_message_was_delivered_again",
        "deletes by any receipt ever given; AWS says that it has expired",
    ),
    Difference(
        "moto",
        "fifo",
        "test_a_second_publish_is_dropped_even_after_the_first_was_acked",
        "forgets the deduplication id with the message; AWS keeps it for five minutes",
    ),
    *(
        Difference(
            "moto",
            kind,
            "test_a_message_older_than_the_retention_is_forgotten",
            "keeps it, and it hides those behind it from the receive that meets it; AWS drops it",
        )
        for kind in ("standard", "fifo")
    ),
    *(
        Difference(
            "moto",
            kind,
            "test_concurrent_consumers_never_hold_the_same_message",
            "takes no lock in a receive, so two at once may bring the same message; AWS leases to one",
            always=False,
        )
        for kind in ("standard", "fifo")
    ),
    Difference(
        "mock",
        "kafka",
        "test_retention_is_told_as_it_was_set",
        "has no settings of topics; Kafka tells them to who may describe them",
    ),
    Difference(
        "mock",
        "kafka",
        "test_concurrent_consumers_never_hold_the_same_message",
        "lets a group wait for a whole session when a second member joins, and the first one's commits with it; Kafka for as long as the "
        "members take",
        always=False,
    ),
]


def expect_difference(server: str, kind: str, request: pytest.FixtureRequest) -> None:
    """Mark the running test as expected to fail where the table says so."""
    name = request.function.__name__
    for one in DIFFERENCES:
        if (one.server, one.kind, one.test) == (server, kind, name):
            reason = f"{one.server}, {one.kind}: {one.does}"
            request.applymarker(pytest.mark.xfail(reason=reason, strict=one.always))
