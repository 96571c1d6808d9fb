"""Settings: defaults, then ``config.toml``, then the environment; strict, and frozen once read.

A wrong or unknown key is reported with its path and the right values. No other module reads the file, and
only ``variables`` reads the environment.

A long module, since all settings are read in one place.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
from attrs import validators

from heliograph.model.channels import CHANNEL_HELP, is_channel, is_pattern
from heliograph.model.errors import SettingsError
from heliograph.model.prices import Price
from heliograph.model.settings import SCOPES, Quota, RetentionSettings, number
from heliograph.model.strict import structure
from heliograph.storage.settings import PostgresSettings, RedisSettings
from heliograph.variables import read_environment

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
KIB = 1024
MIB = 1024 * KIB


def is_loopback(host: str) -> bool:
    """Tell whether a host's name or address is a loopback one, without asking a name server."""
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _upper(text: str) -> str:
    return text.upper()


def _host(_: object, __: object, text: str) -> None:
    if not _HOST.fullmatch(text) and not _is_address(text):
        raise ValueError(f"{text!r} is not an address or a name, such as 127.0.0.1, ::1 or localhost")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


_HOST = re.compile(r"(?!-)[\w-]+(\.[\w-]+)*\.?")


def _web_url(_: object, __: object, text: str | None) -> None:
    if text is not None and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", text):
        raise ValueError(f"{text!r} is not a URL such as http://localhost:8000")


def _origins_of_browsers(_: object, __: object, origins: tuple[str, ...]) -> None:
    """Refuse origins in a form that no browser sends as ``Origin``: they would silently allow nothing."""
    for origin in origins:
        right = origin if origin in {"*", "null"} else _origin_of(origin)
        if origin != right:
            raise ValueError(f"no browser sends {origin!r} as its origin; write {right!r}")


def _origin_of(text: str) -> str:
    """Return a page's origin in the form that browsers send."""
    parts = urlsplit(text if "://" in text else f"http://{text}")
    place = parts.netloc.rpartition("@")[2].lower()
    return f"{parts.scheme}://{place.removesuffix(_DEFAULT_PORTS.get(parts.scheme, ' '))}"


def _networks(_: object, __: object, networks: tuple[str, ...]) -> None:
    for network in networks:
        try:
            ip_network(network, strict=False)
        except ValueError:
            raise ValueError(f"{network!r} is neither an address nor a network such as 10.0.0.0/8") from None


_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@attrs.frozen
class ServerSettings:
    """The listener and HTTP."""

    host: str = attrs.field(default="127.0.0.1", validator=_host)
    port: int = number(5000, 0, 65535)
    backlog: int = number(4096, 1, 65535)
    cors_origins: tuple[str, ...] = attrs.field(default=(), validator=_origins_of_browsers)
    trusted_proxies: tuple[str, ...] = attrs.field(default=(), validator=_networks)
    max_request_bytes: int = number(32 * MIB, KIB, 1024 * MIB)
    max_questions_per_key: int = number(128, 1, 100_000)
    max_long_answers_per_key: int = number(16, 1, 100_000)
    write_timeout: float = number(30.0, 0.1, 3600)
    idle_timeout: float = number(60.0, 0.1, 3600)
    drain_seconds: float = number(1.0, 0, 600)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    """Without it, ``tls_cert`` has the key, too."""


@attrs.frozen
class StorageSettings:
    """The places of the log and the store; without URLs the embedded SQLite in the folder ``data``."""

    data: Path = Path("heliograph-data")
    database_url: str | None = None
    redis_url: str | None = None


@attrs.frozen
class ArtifactSettings:
    """The place of runs' artifacts: a folder (by default ``artifacts`` in ``storage.data``) or a bucket."""

    folder: Path | None = None
    url: str | None = None
    max_bytes: int = number(32 * MIB, KIB, 1024 * MIB)


