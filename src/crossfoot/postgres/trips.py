"""Crossfoot's own statements on a connection, several of them in one trip to the server.

By way of a cursor each statement costs a trip of its own, and more of the interpreter's time than all else that a message
needs. Here they are handed to libpq as they are, prepared, in its pipeline mode, with one end behind all of them. The server does
them in that order; after an error it passes over those that follow, a COMMIT among them.

Handlers' statements go their own way, over cursors of psycopg's, between two trips; but for those that a batch keeps until all of its
handlers have returned (`effects/databases/psycopg_later.py`), which are handed over as psycopg converts them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import psycopg
from psycopg import pq
from psycopg.abc import AdaptContext, PQGen
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq.abc import PGresult
from psycopg.waiting import Ready, Wait

from crossfoot.postgres.connecting import PREPARED_AFTER

Trip = PQGen[list[PGresult]]
"""For the connection's `wait`. Its result: one for each statement."""

FORGOTTEN = "26000"
"""The state of the error that something prepared is not there."""

MOST_PREPARED = 200
"""Statements of handlers that are prepared on one connection; further ones are sent as they are. A server keeps what it prepares."""

Parameters = list[bytes | None]


class Said(NamedTuple):
    """A statement with its parameters; where psycopg converted them, with their types and formats."""

    statement: bytes
    parameters: Sequence[Any] | None
    types: tuple[int, ...] | None = None
    formats: Sequence[Any] | None = None

    @property
    def name(self) -> bytes | tuple[bytes, tuple[int, ...]]:
        """What it is prepared by: one text is another statement with parameters of other types."""
        return self.statement if self.types is None else (self.statement, self.types)


_SIGN = re.compile(rb"%(.)", re.DOTALL)


class Speaking:
    """A connection of psycopg's on which trips are made, too."""

    trips: Trips

    def _deallocate(self, name: bytes | None) -> Any:
        """What psycopg calls, after a rollback for instance: with `None` it has the server forget ours, too."""
        if name is None:
            self.trips.prepare_anew()
        return super()._deallocate(name)  # type: ignore[misc]  # of the connection that this is mixed into


