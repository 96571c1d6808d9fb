"""The containers of ``docker/``: their configuration holds together, and nginx's is run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.deploy.proxies import HANDSHAKE, running
from tests.servers import Server, free_port

from heliograph.cli import main
from heliograph.config import load

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
DOCUMENTED = {
    "DATABASE_URL": "postgresql+asyncpg://agent:agent@postgres:5432/agent_system",
    "REDIS_URL": "redis://redis:6379/0",
    "AGENT_ENGINE_URL": "http://agent-engine:8080",
    "CORS_ORIGINS": "http://localhost:3005,http://localhost:3002",
    "PORT": "5000",
    "LOG_LEVEL": "INFO",
}
"""The dashboard's variables as its documentation writes them."""

KEY = "a-long-random-text"


def environment() -> dict[str, str]:
    """Return the variables of the service, with the key put in."""
    written: dict[str, str] = COMPOSE["services"]["heliograph"]["environment"]
    return {name: re.sub(r"\$\{HELIOGRAPH_API_KEY[^}]*\}", KEY, text) for name, text in written.items()}


def test_the_documented_variables_are_set_and_understood() -> None:
    """Every variable of the documentation is there as written, and the service takes all of them."""
    assert environment().items() >= DOCUMENTED.items()
    settings = load(None, environment())
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 5000)
    assert settings.server.cors_origins == ("http://localhost:3005", "http://localhost:3002")
    assert [key.name for key in settings.auth.keys] == ["dashboard"]


def test_the_key_must_be_set() -> None:
    """Without a key nothing starts: compose says what to set."""
    assert "${HELIOGRAPH_API_KEY:?" in COMPOSE["services"]["heliograph"]["environment"]["HELIOGRAPH_API_KEYS"]


def test_each_service_waits_for_what_it_needs() -> None:
    """Services wait for others that exist, are healthy by a check of their own, or have done their work."""
    services = COMPOSE["services"]
    assert set(services) == {"nginx", "heliograph", "migrate", "postgres", "redis"}
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy" and "build" not in services[needed]:
                assert "healthcheck" in services[needed]
    volumes = {mount.partition(":")[0] for one in services.values() for mount in one.get("volumes", ())}
    assert {name for name in volumes if not name.startswith(".")} == set(COMPOSE["volumes"])


def test_the_databases_are_those_that_the_service_asks_for() -> None:
    """PostgreSQL's account and database are those of DATABASE_URL; Redis keeps what it acknowledges."""
    postgres = COMPOSE["services"]["postgres"]["environment"]
    account = f"{postgres['POSTGRES_USER']}:{postgres['POSTGRES_PASSWORD']}"
    assert f"//{account}@postgres:5432/{postgres['POSTGRES_DB']}" in DOCUMENTED["DATABASE_URL"]
    redis = COMPOSE["services"]["redis"]["command"]
    assert redis[redis.index("--appendfsync") + 1] == "always"
    assert redis[redis.index("--maxmemory-policy") + 1] == "noeviction"


def test_nothing_but_nginx_is_reached_from_outside() -> None:
    """One port is published, and only on the loopback interface, since nginx adds the key."""
    published = {name: one["ports"] for name, one in COMPOSE["services"].items() if "ports" in one}
    assert list(published) == ["nginx"]
    assert all(port.startswith("127.0.0.1:") for port in published["nginx"])


def test_the_image_is_built_of_what_is_there() -> None:
    """What the Dockerfile copies exists and is not ignored, and its commands are the program's."""
    lines = (DOCKER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in shlex.split(line)[1:-1]]
    ignored = (DOCKER.parent / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in copied:
        assert (DOCKER.parent / name).exists()
        assert f"!{name}" in ignored
    assert lines[-1] == 'CMD ["heliograph", "serve"]'
    assert {"serve", "migrate"} <= set(main.commands)
    assert COMPOSE["services"]["migrate"]["command"] == ["heliograph", "migrate"]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[int]:
    """The service with the key of compose, in its embedded form; gives its port."""
    port = free_port()
    variables = {
        name: text for name, text in environment().items() if name.startswith(("CORS", "HELIOGRAPH"))
    }
    command = [sys.executable, "-m", "heliograph", "serve", "--port", str(port)]

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    env = {**os.environ, **variables, "HELIOGRAPH_DATA": str(tmp_path / "data")}
    server = Server(command, tmp_path / "log", answers, env=env, cwd=tmp_path)
    server.start()
    yield port
    server.kill()


@pytest.mark.skipif(shutil.which("varnishd") is None, reason="varnishd is not installed")
def test_a_cache_keeps_nothing_that_took_a_key(guarded: int) -> None:
    """A Varnish that caches by its own defaults gives nobody what somebody else's key has read."""
    defaults = 'vcl 4.1;\nbackend heliograph { .host = "127.0.0.1"; .port = "5000"; }\n'
    with running("varnish", defaults, guarded) as host:
        url = f"http://{host}/api/v1/tasks"
        assert httpx.get(url, headers={"X-API-Key": KEY}).status_code == 200
        assert httpx.get(url).status_code == 401


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_adds_the_key(guarded: int) -> None:
    """Through nginx as it is configured the page needs no key, for questions and for its WebSocket."""
    configuration = (DOCKER / "nginx.conf").read_text(encoding="utf-8")
    configuration = configuration.replace("${HELIOGRAPH_API_KEY}", KEY)
    configuration = configuration.replace("heliograph:5000", "127.0.0.1:5000").replace(
        "listen 80;", "listen 8080;"
    )
    assert httpx.get(f"http://127.0.0.1:{guarded}/api/v1/health").status_code == 401
    with running("nginx", configuration, guarded) as host:
        assert httpx.get(f"http://{host}/api/v1/health").status_code == 200
        own = {**HANDSHAKE, "Origin": f"http://{host}"}
        with httpx.stream("GET", f"http://{host}/ws", headers=own) as socket:
            assert socket.status_code == 101
