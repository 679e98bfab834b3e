"""`crossfoot check` on services that it was not made with: each ill one told first and by exact ids, and nothing of those that are well."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import msgspec
import pytest

from crossfoot import Crossfoot
from crossfoot.queues.redis import ensure
from tests.acceptance.incidents import TABLE, Expected, Town
from tests.acceptance.town import checked, first_is
from tests.acceptance.variations import (
    ASYNCHRONOUS,
    VARIATIONS,
    WELL,
    a_batch_of_two_types,
    a_key_that_names_the_message,
    a_lookup_that_logs_and_goes_on,
    a_report_that_blocks_the_loop,
    half_of_the_handlers,
    letters_that_are_too_large,
    nothing_to_do,
    one_that_others_wait_for_in_order,
    priorities_and_what_waits,
    retries_and_several_workers,
    the_plural_again,
    two_handlers_and_the_last_write,
)
from tests.servers.valkey import Valkey

pytest_plugins = [
    "tests.acceptance.town_fixtures", "tests.servers.postgres_fixtures", "tests.servers.valkey_fixtures",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("clean_environment")

IN_STREAMS = (
    a_lookup_that_logs_and_goes_on, a_batch_of_two_types, half_of_the_handlers, a_key_that_names_the_message,
    two_handlers_and_the_last_write, a_report_that_blocks_the_loop, letters_that_are_too_large, the_plural_again,
    one_that_others_wait_for_in_order,
)  # fmt: skip
IN_POSTGRESQL = [one for one in VARIATIONS if one.__name__ not in ASYNCHRONOUS]


@pytest.mark.parametrize("incident", VARIATIONS, ids=lambda incident: incident.__name__)
def test_the_shape_is_told_first_and_by_exact_ids(incident: Callable[[Town], Expected], in_a_file: Town) -> None:
    expected = incident(in_a_file)

    first_is(checked(expected.of), expected)


@pytest.mark.parametrize("service", WELL, ids=lambda service: service.__name__)
def test_of_those_that_are_well_nothing_is_said(service: Callable[[Town], Crossfoot], in_a_file: Town) -> None:
    assert [(one.code, one.text) for one in checked(service(in_a_file)).findings] == []


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize("incident", IN_POSTGRESQL, ids=lambda incident: incident.__name__)
def test_so_it_is_in_postgresql(incident: Callable[[Town], Expected], in_postgres: Town) -> None:
    expected = incident(in_postgres)

    first_is(checked(expected.of), expected)


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize("service", WELL, ids=lambda service: service.__name__)
def test_and_nothing_is_said_in_postgresql(service: Callable[[Town], Crossfoot], in_postgres: Town) -> None:
    assert [(one.code, one.text) for one in checked(service(in_postgres)).findings] == []


class Streams(Town):
    """The book in a file, and each queue a stream of its own."""

    def __init__(self, database: str, url: str) -> None:
        super().__init__(database)
        self.url = url
        self.streams: dict[str, str] = {}

    def service(self, name: str = "billing", **settings: Any) -> Crossfoot:
        wanted = settings.pop("queue", f"embedded:{name}").partition(":")[2]
        if wanted not in self.streams:
            self.streams[wanted] = anyio.run(partial(ensure, f"{wanted}-{uuid4().hex[:8]}", url=self.url))
        return super().service(name, queue=f"redis:{self.streams[wanted]}", endpoint=self.url, **settings)


@pytest.fixture
def in_streams(valkey: Valkey, tmp_path: Path) -> Iterator[Town]:
    with closing(sqlite3.connect(tmp_path / "town.db")) as connection:
        connection.execute(TABLE)
    with closing(Streams(str(tmp_path / "town.db"), valkey.url)) as town:
        yield town


def of_messages(app: Crossfoot) -> list[tuple[str, str]]:
    """What is found of messages, and not of how a server of the tests is set."""
    return [(one.code, one.text) for one in checked(app).findings if one.code != "setting"]


@pytest.mark.server
@pytest.mark.xdist_group("valkey")
@pytest.mark.parametrize("incident", IN_STREAMS, ids=lambda incident: incident.__name__)
def test_so_it_is_in_streams(incident: Callable[[Town], Expected], in_streams: Town) -> None:
    expected = incident(in_streams)

    first_is(checked(expected.of), msgspec.structs.replace(expected, words=()))


@pytest.mark.server
@pytest.mark.xdist_group("valkey")
@pytest.mark.parametrize(
    "service",
    [retries_and_several_workers, priorities_and_what_waits, nothing_to_do],
    ids=lambda service: service.__name__,
)
def test_and_nothing_is_said_in_streams(service: Callable[[Town], Crossfoot], in_streams: Town) -> None:
    assert of_messages(service(in_streams)) == []
