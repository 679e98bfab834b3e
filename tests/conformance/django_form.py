"""The suite's handlers over Django: a project of nothing but databases, one for each scene."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import django
from django.conf import settings
from django.db import connections, models
from psycopg.conninfo import conninfo_to_dict

from crossfoot.dialect import translate
from crossfoot.effects.databases.django import DjangoDatabase
from crossfoot.effects.databases.session import Database
from tests.conformance.database_rig import Form, PostgresForm, Sql

if not settings.configured:
    settings.configure(USE_TZ=True, DATABASES={})
    django.setup()

_aliases = (f"scene_{number}" for number in itertools.count())


class Effect(models.Model):  # type: ignore[misc]  # Django ships no types
    id = models.TextField(primary_key=True)
    note = models.TextField()

    class Meta:
        app_label = "billing"
        db_table = "effects"


class Taken(models.Model):  # type: ignore[misc]  # as above
    number = models.IntegerField(primary_key=True)

    class Meta:
        app_label = "billing"
        db_table = "taken"


def registered(place: str, **terms: Any) -> str:
    """An alias in `DATABASES` for a file, or the URL of a database."""
    alias = next(_aliases)
    stated = terms | ({"CONN_MAX_AGE": None} if "CONN_MAX_AGE" not in terms else {})
    if "://" not in place:
        stated |= {"ENGINE": "django.db.backends.sqlite3", "NAME": place}
    else:
        parts: dict[str, Any] = dict(conninfo_to_dict(place))
        named = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
        stated |= {key: parts.pop(name) for key, name in named.items() if name in parts}
        stated |= {"ENGINE": "django.db.backends.postgresql", "OPTIONS": parts}
    connections.databases[alias] = connections.configure_settings({"default": stated})["default"]
    return alias


class _Django:
    """What the forms on either database have in common."""

    django = True

    def address(self, place: str) -> Any:
        return connections[registered(place)]

    @asynccontextmanager
    async def database(self, place: str) -> AsyncIterator[Database]:
        yield DjangoDatabase(registered(place))


class DjangoFileForm(_Django, Form):
    def spelt(self, ask: Sql) -> tuple[str, Any]:
        return translate(ask.text).decode(), ask.parameters


class DjangoPostgresForm(_Django, PostgresForm): ...