@attrs.frozen
class EventSettings:
    """The limits of what publishers send."""

    max_bytes: int = number(1 * MIB - 16 * KIB, KIB, 64 * MIB)
    """The default leaves room for the envelope within 1 MiB, the limit of most WebSocket clients."""
    key_ttl_seconds: int = number(86400, 1, 30 * 86400)
    max_per_request: int = number(20_000, 1, 100_000)
    append_queue: int = number(1024, 1, 100_000)


@attrs.frozen
class TaskSettings:
    """The settings of tasks.

    Args:
        lost_after_seconds: The silence after which a task that has announced a heartbeat is lost, if it is
            also three heartbeats long; 0: never.
    """

    lost_after_seconds: float = number(60.0, 0, 7 * 86400)


@attrs.frozen
class StreamSettings:
    """The limits and intervals of streams."""

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
    max_streams_before_auth: int = number(100, 1, 1_000_000)
    max_subscriptions_per_key: int = number(50_000, 1, 10_000_000)


@attrs.frozen
class EngineSettings:
    """The engine that works on tasks.

    Args:
        url: Its URL, if it takes tasks over HTTP.
        queue: The list in Redis (``storage.redis_url``) that it takes tasks from; it takes precedence over
            ``url``.
        timeout_seconds: The time in which it must answer.
        patience_seconds: The silence of a task after which the engine is given the task again.
        attempts: The most times that it is given a task.
        repo_path: The folder that it should work in.
    """

    url: str | None = attrs.field(default=None, validator=_web_url)
    queue: str | None = None
    timeout_seconds: float = number(10.0, 0.1, 600)
    patience_seconds: float = number(600.0, 1, 86400)
    attempts: int = number(5, 1, 1000)
    repo_path: str = "/app"


@attrs.frozen
class LogSettings:
    """The service's own log."""

    level: str = attrs.field(default="INFO", validator=validators.in_(LOG_LEVELS), converter=_upper)


def _selector(_: object, __: object, text: str) -> None:
    if not (is_channel(text) or is_pattern(text)):
        raise ValueError(f"{text!r} is not a channel ({CHANNEL_HELP}) nor a pattern (task:*, …, *)")


def _distinct_names(_: object, __: object, keys: tuple[KeySettings, ...]) -> None:
    """Refuse several keys with one name: a ticket has only the name, and could give another key's rights."""
    names = [key.name for key in keys]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"several keys are named {name!r}; give each a name of its own")


@attrs.frozen
class KeySettings:
    """One API key, kept as the SHA-256 of its text.

    Args:
        name: The name in logs and counters.
        sha256: Hex digest of the key.
        scopes: Some of ``read``, ``publish``, ``admin``.
        channels: Selectors that the key may read and publish; empty: all.
        quota: The key's own quota; ``None``: that of ``auth.quota``.
    """

    name: str
    sha256: str = attrs.field(validator=validators.matches_re(r"[0-9a-f]{64}"))
    scopes: tuple[str, ...] = attrs.field(
        default=("read", "publish"), validator=validators.deep_iterable(validators.in_(SCOPES))
    )
    channels: tuple[str, ...] = attrs.field(default=(), validator=validators.deep_iterable(_selector))
    quota: Quota | None = None


@attrs.frozen
class AuthSettings:
    """The callers and their rights; without keys only loopback is served."""

    keys: tuple[KeySettings, ...] = attrs.field(default=(), validator=_distinct_names)
    ticket_seconds: float = number(60.0, 1, 3600)
    ticket_return_seconds: float = number(86400.0, 1, 30 * 86400)
    """Seconds for which a ticket is accepted when a client resumes its event stream."""
    session_seconds: float = number(12 * 3600.0, 60, 30 * 86400)
    task_key_seconds: float = number(7 * 86400.0, 60, 90 * 86400)
    open_networks: tuple[str, ...] = attrs.field(default=(), validator=_networks)
    quota: Quota = attrs.field(factory=Quota)
    """The quota of each key that has none of its own."""


