"""Proxies of other people, each run with a configuration."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.servers import Server, free_port

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}

Start = Callable[[Path, str], list[str]]


def _nginx(folder: Path, snippet: str) -> list[str]:
    temporary = "".join(
        f"    {name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"pid {folder}/pid;\nerror_log {folder}/error.log;\nworker_processes 1;\nevents {{}}\n"
        f"http {{\n    access_log off;\n{temporary}{snippet}}}\n"
    )
    return ["nginx", "-c", str(file), "-g", "daemon off;"]


def _caddy(folder: Path, snippet: str) -> list[str]:
    file = folder / "Caddyfile"
    file.write_text("{\n    admin off\n}\n" + snippet)
    return ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"]


def _haproxy(folder: Path, snippet: str) -> list[str]:
    file = folder / "haproxy.cfg"
    file.write_text("global\n    maxconn 200\n\n" + snippet)
    return ["haproxy", "-db", "-f", str(file)]


def _apache(folder: Path, snippet: str) -> list[str]:
    modules = Path("/usr/lib/apache2/modules")
    loaded = ("mpm_event", "authz_core", "env", "deflate", "filter", "proxy", "proxy_http")
    file = folder / "apache.conf"
    port = re.search(r"\*:(\d+)", snippet)
    assert port is not None
    file.write_text(
        f"ServerRoot {folder}\nPidFile {folder}/pid\nErrorLog {folder}/error.log\nServerName localhost\n"
        f"DefaultRuntimeDir {folder}\nMutex file:{folder}\nListen 127.0.0.1:{port[1]}\n"
        + "".join(f"LoadModule {name}_module {modules}/mod_{name}.so\n" for name in loaded)
        + "User www-data\nGroup www-data\n"
        + snippet
    )
    return ["apache2", "-f", str(file), "-DFOREGROUND"]


def _varnish(folder: Path, snippet: str) -> list[str]:
    file = folder / "varnish.vcl"
    file.write_text(snippet)
    folder.chmod(0o755)
    port = folder.joinpath("port").read_text()
    return [
        "varnishd",
        "-F",
        "-n",
        str(folder / "v"),
        "-a",
        f"127.0.0.1:{port}",
        "-f",
        str(file),
        "-T",
        "none",
    ]


PROXIES: dict[str, tuple[str, Start]] = {
    "nginx": ("nginx", _nginx),
    "caddy": ("caddy", _caddy),
    "haproxy": ("haproxy", _haproxy),
    "apache": ("apache2", _apache),
    "varnish": ("varnishd", _varnish),
}


def _listens(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/helio/api/health", timeout=2).status_code < 500
    except httpx.TransportError:
        return False


@contextmanager
def running(name: str, configuration: str, service: int) -> Iterator[str]:
    """Run a proxy with a configuration of the page; gives its host and port."""
    program, prepare = PROXIES[name]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    port = free_port()
    folder = Path("/tmp", f"heliograph-proxy-{port}")  # pytest's own is closed to the accounts that they take
    folder.mkdir(mode=0o755)
    (folder / "port").write_text(str(port))
    snippet = configuration.replace("5000", str(service)).replace("8080", str(port))
    server = Server(prepare(folder, snippet), folder / "log", lambda: _listens(port))
    try:
        server.start()
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
