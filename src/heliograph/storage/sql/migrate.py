"""Migrate a database to the current schema with Alembic, and check that it has that schema.

The migrations are inside the package, so an installed wheel can migrate; there is no ``alembic.ini``.
Several nodes may migrate the same PostgreSQL at once: an advisory lock lets one work while the others
wait, and then they find nothing to do.

A start that finds the current schema needs no Alembic. Its import takes a sixth of a node's start, so it is
imported only when there is something to do or to refuse.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from heliograph.model.errors import SettingsError

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

MIGRATIONS = Path(__file__).parent / "migrations"

HEAD = max(file.name[1:5] for file in (MIGRATIONS / "versions").glob("v*.py"))
"""The number of the newest migration, which makes the current schema; its file's name gives the number."""

MIGRATION_LOCK = 0x48656C696F
"""The key of the advisory lock ("Helio")."""


def upgrade(engine: Engine) -> str | None:
    """Run the migrations that are missing, in one transaction.

    Returns:
        The revision that was found before; ``None`` if the database had no schema.

    Raises:
        SettingsError: The database's schema is newer than this program, or its encoding is not UTF-8.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            _require_utf8(connection)
        found = revision(connection)
        if found == HEAD:
            return found
        from alembic import command

        config = _config()
        _refuse_newer(found, _scripts(config))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return found


def check(connection: Connection) -> None:
    """Make sure that the schema is exactly this program's.

    Raises:
        SettingsError: It is missing, older or newer, or the encoding is not UTF-8; the message says what to
            do.
    """
    if connection.dialect.name == "postgresql":
        _require_utf8(connection)
    found = revision(connection)
    if found == HEAD:
        return
    _refuse_newer(found, _scripts(_config()))
    there = "no schema yet" if found is None else f"the schema {found}, and this program needs {HEAD}"
    raise SettingsError([f"storage.database_url: the database has {there}: run `heliograph migrate`"])


def _require_utf8(connection: Connection) -> None:
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise SettingsError(
            [
                f"storage.database_url: the database's encoding is {encoding}; it must be UTF8: "
                "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0 (DATABASE_URL)"
            ]
        )


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


def _scripts(config: Config) -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(config)


def revision(connection: Connection) -> str | None:
    """Return the revision of a database's schema; ``None`` if it has no schema."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def _refuse_newer(found: str | None, scripts: ScriptDirectory) -> None:
    known = {script.revision for script in scripts.walk_revisions()}
    if found is not None and found not in known:
        raise SettingsError(
            [
                f"storage: the database has the schema {found}, made by a newer heliograph: "
                "install that version"
            ]
        )
