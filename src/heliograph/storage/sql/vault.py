"""Secrets that are set over HTTP: they are in the database and in no event, so no stream shows one."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Column, Connection, Table, Text, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from heliograph.storage.sql.database import Database
from heliograph.storage.sql.prepared import upsert
from heliograph.storage.sql.schema import metadata

secrets = Table(
    "secrets", metadata, Column("name", Text, primary_key=True), Column("value", Text, nullable=False)
)


class SqlVault:
    """Keeps secrets in a database; implements ``protocols.Vault``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def secrets(self) -> Mapping[str, str]:
        """Return all secrets by name."""
        return await self._database.read(_read)

    async def keep(self, name: str, secret: str | None) -> None:
        """Keep a secret; ``None`` removes it."""
        await self._database.write(_write, name, secret)


def _read(connection: Connection) -> Mapping[str, str]:
    found = connection.execute(select(secrets.c.name, secrets.c.value))
    return {row.name: row.value for row in found}


def _write(connection: Connection, name: str, secret: str | None) -> None:
    if secret is None:
        connection.execute(delete(secrets).where(secrets.c.name == name))
    else:
        upsert(connection, secrets, [{"name": name, "value": secret}])


class OpenVault:
    """The secrets within one transaction, for commands that work beside a service."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def secrets(self) -> Mapping[str, str]:
        """Return all secrets by name."""
        return _read(self._connection)

    def keep(self, name: str, secret: str) -> None:
        """Keep a secret."""
        _write(self._connection, name, secret)

    def add(self, name: str, secret: str) -> bool:
        """Keep a secret unless there is one of that name; tell whether it was kept."""
        dialect = postgresql if self._connection.dialect.name == "postgresql" else sqlite
        made = dialect.insert(secrets).values(name=name, value=secret).on_conflict_do_nothing()
        return self._connection.execute(made.returning(secrets.c.name)).first() is not None
