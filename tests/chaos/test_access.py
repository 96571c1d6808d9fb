"""How nodes get to their servers: over TLS, as users with few rights, with what Sentinels say.

Neither server of the wheels was built with TLS, so a proxy of ours ends it in front of them.
"""

from __future__ import annotations

import re
import shlex
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trustme
from redis import Redis
from sqlalchemy import make_url
from tests.archived import await_outputs, check_archive
from tests.deployment import Node
from tests.proxy import Proxy
from tests.servers import RedisServer, wait_until

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker
    from tests.servers import PostgresServer

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
PASSWORD = "p:a/s@s"
ESCAPED = "p%3Aa%2Fs%40s"


def line(text: str) -> dict[str, str]:
    """Make a line of output, with a key."""
    return {"type": "task_output", "task_id": "t", "output": text, "key": text}


def documented_acl() -> list[str]:
    """Return the words of the command that the page of operations gives for a user of our own."""
    [line] = re.findall(r"^    redis-cli (ACL SETUSER heliograph .*)$", PAGE.read_text(), re.MULTILINE)
    return [word.replace(">password", f">{PASSWORD}") for word in shlex.split(line)]


def set_up(server: RedisServer, *changes: str) -> str:
    """Let in the user of the page, and an administrator; return the URL for the user."""
    with server.client() as client:
        client.execute_command(*documented_acl(), *changes)
        client.execute_command("ACL", "SETUSER", "admin", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        client.execute_command("ACL", "SETUSER", "default", "off")
    return server.url.replace("//", f"//heliograph:{ESCAPED}@")


def refused_start(node: Node) -> str:
    """Start a node that must refuse to; return what it says."""
    with pytest.raises(RuntimeError):
        node.start()
    assert node.exit_status == 2
    return node.output.read_text()


def works(node: Node, database_url: str) -> None:
    """Publish through a node, and wait for the archive."""
    assert node.publish(*(line(str(n)) for n in range(10))).status_code == 201
    await_outputs(database_url, 10)
    check_archive(database_url, [str(n) for n in range(10)])
    wait_until(lambda: node.ask("/api/ready")[0] == 200, "it is ready")


def test_a_user_with_the_documented_rights(
    make_node: NodeMaker, redis: RedisServer, database_url: str
) -> None:
    """What the page of operations lets the user do is all that the service needs, the bridge included."""
    node = make_node("node", redis_url=set_up(redis))
    node.start()
    works(node, database_url)
    wait_until(lambda: node.metric("bridge_active") == 1, "it bridges")
    assert "NOPERM" not in node.output.read_text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("-xadd", "xadd"),
        ("resetchannels", "channel"),
        (">another", "invalid username-password"),
    ],
)
def test_a_missing_right_names_the_setting(
    make_node: NodeMaker, redis: RedisServer, change: str, told: str
) -> None:
    """A node whose user may not do something, or has another password, ends with what and the setting."""
    more = ["resetpass", change] if change.startswith(">") else [change]
    said = refused_start(make_node("node", redis_url=set_up(redis, *more)))
    assert "storage.redis_url: " in said
    assert "(REDIS_URL)" in said
    assert told in said.lower()
    assert PASSWORD not in said
    assert ESCAPED not in said


def test_a_right_that_is_taken_away_later_is_told(
    make_node: NodeMaker, redis: RedisServer, database_url: str
) -> None:
    """Publishing answers 503 with the setting to mend, and goes on when it is mended."""
    node = make_node("node", redis_url=set_up(redis))
    node.start()
    with Redis(port=redis.port, username="admin", password=PASSWORD) as admin:
        admin.execute_command("ACL", "SETUSER", "heliograph", "-xadd")
        refused = node.publish(line("0"))
        assert refused.status_code == 503
        assert "storage.redis_url: " in refused.json()["detail"]
        assert "(REDIS_URL)" in refused.json()["detail"]
        admin.execute_command("ACL", "SETUSER", "heliograph", "+xadd")
    works(node, database_url)


@pytest.fixture
async def secured(
    authority: trustme.CA, redis: RedisServer, postgres: PostgresServer, nursery: trio.Nursery
) -> tuple[int, int]:
    """Return the ports of Redis and of PostgreSQL over TLS."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    proxies = Proxy(redis.port, tls), Proxy(postgres.port, tls, asked=True)
    for proxy in proxies:
        await nursery.start(proxy.run)
    return proxies[0].port, proxies[1].port


@pytest.fixture
def authority() -> trustme.CA:
    """Return a certificate authority of this test."""
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    """Return the file of the authority's certificate."""
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    return file


async def test_both_servers_over_tls(
    make_node: NodeMaker, secured: tuple[int, int], trusted: Path, database_url: str
) -> None:
    """With the authority named in both URLs everything works over TLS, certificates and names checked."""
    redis_port, postgres_port = secured
    url = make_url(database_url).set(drivername="postgresql+asyncpg", port=postgres_port)
    node = make_node(
        "node",
        redis_url=f"rediss://127.0.0.1:{redis_port}/0?ssl_ca_certs={trusted}",
        database_url=f"{url.render_as_string(False)}?sslmode=verify-full&sslrootcert={trusted}",
    )
    await node.begin()
    await trio.to_thread.run_sync(works, node, database_url)


def test_a_postgres_without_tls_is_refused_where_tls_is_asked_for(
    make_node: NodeMaker, database_url: str
) -> None:
    """What asks for TLS in asyncpg's words does not go on without it."""
    url = make_url(database_url).set(drivername="postgresql+asyncpg").render_as_string(False)
    said = refused_start(make_node("bare", database_url=f"{url}?ssl=require"))
    assert "storage.database_url: " in said
    assert "server does not support SSL" in said


async def test_a_certificate_that_nobody_vouches_for(
    make_node: NodeMaker, secured: tuple[int, int], trusted: Path, database_url: str, tmp_path: Path
) -> None:
    """A server whose certificate can't be checked is refused, with the setting that says where it is."""
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    redis_port, postgres_port = secured
    url = make_url(database_url).set(port=postgres_port).render_as_string(False)
    node = make_node(
        "node",
        redis_url=f"rediss://127.0.0.1:{redis_port}/0?ssl_ca_certs={stranger}",
        database_url=f"{url}?sslmode=verify-full&sslrootcert={stranger}",
    )
    said = await trio.to_thread.run_sync(refused_start, node)
    for setting in ("storage.redis_url: ", "storage.database_url: "):
        [told] = [one for one in said.splitlines() if setting in one]
        assert "certificate verify failed" in told
