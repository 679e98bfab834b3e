"""A connection of every asynchronous driver, and how it executes a statement."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import psycopg
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

Execute = Callable[[str], Awaitable[object]]
Opened = tuple[Any, Execute]
"""A connection, and how it executes a statement."""


@asynccontextmanager
async def asyncpg_connection(url: str) -> AsyncIterator[Opened]:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        yield connection, connection.execute
    finally:
        connection.terminate()


@asynccontextmanager
async def psycopg_connection(url: str) -> AsyncIterator[Opened]:
    connection = await psycopg.AsyncConnection.connect(url)
    try:
        yield connection, connection.execute
    finally:
        await connection.close()


@asynccontextmanager
async def sqlalchemy_connection(url: str) -> AsyncIterator[Opened]:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    try:
        async with engine.connect() as connection:
            yield connection, lambda text: connection.execute(sqlalchemy.text(text))
    finally:
        await engine.dispose()


@asynccontextmanager
async def sqlalchemy_session(url: str) -> AsyncIterator[Opened]:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        async with AsyncSession(engine) as session:
            yield session, lambda text: session.execute(sqlalchemy.text(text))
    finally:
        await engine.dispose()


Open = Callable[[str], AbstractAsyncContextManager[Opened]]
DRIVERS: list[Open] = [asyncpg_connection, psycopg_connection, sqlalchemy_connection, sqlalchemy_session]
