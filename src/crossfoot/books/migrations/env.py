"""Alembic's entry point: runs inside the one transaction that `schema.ensure` opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table="crossfoot_version")
context.run_migrations()
