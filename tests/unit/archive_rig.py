"""A book with messages of every fate, and its archive, in either database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossfoot.books.archive import parquet
from crossfoot.books.archive.check import Checked, check
from crossfoot.books.archive.close import Closed, close
from crossfoot.books.archive.folder import PAYLOADS, Folder
from crossfoot.books.archive.past import past_of
from crossfoot.books.balance import Balance
from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.books.verify import Verification, verify
from crossfoot.clock import SECOND
from crossfoot.recover.lookup import Found, look_up
from tests.unit.book_rig import CAUSE, Lectern, Step

HAPPY: tuple[Step, ...] = (
    (Kind.INTENDED, 0), (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.COMMITTED, 1, {"details": {"rows": 1}}), (Kind.ACKED, 1),
)  # fmt: skip
PATHS: dict[str, tuple[Step, ...]] = {
    "settled": HAPPY,
    "noop": ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.NOOP, 1, {"details": {"reason": "nothing"}}), (Kind.ACKED, 1)),
    "superseded": ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.SUPERSEDED, 1), (Kind.ACKED, 1)),
    "duplicate": ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.SUPPRESSED, 1), (Kind.ACKED, 1)),
    "retried": (
        (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1, {"cause": CAUSE.fingerprint}), (Kind.RECEIVED, 2),
        (Kind.COMMITTED, 2, {"details": {"rows": 2}}), (Kind.ACKED, 2),
    ),
    "dead": (
        (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1, {"cause": CAUSE.fingerprint}),
        (Kind.DEAD_LETTERED, 1, {"cause": CAUSE.fingerprint}),
    ),
    "expired": ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.EXPIRED, 1), (Kind.ACKED, 1)),
}  # fmt: skip
"""What has ended, by what it is called."""

FINAL = ("settled", "noop", "superseded", "duplicate", "retried")
"""Those that the archive takes."""

MINUTE = 60 * SECOND


class Shelf:
    """A book and its archive."""

    def __init__(self, place: Path | str, folder: Path) -> None:
        self.desk = Lectern(place)
        self.folder = Folder(folder)
        self.place = str(place)
        self.named: list[str] = []

    def fill(self, rounds: int = 3, *, prefix: str = "", **attributes: Any) -> None:
        """Some messages of each end, a minute apart, and posted."""
        for number in range(rounds):
            for name, steps in PATHS.items():
                id_ = f"{prefix}{name}-{number}"
                self.add(id_, *steps, **attributes)
            self.desk.clock.advance(60)
        post_all(self.desk.book)

    def add(self, id_: str, *steps: Step, **attributes: Any) -> None:
        told = {
            "subject": f"case-{id_}",
            "correlation": f"flow-{id_}",
            "body": f'{{"data":"secret of {id_}"}}'.encode(),
        }
        self.desk.story(id_, *steps, **(told | attributes))
        kinds = [kind for kind, *_ in steps]
        for kind in (Kind.COMMITTED, Kind.NOOP):
            if kind in kinds:
                self.desk.complete(f"bill:{id_}", id_, kind)
        self.named.append(id_)

    def newest(self) -> None:
        """A message that stays, whatever is closed."""
        self.newest_is("newest")

    def newest_is(self, name: str) -> None:
        self.desk.clock.advance(120)
        self.add(name, (Kind.PUBLISHED, 0, {"due": self.desk.now}))
        post_all(self.desk.book)

    def close(self, **options: Any) -> Closed:
        given = {"horizon": 0} | options
        return close(self.desk.book, self.folder, given.pop("before", self.desk.now), **given)

    def balance(self) -> Balance:
        return self.desk.balance(depth_of=None)

    def verify(self) -> Verification:
        post_all(self.desk.book)
        with self.desk.book.reading() as connection:
            return verify(connection, self.desk.now)

    def check(self) -> Checked:
        with self.desk.book.reading() as connection:
            return check(connection, self.folder)

    def why(self, name: str, **options: Any) -> Found:
        with self.desk.book.reading() as connection:
            past = past_of(self.place, str(self.folder.path))
            return look_up(connection, name, self.desk.now, past=past, **options)

    def fates(self) -> dict[str, str]:
        """Of everything, by asking for it."""
        return {name: found.page.fate if (found := self.why(name)).page else "?" for name in self.named}

    def hot(self) -> list[str]:
        """Ids of the messages in the book."""
        with self.desk.book.reading() as connection:
            return [row[0] for row in connection.execute("SELECT id FROM crossfoot_messages ORDER BY key")]

    def everything_carried(self) -> bytes:
        """All payloads there are, in the archive and in the book."""
        keys = range(1, 1_000_000)
        found = [parquet.bodies_of(path, keys) for path in sorted(self.folder.path.glob(f"*{PAYLOADS}"))]
        with self.desk.book.reading() as connection:
            rows = connection.execute("SELECT body FROM crossfoot_messages WHERE body IS NOT NULL").fetchall()
        return b"".join([*(body for one in found for body in one.values() if body), *(row[0] for row in rows)])

    def one(self, statement: str, *parameters: Any) -> Any:
        with self.desk.book.reading() as connection:
            return connection.execute(statement, parameters).fetchone()[0]


Make = Callable[[], Shelf]


def told(balance: Balance) -> dict[str, Any]:
    """What a balance says, whichever time it was drawn up."""
    return {
        "fates": balance.fates, "published": balance.published, "unaccounted": balance.unaccounted, "boundaries": balance.boundaries,
        "problems": balance.problems, "identities": {name: one.holds for name, one in balance.identities.items()},
    }  # fmt: skip
