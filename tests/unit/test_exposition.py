"""Every figure of a balance is a metric, under its own name, and no other figure."""

from __future__ import annotations

from crossfoot.books.balance import Attention, Balance, Identity, QueueBalance
from crossfoot.books.queries import WorkerRow
from crossfoot.cli.exposition import FORGOTTEN, families
from crossfoot.clock import SECOND
from crossfoot.recover.timeline import SILENT

NOW = 1_000_000 * SECOND

BOOKS = Balance(
    as_of=NOW, posted=400, waiting=2, published=29, fates={"settled": 3, "dead": 5, "queued": 7}, unaccounted=11,
    unaccounted_ids=(), boundaries={},
    identities={
        "holdings": Identity(title="", holds=None), "operations": Identity(title="", holds=False),
        "fates": Identity(title="", holds=True),
    },
    queues={
        "billing": QueueBalance(
            published=8, fates={"settled": 3, "dead": 5}, boundaries={"received": 13, "acked": 17}, queue={"accepted": 19}
        ),
        "letters": QueueBalance(published=7, fates={"queued": 7}, boundaries={"received": 23}),
    },
    attention={"dead": Attention(5, "", ()), "vanished": Attention(31, "", ())}, problems=("something",), warnings=(),
)  # fmt: skip


def worker(seen: int, *, stopped: bool = False) -> WorkerRow:
    at = NOW - seen
    return WorkerRow(1, "w", "billing", "host", 1, "0", at, at, at if stopped else None)


WORKERS = [
    worker(0), worker(SILENT), worker(0), worker(SILENT + 1), worker(FORGOTTEN), worker(SILENT + 1, stopped=True),
    worker(0, stopped=True),
]  # fmt: skip


def test_every_figure_is_there_and_no_other() -> None:
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in families(BOOKS, WORKERS)
        for sample in metric.samples
    }

    assert found == {
        ("crossfoot_messages", "billing", "settled"): 3,
        ("crossfoot_messages", "billing", "dead"): 5,
        ("crossfoot_messages", "letters", "queued"): 7,
        ("crossfoot_boundary_messages_total", "billing", "received"): 13,
        ("crossfoot_boundary_messages_total", "billing", "acked"): 17,
        ("crossfoot_boundary_messages_total", "letters", "received"): 23,
        ("crossfoot_queue_copies_total", "billing", "accepted"): 19,
        ("crossfoot_identity_holds", "operations"): 0,
        ("crossfoot_identity_holds", "fates"): 1,
        ("crossfoot_attention", "dead"): 5,
        ("crossfoot_attention", "vanished"): 31,
        ("crossfoot_balanced",): 0,
        ("crossfoot_unaccounted",): 11,
        ("crossfoot_entries_waiting",): 2,
        ("crossfoot_as_of_seconds",): 1_000_000,
        ("crossfoot_workers", "working"): 3,
        ("crossfoot_workers", "silent"): 1,
    }
