"""Ways to break crossfoot on purpose, so that the harness can show that it notices."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import anyio.from_thread
import msgspec

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.effects.work import Work
from crossfoot.queues.queue import Delivery, NotDone
from crossfoot.worker.held import Held
from crossfoot.worker.intake import Intake
from crossfoot.worker.settling import Settling


def no_operation_key(app: Crossfoot) -> None:
    """Every delivery is an operation of its own, and what its message has completed is not asked."""
    registry: Any = app.registry
    for type_, handler in registry._exact.items():
        registry._exact[type_] = msgspec.structs.replace(handler, operation=lambda message: uuid.uuid4().hex)
    _replace(Intake, "_ask_for", lambda *_: None)
    app.book.open()
    with app.book.writing() as connection:
        connection.execute("DROP INDEX IF EXISTS crossfoot_operations_message")
        connection.execute("CREATE INDEX crossfoot_operations_message ON crossfoot_operations (message)")
    app.book.close()


def ack_before_commit(app: Crossfoot) -> None:
    """The message is acked as soon as its receipt is booked."""
    take = Intake.take

    def take_and_ack(self: Intake, deliveries: Sequence[Delivery], *lease: float) -> list[Held]:
        helds = take(self, deliveries, *lease)
        anyio.from_thread.run(app.queue.ack, [delivery.receipt for delivery in deliveries])
        _without_ack(helds)
        return helds

    _replace(Intake, "take", take_and_ack)


def no_ack(app: Crossfoot) -> None:
    """Nothing is ever acked."""
    take = Intake.take

    def take_without(self: Intake, deliveries: Sequence[Delivery], *lease: float) -> list[Held]:
        helds = take(self, deliveries, *lease)
        _without_ack(helds)
        return helds

    async def refuse(receipts: Sequence[str]) -> list[NotDone]:
        return [NotDone(receipt, "sabotage", lost=False) for receipt in receipts]

    _replace(Intake, "take", take_without)
    _replace(app.queue, "ack", refuse)


def no_proof_entry(app: Crossfoot) -> None:
    """The effect commits without the entry that says so."""
    note = Work._note

    def forget(self: Work, kind: Kind, details: str | None) -> None:
        note(self, kind, details)
        self.forget()

    _replace(Work, "_note", forget)


def entry_before_effect(app: Crossfoot) -> None:
    """Failures are booked after the message was handed back, not before."""
    fail = Settling._fail

    async def late(self: Settling, failed: Any) -> None:
        await app.queue.ack([held.delivery.receipt for held, _ in failed])
        await fail(self, failed)

    _replace(Settling, "_fail", late)


def _without_ack(helds: Sequence[Held]) -> None:
    for held in helds:
        if held.hold is not None:
            held.hold.ack = None


def _replace(owner: Any, name: str, by: Any) -> None:
    setattr(owner, name, by)


KINDS: dict[str, Callable[[Crossfoot], None]] = {
    "no operation key": no_operation_key,
    "ack before commit": ack_before_commit,
    "no ack": no_ack,
    "no proof entry": no_proof_entry,
    "failures acked": entry_before_effect,
}