class Trips:
    """What is to be said to the server, and what it answered.

    Args:
        raw: the connection. Between trips it is psycopg's, and not in pipeline mode.
    """

    def __init__(self, raw: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
        self._pgconn = raw.pgconn
        # Behind a pooler nothing is prepared, and what it makes of a pipeline is not known.
        self._possible = psycopg.Pipeline.is_supported() and raw.prepare_threshold is not None
        self.waiting: list[Said] = []
        """What was said and has not been sent."""
        self._uses: dict[Any, int] = {}
        self._names: dict[Any, bytes] = {}
        self._numbers = itertools.count()

    @property
    def possible(self) -> bool:
        """Whether the connection can be spoken to in this way; the handler may have changed its encoding."""
        return self._possible and self._pgconn.parameter_status(b"client_encoding") == b"UTF8"

    def say(self, statement: bytes, rows: Sequence[Sequence[Any]] = ((),)) -> bool:
        """Have a statement sent with the next trip, once for each row of parameters.

        Args:
            statement: with `%s` for its parameters.

        Returns:
            Whether it can be: not with parameters other than text, integers and NULL, and lists of these.
        """
        dumped = [_dumped(row) for row in rows]
        if not self.possible or not all(one is not None for one in dumped):
            return False
        text = _numbered(statement)
        self.waiting += [Said(text, one) for one in dumped if one is not None]
        return True

    def say_converted(
        self, statement: bytes, parameters: Sequence[Any] | None, types: tuple[int, ...], formats: Any
    ) -> int:
        """Have a handler's statement sent with the next trip, as psycopg converts it. Returns the number of its answer."""
        self.waiting.append(Said(statement, parameters, types, formats))
        return len(self.waiting) - 1

    def forget(self) -> None:
        """Nothing of what waits is to be said any more."""
        self.waiting = []

    def prepare_anew(self) -> None:
        """The server was told to forget what was prepared."""
        self._names.clear()

    def send(self, must: int | None = None) -> Trip:
        """Send what waits, and read the answers.

        Args:
            must: how many statements must succeed; of the others an error is an answer, the last. All, if it is not said.

        Raises:
            psycopg.Error: the first error of the server, of what must succeed, or of the connection.
        """
        said, self.waiting = self.waiting, []
        pgconn = self._pgconn
        pgconn.enter_pipeline_mode()
        try:
            naming = self._hand_over(said)
            while pgconn.flush():
                if (yield Wait.RW) & Ready.R:
                    pgconn.consume_input()
            results = yield from self._answers()
        finally:
            self._leave()
        told: list[PGresult] = []
        for result, (prepared, name) in zip(results, naming, strict=False):
            if result.status == pq.ExecStatus.FATAL_ERROR:
                error = error_from_result(result)
                if error.sqlstate == FORGOTTEN:
                    self.prepare_anew()
                if must is None or len(told) < must:
                    raise error
                return [*told, result]
            if prepared is None:
                told.append(result)
            else:
                self._names[prepared] = name
        return told

    def _hand_over(self, said: Sequence[Said]) -> list[tuple[Any, bytes]]:
        """Give all to libpq. Returns, for each answer to come, the statement that it prepares and its name, if it does that."""
        pgconn = self._pgconn
        naming: list[tuple[Any, bytes]] = []
        names = dict(self._names)
        for one in said:
            name = names.get(one.name)
            if name is None and self._is_worth_it(one):
                name = names[one.name] = b"crossfoot_%d" % next(self._numbers)
                pgconn.send_prepare(name, one.statement, param_types=one.types)
                naming.append((one.name, name))
            if name is None:
                pgconn.send_query_params(
                    one.statement, one.parameters, param_types=one.types, param_formats=one.formats
                )
            else:
                pgconn.send_query_prepared(name, one.parameters, param_formats=one.formats)
            naming.append((None, b""))
        pgconn.pipeline_sync()
        return naming

    def _is_worth_it(self, said: Said) -> bool:
        """Whether it comes so often that it is to be prepared."""
        if said.types is not None and said.name not in self._uses and len(self._uses) >= MOST_PREPARED:
            return False
        uses = self._uses[said.name] = self._uses.get(said.name, 0) + 1
        return uses > PREPARED_AFTER

    def _answers(self) -> Trip:
        pgconn = self._pgconn
        results: list[PGresult] = []
        try:
            while True:
                while pgconn.is_busy():
                    while not (yield Wait.R):
                        pass
                    pgconn.consume_input()
                result = pgconn.get_result()
                if result is not None:
                    if result.status == pq.ExecStatus.PIPELINE_SYNC:
                        return results
                    results.append(result)
                elif pgconn.status == pq.ConnStatus.BAD:
                    raise psycopg.OperationalError("the connection is lost")
        except psycopg.OperationalError:
            if any(result.status == pq.ExecStatus.FATAL_ERROR for result in results):
                return results  # the server said why, before it hung up
            raise

    def _leave(self) -> None:
        try:
            self._pgconn.exit_pipeline_mode()
        except psycopg.Error:  # answers are on their way that nobody waits for
            with suppress(psycopg.Error):
                self._pgconn.finish()


def rows_changed(results: Sequence[PGresult]) -> int:
    """By all of them."""
    return sum(result.command_tuples or 0 for result in results)


def rows_of(result: PGresult, context: AdaptContext) -> list[tuple[Any, ...]]:
    """The rows of an answer, read as a cursor of that context would."""
    reader = Transformer(context)
    reader.set_pgresult(result)
    return reader.load_rows(0, result.ntuples, tuple)


def _dumped(row: Sequence[Any]) -> Parameters | None:
    """Parameters as the server reads them, `None` if one is of another kind."""
    dumped: Parameters = []
    for value in row:
        kind = type(value)
        if kind is int:
            dumped.append(b"%d" % value)
        elif value is None:
            dumped.append(None)
        else:
            text = value if kind is str else _as_array(value) if kind is list else None
            if text is None or "\0" in text:
                return None
            try:
                dumped.append(text.encode())
            except UnicodeEncodeError:  # psycopg says what is wrong with it
                return None
    return dumped


def _as_array(values: Sequence[Any]) -> str | None:
    """A list as the server reads one, `None` if a value is of another kind."""
    parts = []
    for value in values:
        kind = type(value)
        if kind is int:
            parts.append(str(value))
        elif value is None:
            parts.append("NULL")
        elif kind is str:
            parts.append('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"')
        else:
            return None
    return "{" + ",".join(parts) + "}"


@lru_cache(maxsize=1024)
def _numbered(statement: bytes) -> bytes:
    """With `$1`, `$2`, ... for its parameters, as the server counts them."""
    count = 0

    def number(sign: re.Match[bytes]) -> bytes:
        nonlocal count
        if sign[1] == b"%":
            return b"%"
        assert sign[1] == b"s", f"parameters that have names are not for a trip: {statement!r}"
        count += 1
        return b"$%d" % count

    return _SIGN.sub(number, statement)
