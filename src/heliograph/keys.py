"""``heliograph keys``: the API keys in the vault, which is in the data folder or in the database.

The commands work on the storage itself, not through a service: the first key can be made before a service
runs, and a running service notices changes within a second.
"""

from __future__ import annotations

import getpass
import re
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import attrs
import click
import orjson
from rich.console import Console
from rich.table import Table

from heliograph.config import Settings, load
from heliograph.model.errors import Invalid, SettingsError, Unavailable
from heliograph.model.keys import PREFIX, StoredKey, make_key, stored_keys
from heliograph.model.settings import SCOPES, Quota
from heliograph.storage.embedded.upkeep import changing as changing_folder
from heliograph.storage.sql.vault import OpenVault

REFUSED, WRONG, UNREACHABLE = 1, 2, 3
MOST = 10_000
"""The most keys, including revoked ones: every node reads all of them twice a second."""

_DURATION = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

_config_option = click.option(
    "--config", "file", type=click.Path(path_type=Path), help="Settings; by default config.toml."
)


@click.group("keys")
def keys_command() -> None:
    """Make, list and revoke API keys, while the service runs."""


class Expiry(click.ParamType[float]):
    """A moment: a time from now, or a date or time in ISO 8601."""

    name = "when"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the moment in seconds since the epoch."""
        if duration := _DURATION.fullmatch(value):
            return time.time() + int(duration[1]) * _SECONDS[duration[2]]
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither a time such as 2030-01-31T12:00Z nor so much as 12h or 30d")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@keys_command.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    default=("read", "publish"),
    help="What it may do; repeatable.",
)
@click.option(
    "--channel", "channels", multiple=True, help="What it may read and publish; repeatable. By default all."
)
@click.option("--expires", type=Expiry(), help="30d, 12h, or a date. By default never.")
@click.option("--requests", type=click.IntRange(0), default=0, help="Requests a minute; 0: no limit.")
@click.option("--events", type=click.IntRange(0), default=0, help="Events published a minute.")
@click.option("--bytes", "size", type=click.IntRange(0), default=0, help="Bytes of bodies sent a minute.")
@click.option("--tasks", type=click.IntRange(0), default=0, help="Tasks under way at once.")
@_config_option
def add(
    name: str,
    scopes: tuple[str, ...],
    channels: tuple[str, ...],
    expires: float | None,
    requests: int,
    events: int,
    size: int,
    tasks: int,
    file: Path | None,
) -> None:
    """Make the key NAME and print it: it is shown only this once, and only its hash is kept."""
    settings = _settings(file)
    if any(key.name == name for key in settings.auth.keys):
        _refuse(f"the settings have a key {name} already")
    try:
        quota = Quota(requests, events, size, tasks)
        secret, key = make_key(
            name,
            tuple(dict.fromkeys(scopes)),
            channels,
            time.time(),
            _whoami(),
            expires,
            None if quota == Quota() else quota,
        )
    except Invalid as error:
        _say(*(f"{one.field}: {one.detail}" for one in error.errors))
        sys.exit(WRONG)
    except ValueError as error:
        _say(str(error))
        sys.exit(WRONG)
    with _changing(settings) as vault:
        if len(stored_keys(vault.secrets())[0]) >= MOST:
            _refuse(f"there are {MOST} keys, which is the most")
        if not vault.add(PREFIX + name, key.to_text()):
            _refuse(f"there is, or was, a key {name}: a name is given once")
    _say(f"this is the key {name}; it is not shown again")
    click.echo(secret)


@keys_command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@_config_option
def list_(as_json: bool, file: Path | None) -> None:
    """List the keys that are kept and those of the settings, without the keys' texts."""
    settings = _settings(file)
    with _changing(settings) as vault:
        kept, broken = stored_keys(vault.secrets())
    now = time.time()
    if as_json:
        for key in _by_age(kept.values()):
            row = attrs.asdict(key, filter=lambda field, _: field.name != "sha256")
            click.echo(orjson.dumps({**row, "state": key.state(now)}))
    else:
        table = Table("name", "scopes", "channels", "made", "expires", "state", box=None)
        for configured in settings.auth.keys:
            channels = " ".join(configured.channels) or "all"
            table.add_row(configured.name, "+".join(configured.scopes), channels, "settings", "", "active")
        for key in _by_age(kept.values()):
            made = f"{_moment(key.made_at)} by {key.made_by}"
            state: str = key.state(now)
            if state == "revoked":
                state += f" {_moment(key.revoked_at)} by {key.revoked_by}"
            channels = " ".join(key.channels) or "all"
            table.add_row(
                key.name, "+".join(key.scopes), channels, made, _moment(key.expires_at) or "never", state
            )
        Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
    for name in sorted(broken):
        _say(f"what is kept as the key {name} can't be read; it lets nobody in")


@keys_command.command("revoke")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@_config_option
def revoke(names: tuple[str, ...], file: Path | None) -> None:
    """Revoke keys for good: within a second their streams end, and their tickets and sessions are refused."""
    settings = _settings(file)
    with _changing(settings) as vault:
        kept, _ = stored_keys(vault.secrets())
        for name in names:
            if name not in kept:
                configured = any(key.name == name for key in settings.auth.keys)
                where = (
                    "it stands in the settings: take it out there" if configured else "heliograph keys list"
                )
                _refuse(f"no key {name} is kept ({where}); none was revoked")
        for name in names:
            if kept[name].revoked_at is None:
                revoked = attrs.evolve(kept[name], revoked_at=time.time(), revoked_by=_whoami())
                vault.keep(PREFIX + name, revoked.to_text())
    _say(*(f"{name} is revoked" for name in names))


def _by_age(keys: Iterable[StoredKey]) -> list[StoredKey]:
    return sorted(keys, key=lambda key: key.made_at)


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}Z"


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


@contextmanager
def _changing(settings: Settings) -> Iterator[OpenVault]:
    """Open the secrets that the settings name, in one transaction."""
    where = settings.storage
    opened: AbstractContextManager[OpenVault]
    if where.database_url is None:
        opened = changing_folder(where.data)
    else:
        from heliograph.storage.distributed.form import changing as changing_postgres

        opened = changing_postgres(where.database_url)
    try:
        with opened as vault:
            yield vault
    except SettingsError as error:
        _say(*error.problems)
        sys.exit(WRONG)
    except Unavailable as error:
        _say(str(error))
        sys.exit(UNREACHABLE)


def _settings(file: Path | None) -> Settings:
    try:
        return load(file)
    except SettingsError as error:
        _say(*error.problems)
        sys.exit(WRONG)


def _refuse(sentence: str) -> NoReturn:
    _say(sentence)
    sys.exit(REFUSED)


def _say(*sentences: str) -> None:
    for sentence in sentences:
        click.echo(f"heliograph: {sentence}", err=True)
