"""The harness can fail: whatever is broken in crossfoot on purpose, it reports the damage, and by name."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest

from crossfoot.boundaries import Boundary
from tests.crash.nursery import Nursery
from tests.crash.scene import Outcome, Scene
from tests.servers.processes import Server

pytestmark = [pytest.mark.crash, pytest.mark.server]

QUEUES = pytest.mark.parametrize("queue", ["embedded", "sqs"])


class Run(Protocol):
    """A scene crashed three times at one boundary."""

    def __call__(
        self, queue: str, boundary: Boundary, sabotage: str = "", *, batch: int = 1, patience: float = 3.0
    ) -> Outcome: ...


@pytest.fixture
def crashed(nursery: Nursery, sqs: Server, tmp_path: Path, seed: int) -> Run:
    def run(queue: str, boundary: Boundary, sabotage: str = "", *, batch: int = 1, patience: float = 3.0) -> Outcome:
        endpoint = sqs.url if queue == "sqs" else None
        scene = Scene(
            nursery, tmp_path, seed=seed, endpoint=endpoint, sabotage=sabotage, plain=True, batch=batch
        )  # fmt: skip
        return scene.run([boundary] * 3, patience=patience)

    return run


class TestSabotage:
    """Every message good, every operation its own: whatever is wrong, the crash made it so."""

    def test_without_operation_keys_a_crash_between_commit_and_ack_doubles_effects(self, crashed: Run) -> None:
        outcome = crashed("sqs", Boundary.AFTER_COMMIT, "no operation key", patience=20)
        assert not outcome.missed
        assert outcome.audit.doubled
        assert not outcome.audit.lost

    def test_without_operation_keys_a_crash_after_a_send_doubles_what_the_message_leads_to(self, crashed: Run) -> None:
        outcome = crashed("embedded", Boundary.AFTER_SEND, "no operation key", patience=20)
        assert not outcome.missed
        assert [one for one in outcome.audit.doubled if one.startswith("receipts ")]

    @QUEUES
    @pytest.mark.parametrize("batch", [1, 4], ids=["plain", "batch"])
    def test_with_the_ack_moved_before_the_commit_effects_are_lost(self, crashed: Run, queue: str, batch: int) -> None:
        outcome = crashed(queue, Boundary.INSIDE_HANDLER, "ack before commit", batch=batch)
        assert not outcome.missed
        assert outcome.audit.lost
        assert outcome.audit.unaccounted or outcome.audit.problems

    @QUEUES
    def test_with_the_ack_removed_the_queue_is_never_empty(self, crashed: Run, queue: str) -> None:
        outcome = crashed(queue, Boundary.AFTER_COMMIT, "no ack")
        assert any("still holds" in problem for problem in outcome.audit.problems)
        assert not outcome.audit.lost
        assert not outcome.audit.doubled

    @QUEUES
    def test_with_the_proof_removed_nobody_can_account_for_the_messages(self, crashed: Run, queue: str) -> None:
        outcome = crashed(queue, Boundary.AFTER_COMMIT, "no proof entry")
        assert not outcome.audit.clean
        assert outcome.audit.unaccounted or any("vanished" in problem for problem in outcome.audit.problems)

    @QUEUES
    def test_the_same_scenes_without_sabotage_are_clean(self, crashed: Run, queue: str) -> None:
        outcome = crashed(queue, Boundary.AFTER_COMMIT, patience=20)
        assert not outcome.missed
        assert outcome.audit.clean, outcome.audit


class TestReach:
    """A boundary that is not reached is a failure, and no kill."""

    def test_a_boundary_that_is_never_reached_is_reported(self, crashed: Run) -> None:
        outcome = crashed("embedded", Boundary.INSIDE_BATCH, patience=20)
        assert [kill.boundary for kill in outcome.missed] == [Boundary.INSIDE_BATCH] * 3
        assert "ended with 0" in outcome.missed[0].said
        assert outcome.audit.clean, outcome.audit
