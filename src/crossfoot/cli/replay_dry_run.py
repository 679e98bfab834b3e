"""`crossfoot replay dry-run`: what the handlers of a replay's members do, in transactions that are rolled back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import anyio
import msgspec

from crossfoot.app import Crossfoot
from crossfoot.cli.output import Cell, Output
from crossfoot.cli.reading import Progress
from crossfoot.recover.phrases import plural
from crossfoot.recover.replay.rehearsing import WELL, WOULD, Rehearsal, Rehearsed

OUTSIDE = "nothing of it was kept, moved or sent; what handlers call outside their transaction was really called"

MOST_IDS = 5


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Members of which the same came, of the same cause."""

    would: str
    cause: str | None
    title: str | None
    count: int
    ids: tuple[str, ...]


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    replay: int
    tried: int
    groups: tuple[Group, ...]
    members: tuple[Rehearsed, ...]

    @property
    def well(self) -> bool:
        return all(group.would in WELL for group in self.groups)


def rehearsed(service: Crossfoot, number: int, most: int | None, rate: float) -> DryRun:
    """Try them, and show how far it is."""
    progress = Progress("dry run", "members")

    async def run() -> list[Rehearsed]:
        try:
            rehearsal = Rehearsal(
                service.book, service.queue.name, service.registry, service.database, most=most, rate=rate
            )
            return await rehearsal.run(number, progress)
        finally:
            await service.aclose()

    try:
        members = anyio.run(run)
    finally:
        progress.close()
    return DryRun(replay=number, tried=len(members), groups=_groups(members), members=tuple(members))


def _groups(members: Sequence[Rehearsed]) -> tuple[Group, ...]:
    counts = Counter((one.would, one.cause, one.title) for one in members)
    found = [
        Group(
            would=would, cause=cause, title=title, count=count,
            ids=tuple(one.id for one in members if (one.would, one.cause, one.title) == (would, cause, title))[:MOST_IDS],
        )
        for (would, cause, title), count in counts.items()
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda group: (WOULD.index(group.would), -group.count)))


def show_dry_run(out: Output, told: DryRun) -> None:
    """By what came of them, with ids."""
    out.heading(
        f"DRY RUN OF REPLAY {told.replay}", f"{plural(told.tried, 'member')} tried", [OUTSIDE],
        style="green" if told.well else "yellow",
    )  # fmt: skip
    out.gap()
    rows: list[list[Cell]] = [
        [
            f"{group.count:,}", group.would if group.would in WELL else (group.would, "red"), group.cause or "", group.title or "",
            " ".join(group.ids[:2]) + (" ..." if group.count > 2 else ""),
        ]
        for group in told.groups
    ]  # fmt: skip
    out.table((">members", "handler", "cause", "", "ids"), rows)
