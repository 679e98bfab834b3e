"""What alerts remember, the episodes there were, and who was told of them: the statements.

A notice is written with its episode, in one transaction, before anybody is told. Who tells it claims it first, and notes afterwards what
came of it. So a notice that is claimed and not noted is one of which nobody knows whether it was heard.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection

TURN = "alerts"
"""What those who look do one after the other."""

DECIDED, SENDING, SENT, REFUSED, IN_DOUBT, GIVEN_UP = "decided", "sending", "sent", "refused", "in doubt", "given up"
"""What may be said of a notice: to be sent; being sent; heard; not heard, and to be sent again; nobody knows; not heard, and left, a day
after its episode ended."""


class Episode(NamedTuple):
    """From when an alert fired until it was over. `told` is a JSON object."""

    number: int
    alert: str
    about: str
    opened_at: Micros
    closed_at: Micros | None
    told: str


class Notice(NamedTuple):
    """That somebody is to be told."""

    episode: int
    what: str
    target: str
    state: str
    at: Micros
    tries: int
    answer: str | None


def states(connection: Connection) -> dict[tuple[str, str], str]:
    """What is remembered, by alert and what it is about."""
    return {(row[0], row[1]): row[2] for row in connection.execute("SELECT alert, about, state FROM crossfoot_alerts")}


def remember(connection: Connection, rows: Iterable[tuple[str, str, str]]) -> None:
    connection.executemany(
        "INSERT INTO crossfoot_alerts (alert, about, state) VALUES (?, ?, ?) "
        "ON CONFLICT (alert, about) DO UPDATE SET state = excluded.state",
        list(rows),
    )


_OF_EPISODE = "number, alert, about, opened_at, closed_at, told"


def open_episode(connection: Connection, alert: str, about: str, now: Micros, told: str) -> Episode:
    """A new episode; the one that is open already, if there is one."""
    row = connection.execute(
        "INSERT INTO crossfoot_episodes (alert, about, opened_at, told) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (alert, about) WHERE closed_at IS NULL DO UPDATE SET told = excluded.told "
        f"RETURNING {_OF_EPISODE}",
        (alert, about, now, told),
    ).fetchone()
    return Episode(*row)


def retell(connection: Connection, alert: str, about: str, told: str) -> None:
    """What is told of an open episode now."""
    connection.execute(
        "UPDATE crossfoot_episodes SET told = ? WHERE alert = ? AND about = ? AND closed_at IS NULL",
        (told, alert, about),
    )


def close_episode(connection: Connection, alert: str, about: str, now: Micros) -> Episode | None:
    """It is over; `None` where none was open."""
    row = connection.execute(
        "UPDATE crossfoot_episodes SET closed_at = ? WHERE alert = ? AND about = ? AND closed_at IS NULL "
        f"RETURNING {_OF_EPISODE}",
        (now, alert, about),
    ).fetchone()
    return Episode(*row) if row else None


_OPENED, _CLOSED = "opened", "closed"

_INVITE = f"""
INSERT INTO crossfoot_notices (episode, what, target, state, at, tries)
SELECT number, '{_OPENED}', CAST(:target AS TEXT), '{DECIDED}', CAST(:now AS BIGINT), 0 FROM crossfoot_episodes WHERE closed_at IS NULL
ON CONFLICT (episode, what, target) DO NOTHING
"""

_END = f"""
INSERT INTO crossfoot_notices (episode, what, target, state, at, tries)
SELECT episode, '{_CLOSED}', target, '{DECIDED}', CAST(:now AS BIGINT), 0 FROM crossfoot_notices
WHERE episode = :episode AND what = '{_OPENED}'
ON CONFLICT (episode, what, target) DO NOTHING
"""


def decide_opened(connection: Connection, targets: Iterable[str], now: Micros) -> None:
    """Decide that they are told of every episode that is open, each once: whoever opened it may have had nobody to tell."""
    connection.executemany(_INVITE, [{"target": target, "now": now} for target in targets])


def decide_closed(connection: Connection, episode: int, now: Micros) -> None:
    """Decide that those are told that it is over who are told that it began, whoever looks now."""
    connection.execute(_END, {"episode": episode, "now": now})


_COLUMNS = "episode, what, target, state, at, tries, answer"

_WAITING = f"""
SELECT {_COLUMNS} FROM crossfoot_notices n
WHERE target = :target AND (state IN ('{DECIDED}', '{REFUSED}', '{IN_DOUBT}') AND at <= :now OR state = '{SENDING}' AND at <= :lost)
  AND (what = '{_OPENED}' OR NOT EXISTS (
    SELECT 1 FROM crossfoot_notices o WHERE o.episode = n.episode AND o.target = n.target AND o.what = '{_OPENED}'
      AND o.state NOT IN ('{SENT}', '{GIVEN_UP}')))
