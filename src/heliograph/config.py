"""Settings: defaults, then ``config.toml``, then the environment; strict, and frozen once read.

A wrong or unknown key is answered by its path and what would be right. No other module reads the
environment or the file.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from ipaddress import ip_address
from pathlib import Path
from typing import Any, get_args, get_origin

import attrs
import cattrs
from attrs import validators

from heliograph.model.channels import CHANNEL_HELP, is_channel, is_pattern
from heliograph.model.errors import SettingsError
from heliograph.model.prices import Price
from heliograph.model.settings import RetentionSettings, number
from heliograph.storage.settings import PostgresSettings, RedisSettings

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
SCOPES = ("read", "publish", "admin")
KEYS_HELP = "write key, name:key or name:key:scope+scope, separated by commas"
KIB = 1024
MIB = 1024 * KIB


def is_loopback(host: str) -> bool:
    """Tell whether a host's name or address is this machine's own, whatever a name server says."""
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _upper(text: str) -> str:
    return text.upper()


@attrs.frozen
class ServerSettings:
    """The listener and HTTP."""

    host: str = "127.0.0.1"
    port: int = number(5000, 0, 65535)
    backlog: int = number(4096, 1, 65535)
    cors_origins: tuple[str, ...] = ()
    max_request_bytes: int = number(32 * MIB, KIB, 1024 * MIB)
    write_timeout: float = number(30.0, 0.1, 3600)
    idle_timeout: float = number(60.0, 0.1, 3600)
    drain_seconds: float = number(1.0, 0, 600)


@attrs.frozen
class StorageSettings:
    """Where the log and the store are; without URLs the embedded SQLite in the folder ``data``."""

    data: Path = Path("heliograph-data")
    database_url: str | None = None
    redis_url: str | None = None


@attrs.frozen
class EventSettings:
    """What is taken from publishers."""

    max_bytes: int = number(1 * MIB, KIB, 64 * MIB)
    key_ttl_seconds: int = number(86400, 1, 30 * 86400)
    max_per_request: int = number(20_000, 1, 100_000)
    append_queue: int = number(1024, 1, 100_000)


@attrs.frozen
class StreamSettings:
    """Every promise of the streams that has a number."""

    flush_ms: float = number(20.0, 0, 1000)
    pending_bytes: int = number(1 * MIB, 4 * KIB, 256 * MIB)
    ring_events: int = number(1024, 1, 1_000_000)
    ring_bytes: int = number(2 * MIB, KIB, 1024 * MIB)
    ring_total_bytes: int = number(256 * MIB, KIB, 64 * 1024 * MIB)
    linger_seconds: float = number(10.0, 0, 3600)
    keepalive_seconds: float = number(30.0, 0.05, 3600)
    stall_seconds: float = number(30.0, 0.05, 3600)
    pong_seconds: float = number(20.0, 0.05, 3600)
    rotate_seconds: float = number(300.0, 0.05, 86400)
    first_message_seconds: float = number(30.0, 0.05, 3600)
    max_message_bytes: int = number(64 * KIB, 256, 16 * MIB)
    max_channels: int = number(256, 1, 100_000)
    max_streams: int = number(50_000, 1, 1_000_000)
    max_streams_per_key: int = number(20_000, 1, 1_000_000)


@attrs.frozen
class LogSettings:
    """What the service says of itself."""

    level: str = attrs.field(default="INFO", validator=validators.in_(LOG_LEVELS), converter=_upper)


def _selector(_: object, __: object, text: str) -> None:
    if not (is_channel(text) or is_pattern(text)):
        raise ValueError(f"{text!r} is not a channel ({CHANNEL_HELP}) nor a pattern (task:*, …, *)")


def _distinct_names(_: object, __: object, keys: tuple[KeySettings, ...]) -> None:
    """Refuse a name for several keys: a ticket carries only the name, and would give rights of another."""
    names = [key.name for key in keys]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"several keys are named {name!r}; give each a name of its own")


@attrs.frozen
class KeySettings:
    """One API key, kept as the SHA-256 of its text.

    Args:
        name: Shown in logs and counters.
        sha256: Hex digest of the key.
        scopes: Some of ``read``, ``publish``, ``admin``.
        channels: Selectors that the key may read and publish; empty: all.
    """

    name: str
    sha256: str = attrs.field(validator=validators.matches_re(r"[0-9a-f]{64}"))
    scopes: tuple[str, ...] = attrs.field(
        default=("read", "publish"), validator=validators.deep_iterable(validators.in_(SCOPES))
    )
    channels: tuple[str, ...] = attrs.field(default=(), validator=validators.deep_iterable(_selector))


@attrs.frozen
class AuthSettings:
    """Who may do what; without keys only loopback is served."""

    keys: tuple[KeySettings, ...] = attrs.field(default=(), validator=_distinct_names)
    ticket_seconds: float = number(60.0, 1, 3600)


@attrs.frozen
class Settings:
    """Everything that can be set, by section."""

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    redis: RedisSettings = attrs.field(factory=RedisSettings)
    postgres: PostgresSettings = attrs.field(factory=PostgresSettings)
    retention: RetentionSettings = attrs.field(factory=RetentionSettings)
    events: EventSettings = EventSettings()
    streams: StreamSettings = StreamSettings()
    log: LogSettings = LogSettings()
    auth: AuthSettings = AuthSettings()
    prices: tuple[Price, ...] = ()
    agent_engine_url: str | None = None
    workflows: tuple[Path, ...] = ()
    webhooks: Path | None = None


def _keys(text: str) -> list[dict[str, Any]]:
    """Read ``key``, ``name:key`` or ``name:key:scope+scope``, separated by commas; hash the keys."""
    keys: list[dict[str, Any]] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        parts = item.split(":", 2)
        name, secret = parts[:2] if len(parts) > 1 else (f"key{len(keys) + 1}", item)
        if not (name and secret):
            number = len(keys) + 1
            raise SettingsError([f"HELIOGRAPH_API_KEYS: {KEYS_HELP}; number {number} lacks a part"])
        scopes = {"scopes": parts[2].split("+")} if len(parts) == 3 else {}
        keys.append({"name": name, "sha256": _sha256(secret), **scopes})
    return keys


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _origins(text: str) -> list[str]:
    return [origin.strip() for origin in text.split(",") if origin.strip()]


def _folders(text: str) -> list[str]:
    return [folder for folder in text.split(os.pathsep) if folder]


ENVIRONMENT: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "HOST": ("server.host", str),
    "PORT": ("server.port", str),
    "CORS_ORIGINS": ("server.cors_origins", _origins),
    "DATABASE_URL": ("storage.database_url", str),
    "REDIS_URL": ("storage.redis_url", str),
    "HELIOGRAPH_DATA": ("storage.data", str),
    "HELIOGRAPH_API_KEYS": ("auth.keys", _keys),
    "HELIOGRAPH_WORKFLOWS": ("workflows", _folders),
    "HELIOGRAPH_WEBHOOKS": ("webhooks", str),
    "AGENT_ENGINE_URL": ("agent_engine_url", str),
    "LOG_LEVEL": ("log.level", str),
}
"""Environment variables, the setting each one overrides, and how its text is read."""


def load(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Args:
        file: A TOML file that must exist; ``None`` takes ``config.toml`` from the working folder if it
            is there.
        environ: The environment.

    Raises:
        SettingsError: With one line per mistake: where it is and what would be right.
    """
    tree = _read_file(file)
    sources: dict[str, str] = {}
    for variable, (path, read) in ENVIRONMENT.items():
        text = environ.get(variable, "").strip()
        if text:
            _put(tree, path, read(text))
            sources[path] = variable
    problems: list[str] = []
    settings = _structure(tree, Settings, "", problems)
    if isinstance(settings, Settings):
        problems += _halves(settings.storage)
        problems += _room(settings.redis)
    if problems:
        raise SettingsError([_with_source(problem, sources) for problem in problems])
    assert isinstance(settings, Settings)
    return settings