@attrs.frozen
class Settings:
    """All settings, by section."""

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    redis: RedisSettings = attrs.field(factory=RedisSettings)
    postgres: PostgresSettings = attrs.field(factory=PostgresSettings)
    retention: RetentionSettings = attrs.field(factory=RetentionSettings)
    artifacts: ArtifactSettings = ArtifactSettings()
    events: EventSettings = EventSettings()
    tasks: TaskSettings = TaskSettings()
    streams: StreamSettings = StreamSettings()
    log: LogSettings = LogSettings()
    auth: AuthSettings = AuthSettings()
    prices: tuple[Price, ...] = ()
    engine: EngineSettings = EngineSettings()
    workflows: tuple[Path, ...] = ()
    webhooks: Path | None = None
    webhook_public_domain: str = ""


def load(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Args:
        file: A TOML file that must exist; ``None``: ``config.toml`` in the working folder, if it exists.
        environ: The environment.

    Raises:
        SettingsError: The mistakes, a line for each: its place, and the value that would be right.
    """
    tree = _read_file(file)
    problems: list[str] = []
    values, sources = read_environment(environ, problems)
    for path, value in values.items():
        _put(tree, path, value)
    settings = structure(tree, Settings, "", problems)
    if isinstance(settings, Settings):
        problems += _storage_problems(settings.storage)
        problems += _redis_problems(settings.redis)
        problems += _engine_problems(settings.engine, settings.storage)
        problems += _artifacts_problems(settings.artifacts)
        problems += _tls_problems(settings.server)
    if problems:
        raise SettingsError([_with_source(problem, sources) for problem in problems])
    assert isinstance(settings, Settings)
    return settings


def _storage_problems(storage: StorageSettings) -> list[str]:
    """Return the faults of the storage's settings: Redis and PostgreSQL, log and store, need each other."""
    match storage:
        case StorageSettings(database_url=str(), redis_url=None):
            return ["storage.redis_url: is missing; DATABASE_URL needs REDIS_URL beside it"]
        case StorageSettings(database_url=None, redis_url=str()):
            return ["storage.database_url: is missing; REDIS_URL needs DATABASE_URL beside it"]
        case _:
            return []


def _engine_problems(engine: EngineSettings, storage: StorageSettings) -> list[str]:
    """Return the faults of the engine's settings: a list in Redis needs a Redis."""
    if engine.queue is None or storage.redis_url is not None:
        return []
    return ["engine.queue: is a list in Redis, and storage.redis_url is missing (REDIS_URL)"]


def _redis_problems(redis: RedisSettings) -> list[str]:
    """Return the faults of Redis's settings: events that always stay must leave room for new ones."""
    if redis.max_events > redis.keep_events:
        return []
    return [f"redis.max_events: must be more than redis.keep_events, which is {redis.keep_events}"]


def _artifacts_problems(artifacts: ArtifactSettings) -> list[str]:
    """Return the faults of the artifacts' settings: there must be only one place for them."""
    if artifacts.folder is None or artifacts.url is None:
        return []
    return ["artifacts.url: artifacts.folder is set too; name one of them"]


def _tls_problems(server: ServerSettings) -> list[str]:
    """Return the faults of TLS's settings: a key without a certificate would leave everything unencrypted."""
    if server.tls_key is None or server.tls_cert is not None:
        return []
    return ["server.tls_cert: is missing, and server.tls_key is set (HELIOGRAPH_TLS_CERT)"]


def as_toml_lines(settings: Settings) -> list[str]:
    """Return the settings in force as TOML-like lines without secrets, for ``heliograph config``."""
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


def _with_source(problem: str, sources: Mapping[str, str]) -> str:
    path = problem.partition(":")[0].partition("[")[0]
    return f"{problem} (from the environment variable {sources[path]})" if path in sources else problem
