"""Every way to a database that the suite is asked of."""

from __future__ import annotations

from tests.conformance.database_rig import AsyncpgForm, Form, PostgresForm
from tests.conformance.django_form import DjangoFileForm, DjangoPostgresForm

FILE_FORMS = (
    Form("sqlite3", is_async=False, orm=False),
    Form("aiosqlite", is_async=True, orm=False),
    Form("sqlalchemy", is_async=False, orm=True),
    Form("sqlalchemy-async", is_async=True, orm=True),
    DjangoFileForm("django-sqlite", is_async=False, orm=False),
)
POSTGRES_FORMS = (
    PostgresForm("psycopg", is_async=False, orm=False),
    PostgresForm("psycopg-async", is_async=True, orm=False),
    PostgresForm("sqlalchemy-psycopg", is_async=False, orm=True),
    PostgresForm("sqlalchemy-psycopg-async", is_async=True, orm=True),
    AsyncpgForm("asyncpg", is_async=True, orm=False),
    AsyncpgForm("sqlalchemy-asyncpg", is_async=True, orm=True),
    DjangoPostgresForm("django", is_async=False, orm=False),
)
FORMS = (*FILE_FORMS, *POSTGRES_FORMS)
