"""nchan, the C module of nginx for publishing and subscribing: one worker, memory store."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import attrs

from bench.peer import Command, PlainDialect, numbered

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

CONFIG = """\
load_module {module};
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 65536;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 32768; multi_accept on; use epoll; }}
http {{
  access_log off;
  tcp_nodelay on;
  keepalive_requests 1000000;
  nchan_shared_memory_size 256m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location ~ ^/pub/(.+)$ {{
      nchan_publisher;
      nchan_channel_id $1;
      nchan_message_buffer_length 1000;
      nchan_message_timeout 60s;
    }}
    location ~ ^/ws/(.+)$ {{ nchan_subscriber websocket; nchan_channel_id $1; {newest} }}
    location ~ ^/sse/(.+)$ {{ nchan_subscriber eventsource; nchan_channel_id $1; {newest} }}
  }}
}}
"""


@attrs.frozen
class NchanDialect(PlainDialect):
    """A message is a request of its own; those of a burst go down the connection together."""

    def publish(self, items: Sequence[tuple[str, int, str]], key: str) -> tuple[bytes, int]:
        """Write one request for each item, pipelined."""
        requests = (
            self.post(f"/pub/{channel}", numbered(seq, text).encode(), "text/plain")
            for channel, seq, text in items
        )
        return b"".join(requests), len(items)


class NchanPeer:
    """The fastest of the peers."""

    name = "nchan"
    transports = ("ws", "sse")

    def missing(self) -> str | None:
        """Say which of the two Debian packages is not installed."""
        if not Path(NGINX).exists():
            return "nginx is not installed (Debian: nginx-light libnginx-mod-nchan)"
        if not MODULE.exists():
            return f"{MODULE} is not installed (Debian: libnginx-mod-nchan)"
        return None

    def version(self) -> str:
        """Name both, the module as far as its package says."""
        nginx = subprocess.run([NGINX, "-v"], check=True, capture_output=True, text=True)
        query = ["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"]
        try:
            package = subprocess.run(query, check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError):
            package = "of unknown version"
        return f"{nginx.stderr.strip().removeprefix('nginx version: ')}, nchan {package}"

    def command(self, port: int, folder: Path) -> Command:
        """Start nginx on a configuration of our own, in the folder."""
        config = folder / "nginx.conf"
        newest = "nchan_subscriber_first_message newest;"
        config.write_text(CONFIG.format(module=MODULE, folder=folder, port=port, newest=newest))
        return Command([NGINX, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")])

    def dialect(self, host: str) -> NchanDialect:
        """Speak to its locations."""
        return NchanDialect(host)

    def channel(self, number: int) -> str:
        """Name a channel."""
        return str(number)