def _halves(storage: StorageSettings) -> list[str]:
    """Redis is the log and PostgreSQL the store: one of them alone is half a service."""
    match storage:
        case StorageSettings(database_url=str(), redis_url=None):
            return ["storage.redis_url: is missing; DATABASE_URL needs REDIS_URL beside it"]
        case StorageSettings(database_url=None, redis_url=str()):
            return ["storage.database_url: is missing; REDIS_URL needs DATABASE_URL beside it"]
        case _:
            return []


def _room(redis: RedisSettings) -> list[str]:
    """Return what is wrong: what stays in the stream in any case must leave room for what comes."""
    if redis.max_events > redis.keep_events:
        return []
    return [f"redis.max_events: must be more than redis.keep_events, which is {redis.keep_events}"]


def as_toml_lines(settings: Settings) -> list[str]:
    """Write the settings in force as TOML-like lines, secrets hidden: what ``heliograph config`` prints."""
    lines = []
    for path, value in sorted(_flatten(attrs.asdict(settings), "")):
        shown = "***" if path.endswith("sha256") else value
        lines.append(f"{path} = {hide_password(shown) if isinstance(shown, str) else shown!r}")
    return lines


def hide_password(url: str) -> str:
    """Replace the passwords in a URL, before its host and in its query, by ``***``."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    rest = _PASSWORD.sub(r"\1***", rest)
    login, at, place = rest.rpartition("@")
    return f"{scheme}://{login.partition(':')[0]}:***@{place}" if at else f"{scheme}://{rest}"


_PASSWORD = re.compile(r"([?&][a-z_]*password=)[^&]*", re.IGNORECASE)


def _flatten(tree: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            flat += _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(member, dict) for member in value):
            for index, member in enumerate(value):
                flat += _flatten(member, f"{prefix}{name}[{index}].")
        elif isinstance(value, list | tuple):
            flat.append((prefix + name, [_shown(member) for member in value]))
        else:
            flat.append((prefix + name, _shown(value)))
    return flat


def _shown(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _read_file(file: Path | None) -> dict[str, Any]:
    path = file or Path("config.toml")
    if file is None and not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError([f"{path}: {error}"]) from None


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *sections, name = path.split(".")
    for section in sections:
        below = tree.setdefault(section, {})
        if not isinstance(below, dict):
            return  # the file's own mistake there is reported by its path
        tree = below
    tree[name] = value


_converter = cattrs.Converter(detailed_validation=False)


@_converter.register_structure_hook
def _structure_int(value: Any, _: type) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError("expected a whole number")
    try:
        return int(value)
    except ValueError:
        raise TypeError(f"expected a whole number, got {value!r}") from None


@_converter.register_structure_hook
def _structure_float(value: Any, _: type) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("expected a number")
    try:
        return float(value)
    except ValueError:
        raise TypeError(f"expected a number, got {value!r}") from None


@_converter.register_structure_hook
def _structure_decimal(value: Any, _: type) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("expected a number")
    try:
        number = Decimal(str(value))  # a float's shortest form is what was written
    except InvalidOperation:
        raise TypeError(f"expected a number, got {value!r}") from None
    if not number.is_finite():
        raise TypeError(f"expected a number, got {value!r}")
    return number


@_converter.register_structure_hook
def _structure_date(value: Any, _: type) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise TypeError(f"expected a date such as 2026-01-31, got {value!r}") from None


@_converter.register_structure_hook
def _structure_str(value: Any, _: type) -> str:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return value


def _structure(value: Any, cls: type, path: str, problems: list[str]) -> object:
    """Structure one section, collecting every mistake with its path instead of stopping at the first."""
    if not isinstance(value, dict):
        problems.append(f"{path.rstrip('.')}: expected a section [{path.rstrip('.')}]")
        return None
    fields = attrs.fields_dict(attrs.resolve_types(cls))
    known = ", ".join(fields)
    problems += [f"{path}{name}: is unknown; known are {known}" for name in value if name not in fields]
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        where = path + name
        if name not in value:
            if field.default is attrs.NOTHING:
                problems.append(f"{where}: is missing")
            continue
        before = len(problems)
        read = _structure_value(value[name], field.type, where, problems)
        if len(problems) == before:
            try:
                read = read if field.converter is None else field.converter(read)  # type: ignore[operator]
                if field.validator is not None:
                    field.validator(None, field, read)
            except Exception as error:
                problems.append(_explain(where, error))
        arguments[name] = read
    return None if problems else cls(**arguments)


def _structure_value(value: Any, kind: Any, path: str, problems: list[str]) -> object:
    """Structure the value of one setting: a section, a list, or something simple."""
    if isinstance(kind, type) and attrs.has(kind):
        return _structure(value, kind, f"{path}.", problems)
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            problems.append(f"{path}: expected a list")
            return None
        member = get_args(kind)[0]
        return tuple(
            _structure_value(one, member, f"{path}[{index}]", problems) for index, one in enumerate(value)
        )
    try:
        return _converter.structure(value, kind)
    except Exception as error:
        problems.append(_explain(path, error))
        return None


def _explain(where: str, error: Exception) -> str:
    return f"{where}: {error.args[0] if error.args else error}"


def _with_source(problem: str, sources: Mapping[str, str]) -> str:
    path = problem.partition(":")[0].partition("[")[0]
    return f"{problem} (from the environment variable {sources[path]})" if path in sources else problem
