"""Which messages a replay is about: by how they ended, and why, or by name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import msgspec

from crossfoot.books import replays
from crossfoot.books.fate import Fate
from crossfoot.books.identity import CAME_TO_NOTHING
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.errors import UsageError

FATES = {fate.label: fate for fate in CAME_TO_NOTHING}
"""What can be selected by fate: messages that came to nothing."""

ALWAYS: Micros = 2**62
"""Later than any time there is."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Every condition that is stated must hold.

    Attributes:
        fates: by name, of `FATES`.
        causes: fingerprints of the latest failure.
        since, until: when it ended, by its last entry; microseconds since the epoch.
        ids: instead of all of these, messages by id, however they stand.
    """

    fates: tuple[str, ...] = (Fate.DEAD.label,)
    causes: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    since: Micros | None = None
    until: Micros | None = None
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for fate in self.fates:
            if fate not in FATES:
                near = get_close_matches(fate, FATES, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(FATES)}"
                raise UsageError(f"no message can be replayed by the fate {fate!r}: {hint}")
        if not self.fates and not self.ids:
            raise UsageError("a replay needs a fate or a list of ids: name what it is about")
        if self.ids and (
            self.causes or self.types or self.subjects or self.since is not None or self.until is not None
        ):
            raise UsageError("a list of ids says which messages are meant: leave out the other conditions")

    def told(self) -> str:
        """In words, for people."""
        if self.ids:
            return f"{len(self.ids):,} ids"
        parts = [" or ".join(self.fates)]
        for name, values in (("cause", self.causes), ("type", self.types), ("subject", self.subjects)):
            parts += [f"{name} {' or '.join(values)}"] if values else []
        return ", ".join(parts)

    def kept(self, horizon: float | None = None, forgotten: Micros = 0) -> str:
        """As the book keeps it, with the horizon of the plan, and before which time operation keys were forgotten by then. Ids are not
        repeated there: they are the members."""
        document: dict[str, Any] = {"ids": len(self.ids)} if self.ids else msgspec.to_builtins(self)
        document["horizon"] = horizon
        document["forgotten"] = forgotten
        return msgspec.json.encode(document).decode()


def select(connection: Connection, queue: str, selection: Selection) -> tuple[list[int], list[str]]:
    """Keys of the messages that are meant, in the order of publication, as of the posting; and ids that the book does not know."""
    if selection.ids:
        return _by_ids(connection, queue, selection.ids)
    times = selection.since is not None or selection.until is not None
    statement = replays.select_statement(
        fates=len(selection.fates), causes=len(selection.causes), types=len(selection.types),
        subjects=len(selection.subjects), times=times,
    )  # fmt: skip
    until = ALWAYS if selection.until is None else selection.until
    parameters = [
        queue, *(int(FATES[fate]) for fate in selection.fates), *selection.types, *selection.subjects, *selection.causes,
        *((selection.since or 0, until) if times else ()),
    ]  # fmt: skip
    return [int(key) for (key,) in connection.execute(statement, parameters)], []


def _by_ids(connection: Connection, queue: str, ids: Sequence[str]) -> tuple[list[int], list[str]]:
    wanted = list(dict.fromkeys(ids))
    asked = msgspec.json.encode(wanted).decode()
    rows = connection.execute(replays.BY_IDS, {"ids": asked, "queue": queue}).fetchall()
    known = {id_ for _, id_ in rows}
    return sorted({int(key) for key, _ in rows}), [id_ for id_ in wanted if id_ not in known]
