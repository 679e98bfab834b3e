"""Operation keys that were forgotten since a replay was planned: what its plan knew of them may not hold any more."""

from __future__ import annotations

import msgspec

from crossfoot.books import replays
from crossfoot.books.archive.prune import forgotten_before
from crossfoot.books.replays import Replay
from crossfoot.connection import Connection
from crossfoot.errors import ReplayRefused

LEFT = "it was to be suppressed, and the key of its operation may be forgotten since the plan: plan it again"


def leave(connection: Connection, replay: Replay) -> None:
    """Leave members alone that were to be suppressed by a key that may be gone: they would take effect again. Within the caller's
    transaction.

    Raises:
        ReplayRefused: what was completed since the plan may be forgotten, of any member.
    """
    now = forgotten_before(connection)
    if now <= msgspec.json.decode(replay.selection).get("forgotten", 0):
        return
    if now > replay.at:
        raise ReplayRefused(
            f"replay {replay.number} was planned before the horizon of deduplication: operations that were completed since are "
            "forgotten; plan it again"
        )
    connection.execute(replays.CHANGE_FORGOTTEN, (LEFT, replay.number))
