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
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
from attrs import validators

from heliograph.model.channels import CHANNEL_HELP, is_channel, is_pattern
from heliograph.model.errors import SettingsError
from heliograph.model.prices import Price
from heliograph.model.settings import RetentionSettings, number
from heliograph.model.strict import structure
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
    """Refuse what no browser sends as ``Origin``: it would allow nothing, and nobody would be told."""
    for origin in origins:
        right = origin if origin in {"*", "null"} else _origin_of(origin)
        if origin != right:
            raise ValueError(f"no browser sends {origin!r} as its origin; write {right!r}")


def _origin_of(text: str) -> str:
    """Return a page's origin as browsers write it."""
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
class ArtifactSettings:
    """What runs leave behind: a folder, by default ``artifacts`` below ``storage.data``, or a bucket."""

    folder: Path | None = None
    url: str | None = None
    max_bytes: int = number(32 * MIB, KIB, 1024 * MIB)


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
    max_streams_before_auth: int = number(100, 1, 1_000_000)
    max_subscriptions_per_key: int = number(50_000, 1, 10_000_000)


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
    session_seconds: float = number(12 * 3600.0, 60, 30 * 86400)
    open_networks: tuple[str, ...] = attrs.field(default=(), validator=_networks)


@attrs.frozen
class Settings:
    """Everything that can be set, by section."""

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    redis: RedisSettings = attrs.field(factory=RedisSettings)
    postgres: PostgresSettings = attrs.field(factory=PostgresSettings)
    retention: RetentionSettings = attrs.field(factory=RetentionSettings)
    artifacts: ArtifactSettings = ArtifactSettings()
    events: EventSettings = EventSettings()
    streams: StreamSettings = StreamSettings()
    log: LogSettings = LogSettings()
    auth: AuthSettings = AuthSettings()
    prices: tuple[Price, ...] = ()
    agent_engine_url: str | None = attrs.field(default=None, validator=_web_url)
    workflows: tuple[Path, ...] = ()
    webhooks: Path | None = None


def _keys(text: str) -> list[dict[str, Any]]:
    """Read ``key``, ``name:key`` or ``name:key:scope+scope``, separated by commas; hash the keys."""
    keys: list[dict[str, Any]] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        parts = item.split(":", 2)
        number = len(keys) + 1
        name, secret = parts[:2] if len(parts) > 1 else (f"key{number}", item)
        if not (name and secret):
            raise ValueError(f"{KEYS_HELP}; number {number} lacks a part")
        scopes = parts[2].split("+") if len(parts) == 3 else ["read", "publish"]
        if not set(scopes) <= set(SCOPES):  # not to be shown: it may be the rest of a key with a colon in it
            raise ValueError(f"{KEYS_HELP}; number {number} has a scope that is none of {', '.join(SCOPES)}")
        keys.append({"name": name, "sha256": _sha256(secret), "scopes": scopes})
    return keys


def _one_key(text: str) -> list[dict[str, Any]]:
    return [{"name": "default", "sha256": _sha256(text), "scopes": list(SCOPES)}]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _origins(text: str) -> list[str]:
    if text.startswith(("[", '"', "'")):
        raise ValueError(
            "write origins without brackets and quotes, separated by commas: http://localhost:3005"
        )
    return _listed(text)


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _folders(text: str) -> list[str]:
    return [folder for folder in text.split(os.pathsep) if folder]


ENVIRONMENT: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "HOST": ("server.host", str),
    "PORT": ("server.port", str),
    "CORS_ORIGINS": ("server.cors_origins", _origins),
    "API_CORS_ORIGINS": ("server.cors_origins", _origins),
    "DATABASE_URL": ("storage.database_url", str),
    "REDIS_URL": ("storage.redis_url", str),
    "HELIOGRAPH_DATA": ("storage.data", str),
    "HELIOGRAPH_API_KEYS": ("auth.keys", _keys),
    "API_KEY_SECRET": ("auth.keys", _one_key),
    "HELIOGRAPH_ARTIFACTS": ("artifacts.folder", str),
    "HELIOGRAPH_ARTIFACTS_URL": ("artifacts.url", str),
    "HELIOGRAPH_WORKFLOWS": ("workflows", _folders),
    "HELIOGRAPH_WEBHOOKS": ("webhooks", str),
    "HELIOGRAPH_TRUSTED_PROXIES": ("server.trusted_proxies", _listed),
    "AGENT_ENGINE_URL": ("agent_engine_url", str),
    "LOG_LEVEL": ("log.level", str),
}
"""Environment variables, the setting each one overrides, and how its text is read; lists of two that name the
same setting are put together."""

CLIENT_VARIABLES = ("HELIOGRAPH_URL", "HELIOGRAPH_API_KEY", "HELIOGRAPH_TASK_ID")
"""Variables of the commands that talk to a service."""

OF_KUBERNETES = re.compile(
    r"HELIOGRAPH_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_\w+)=.*|HELIOGRAPH_(\w+_)?PORT=\w+://.*"
)
"""What Kubernetes sets in every container beside a service of our name, as ``NAME=text``."""


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
    problems = [problem for name in environ if (problem := _unknown(name, environ[name]))]
    sources = _read_environment(tree, environ, problems)
    settings = structure(tree, Settings, "", problems)
    if isinstance(settings, Settings):
        problems += _halves(settings.storage)
        problems += _room(settings.redis)
        problems += _one_place(settings.artifacts)
    if problems:
        raise SettingsError([_with_source(problem, sources) for problem in problems])
    assert isinstance(settings, Settings)
    return settings


def _read_environment(
    tree: dict[str, Any], environ: Mapping[str, str], problems: list[str]
) -> dict[str, str]:
    """Put the environment over the file; return the variable that each setting came from."""
    sources: dict[str, str] = {}
    values: dict[str, Any] = {}
    for variable, (path, read) in ENVIRONMENT.items():
        text = environ.get(variable, "").strip()
        if not text:
            continue
        try:
            value = read(text)
        except ValueError as error:
            problems.append(f"{variable}: {error}")
            continue
        values[path] = values[path] + value if path in values else value
        sources[path] = f"{sources[path]}, {variable}" if path in sources else variable
    for path, value in values.items():
        _put(tree, path, value)
    return sources


def _unknown(name: str, text: str) -> str | None:
    """Return what is wrong with a variable that has our prefix and means nothing."""
    ours = (*ENVIRONMENT, *CLIENT_VARIABLES)
    prefixed = [known for known in ours if known.startswith("HELIOGRAPH_")]
    if not name.startswith("HELIOGRAPH_") or name in ours or OF_KUBERNETES.fullmatch(f"{name}={text}"):
        return None
    short = name.removeprefix("HELIOGRAPH_")
    others = {known.removeprefix("HELIOGRAPH_"): known for known in ours}
    close = get_close_matches(short, others, 1)
    meant = f"did you mean {others[close[0]]}?" if close else f"known are {', '.join(prefixed)}"
    return f"{name}: is unknown; {meant}"


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


def _one_place(artifacts: ArtifactSettings) -> list[str]:
    """Return what is wrong: artifacts are kept in one place."""
    if artifacts.folder is None or artifacts.url is None:
        return []
    return ["artifacts.url: artifacts.folder is set too; name one of them"]


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


def _with_source(problem: str, sources: Mapping[str, str]) -> str:
    path = problem.partition(":")[0].partition("[")[0]
    return f"{problem} (from the environment variable {sources[path]})" if path in sources else problem