ORDER BY episode, what DESC
"""
"""That an episode is over is not told before it was told that it began: whoever hears them the other way round believes that it lasts."""


def waiting(connection: Connection, target: str, now: Micros, lost: Micros) -> list[Notice]:
    """Notices for a target that are to be sent by now; and those claimed before `lost`, by somebody who has died since."""
    return [Notice(*row) for row in connection.execute(_WAITING, {"target": target, "now": now, "lost": lost})]


def claim(connection: Connection, notice: Notice, now: Micros) -> bool:
    """Whether it is ours to send: nobody else has claimed it since it was read."""
    changed = connection.execute(
        "UPDATE crossfoot_notices SET state = ?, at = ?, tries = tries + 1 "
        "WHERE episode = ? AND what = ? AND target = ? AND state = ? AND tries = ?",
        (SENDING, now, notice.episode, notice.what, notice.target, notice.state, notice.tries),
    )
    return changed.rowcount == 1


def note(connection: Connection, notice: Notice, state: str, at: Micros, answer: str) -> None:
    """What came of it; `at` is when it is sent again, if it is to be."""
    connection.execute(
        "UPDATE crossfoot_notices SET state = ?, at = ?, answer = ? WHERE episode = ? AND what = ? AND target = ?",
        (state, at, answer, notice.episode, notice.what, notice.target),
    )


def episode(connection: Connection, number: int) -> Episode:
    return Episode(
        *connection.execute(
            f"SELECT {_OF_EPISODE} FROM crossfoot_episodes WHERE number = ?",
            (number,),
        ).fetchone()
    )


def episodes(connection: Connection, *, limit: int, only_open: bool = False) -> list[Episode]:
    """The newest first."""
    where = "WHERE closed_at IS NULL" if only_open else ""
    sql = f"SELECT {_OF_EPISODE} FROM crossfoot_episodes {where} ORDER BY number DESC LIMIT ?"
    return [Episode(*row) for row in connection.execute(sql, (limit,))]


def notices_of(connection: Connection, number: int) -> list[Notice]:
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM crossfoot_notices WHERE episode = ? ORDER BY what DESC, target", (number,)
    )
    return [Notice(*row) for row in rows]


LATE: Micros = 300 * SECOND
"""A notice that has waited for so long to be sent is not heard: no watch has its target any more, or none runs."""

LATELY: Micros = 7 * 86_400 * SECOND
"""So long after its end it is told that an episode was not heard of."""

_UNHEARD = f"""
SELECT n.{", n.".join(Notice._fields)}, e.alert, e.about, e.closed_at
FROM crossfoot_notices n JOIN crossfoot_episodes e ON e.number = n.episode
WHERE n.state <> '{SENT}' AND (n.state IN ('{REFUSED}', '{IN_DOUBT}', '{GIVEN_UP}') OR n.at <= :late)
  AND (e.closed_at IS NULL OR e.closed_at > :lately)
ORDER BY n.episode, n.what DESC, n.target
"""


class Unheard(NamedTuple):
    """A notice that should have been heard by now, as far as anybody knows, and what it is of."""

    notice: Notice
    alert: str
    about: str
    closed_at: Micros | None


def unheard(connection: Connection, now: Micros) -> list[Unheard]:
    """What did not reach whom it was for: of episodes that are open, or ended lately."""
    rows = connection.execute(_UNHEARD, {"late": now - LATE, "lately": now - LATELY})
    width = len(Notice._fields)
    return [Unheard(Notice(*row[:width]), *row[width:]) for row in rows]
