"""Whether a member that hears nothing is left out: the log has more for it, and nothing comes.

A client may be alive, in touch with the broker and a member of its group, and still be given nothing: the coordinator was restarted in the
midst of a rebalance, or a fetch hangs. Nothing tells it so. What tells is the log: there is more behind what it has read; or it was given
no partition, and behind what the group has committed there is more, and that does not move either. Such a member joins the group anew,
which has the partitions shared again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

STILL_SECONDS = 60.0
"""So long nothing may come until the log is asked."""

LOOKS = 3
"""So often in a row the group must not have moved, for a member without partitions: others may take long for a message."""

Ends = Callable[[], Mapping[int, tuple[int, int]]]
"""Of each partition of the topic: what the group has committed, and where the log ends."""


class Stillness:
    """Watches one member. Times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._heard = now
        self._looks = 0
        self._committed: Mapping[int, int] = {}

    def heard(self, now: float) -> None:
        """Something came: a message, an end of a log, partitions."""
        self._heard, self._looks = now, 0

    def is_due(self, now: float) -> bool:
        """Whether the log is to be asked."""
        return now - self._heard >= STILL_SECONDS

    def judge(self, now: float, ends: Mapping[int, tuple[int, int]], reading: Mapping[int, int]) -> str:
        """Why it is left out; empty where it is not, or not yet.

        Args:
            ends: as of `Ends`.
            reading: what is to be read next of each partition that it has and did not pause; none where it has none.
        """
        self._heard = now
        behind = sorted(partition for partition, start in reading.items() if start < ends.get(partition, (0, 0))[1])
        if behind:
            return f"nothing of partition {behind[0]} came for {STILL_SECONDS:g} s, and there is more in the log"
        committed = {partition: offset for partition, (offset, _) in ends.items()}
        waits = any(max(0, offset) < end for offset, end in ends.values())
        self._looks = self._looks + 1 if waits and committed == self._committed else int(waits)
        self._committed = committed
        if reading or self._looks <= LOOKS:
            return ""
        return f"the group gave it no partition, and did not move for {LOOKS * STILL_SECONDS:g} s, though there is more in the log"
