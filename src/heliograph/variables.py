"""Environment variables: the settings that they override, the parsing of their text, and unknown ones."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from heliograph.model.settings import SCOPES

KEYS_HELP = "write key, name:key or name:key:scope+scope, separated by commas"


def _keys(text: str) -> list[dict[str, Any]]:
    """Parse ``key``, ``name:key`` or ``name:key:scope+scope``, separated by commas; hash the keys."""
    keys: list[dict[str, Any]] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        parts = item.split(":", 2)
        number = len(keys) + 1
        name, secret = parts[:2] if len(parts) > 1 else (f"key{number}", item)
        if not (name and secret):
            raise ValueError(f"{KEYS_HELP}; number {number} lacks a part")
        scopes = parts[2].split("+") if len(parts) == 3 else ["read", "publish"]
        if not set(scopes) <= set(SCOPES):  # not shown, since it may be part of a key with a colon in it
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
    "WEBHOOK_PUBLIC_DOMAIN": ("webhook_public_domain", str),
    "HELIOGRAPH_TLS_CERT": ("server.tls_cert", str),
    "HELIOGRAPH_TLS_KEY": ("server.tls_key", str),
    "HELIOGRAPH_TRUSTED_PROXIES": ("server.trusted_proxies", _listed),
    "HELIOGRAPH_LOST_AFTER": ("tasks.lost_after_seconds", str),
    "AGENT_ENGINE_URL": ("engine.url", str),
    "LOG_LEVEL": ("log.level", str),
}
"""By environment variable: the setting that it overrides, and the parser of its text. The lists of two
variables for the same setting are joined."""

CLIENT_VARIABLES = ("HELIOGRAPH_URL", "HELIOGRAPH_API_KEY", "HELIOGRAPH_TASK_ID")
"""Variables of the commands that use a service."""

OF_KUBERNETES = re.compile(
    r"HELIOGRAPH_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_\w+)=.*|HELIOGRAPH_(\w+_)?PORT=\w+://.*"
)
"""Matches ``NAME=text`` of the variables that Kubernetes sets for a service of our name."""


def read_environment(
    environ: Mapping[str, str], problems: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the variables that are set.

    Args:
        environ: The environment.
        problems: The list that a problem is appended to, beginning with the variable's name.

    Returns:
        The value of each setting by its path, and the variable that it comes from.
    """
    sources: dict[str, str] = {}
    values: dict[str, Any] = {}
    problems += [problem for name, text in environ.items() if (problem := _unknown(name, text))]
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
    return values, sources


def _unknown(name: str, text: str) -> str | None:
    """Return the fault of an unknown variable that has our prefix."""
    ours = (*ENVIRONMENT, *CLIENT_VARIABLES)
    prefixed = [known for known in ours if known.startswith("HELIOGRAPH_")]
    if not name.startswith("HELIOGRAPH_") or name in ours or OF_KUBERNETES.fullmatch(f"{name}={text}"):
        return None
    short = name.removeprefix("HELIOGRAPH_")
    others = {known.removeprefix("HELIOGRAPH_"): known for known in ours}
    close = get_close_matches(short, others, 1)
    meant = f"did you mean {others[close[0]]}?" if close else f"known are {', '.join(prefixed)}"
    return f"{name}: is unknown; {meant}"
