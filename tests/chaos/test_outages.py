"""Redis and PostgreSQL die, are absent, refuse or are full: nothing is lost, and the service says what is."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from time import sleep
from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest
from tests.archived import await_outputs, check_archive
from tests.deployment import Node
from tests.servers import RedisServer, redis_server, wait_until

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker
    from tests.servers import PostgresServer

PARTS = ("redis", "postgres", "archive", "clock", "subscriber", "analytics")
EVERYTHING_OK = dict.fromkeys(PARTS, "ok")


def line(text: str, size: int = 0) -> dict[str, str]:
    """Make a line of output, with a key."""
    return {"type": "task_output", "task_id": "t", "output": text + "x" * size, "key": text}


class Publisher:
    """Publishes one line after the other, each until it is acknowledged."""

    def __init__(self, node: Node) -> None:
        self.acknowledged: list[str] = []
        self.refusals: list[httpx.Response] = []
        self._node = node
        self._stop = False

    def run(self) -> None:
        """Publish until stopped."""
        for number in count():
            while not self._stop:
                try:
                    answer = self._node.publish(line(str(number)))
                except httpx.TransportError:
                    continue
                if answer.status_code == 201:
                    self.acknowledged.append(str(number))
                    break
                self.refusals.append(answer)
                sleep(0.05)
            if self._stop:
                return

    @contextmanager
    def running(self) -> Iterator[None]:
        """Publish meanwhile."""
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop = True
            thread.join()

    def goes_on(self) -> None:
        """Wait until more was acknowledged."""
        before = len(self.acknowledged)
        wait_until(lambda: len(self.acknowledged) > before + 20, "publishing goes on")


def test_redis_is_killed_while_publishing(
    make_node: NodeMaker, redis: RedisServer, database_url: str
) -> None:
    """What Redis acknowledged before a kill -9 is kept; meanwhile publishers hear 503 with Retry-After."""
    node = make_node("node")
    node.start()
    publisher = Publisher(node)
    with publisher.running():
        for _ in range(3):
            publisher.goes_on()
            redis.kill()
            wait_until(lambda: node.checks()["redis"] != "ok", "the outage is told")
            wait_until(lambda: node.metric("log_reachable") == 0, "it follows no more")
            redis.start()
            wait_until(lambda: node.metric("log_reachable") == 1, "it follows again")
        publisher.goes_on()
    check_kept(node, publisher, database_url)
    assert publisher.refusals
    assert {answer.status_code for answer in publisher.refusals} == {503}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in publisher.refusals)
    assert node.metric("log_outages_total") >= 3


def test_postgres_is_killed_while_publishing(
    make_node: NodeMaker, postgres: PostgresServer, database_url: str
) -> None:
    """Publishing goes on without PostgreSQL, and everything is archived once when it is back."""
    node = make_node("node")
    node.start()
    publisher = Publisher(node)
    with publisher.running():
        for _ in range(3):
            publisher.goes_on()
            postgres.kill()
            wait_until(lambda: node.checks()["postgres"] != "ok", "the outage is told")
            publisher.goes_on()
            postgres.start()
    check_kept(node, publisher, database_url)
    assert publisher.refusals == []


def check_kept(node: Node, publisher: Publisher, database_url: str) -> None:
    """Check that what was acknowledged is in the store; the last one may be there without it."""
    await_outputs(database_url, len(publisher.acknowledged))
    wait_until(lambda: node.checks() == EVERYTHING_OK, "everything is ready again")
    more = [str(len(publisher.acknowledged))] if _has_more(database_url, publisher) else []
    check_archive(database_url, publisher.acknowledged + more)


def _has_more(url: str, publisher: Publisher) -> bool:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM events WHERE topic = 'task.output'").fetchone()
    return found is not None and int(found[0]) > len(publisher.acknowledged)


@pytest.mark.parametrize("missing", ["redis", "postgres", "both"])
def test_it_starts_without_its_servers(
    make_node: NodeMaker, redis: RedisServer, postgres: PostgresServer, database_url: str, missing: str
) -> None:
    """A node starts while servers are away, tells which, refuses what it can't keep, and goes on alone."""
    servers = {"redis": redis, "postgres": postgres}
    away = [server for name, server in servers.items() if missing in (name, "both")]
    for server in away:
        server.kill()
    node = make_node("node")
    node.start()
    status, body = node.ask("/api/ready")
    assert (status, body["status"]) == (503, "not ready")
    told = {name for name, what in body["checks"].items() if what != "ok"}
    assert told >= ({"redis", "postgres"} if missing == "both" else {missing})
    refused = node.publish(line("early"))
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    for server in away:
        server.start()
    wait_until(lambda: node.ask("/api/ready")[0] == 200, "it is ready")
    assert node.publish(line("early"), line("late")).status_code == 201
    await_outputs(database_url, 2)
    check_archive(database_url, ["early", "late"])


def refused_start(node: Node) -> str:
    """Start a node that must refuse to; return what it says."""
    with pytest.raises(RuntimeError):
        node.start()
    assert node.exit_status == 2
    return node.output.read_text()


def test_a_refusal_names_the_setting(
    make_node: NodeMaker, postgres: PostgresServer, database_url: str
) -> None:
    """A wrong password, user or database ends the start with the setting and what the server said."""
    other = f"postgresql://nobody@127.0.0.1:{postgres.port}/postgres"
    said = refused_start(make_node("user", database_url=other))
    assert "storage.database_url: " in said
    assert 'role "nobody" does not exist (DATABASE_URL)' in said
    said = refused_start(make_node("database", database_url=postgres.url("missing")))
    assert 'database "missing" does not exist (DATABASE_URL)' in said
    with redis_server(requirepass="right") as locked:
        said = refused_start(make_node("none", redis_url=locked.url))
        assert "storage.redis_url: " in said
        assert "REDIS_URL" in said
        wrong = locked.url.replace("//", "//:wrong@")
        assert "storage.redis_url: " in refused_start(make_node("wrong", redis_url=wrong))
        number = locked.url.replace("//", "//:right@").replace("/0", "/99")
        assert "storage.redis_url: DB index is out of range" in refused_start(
            make_node("number", redis_url=number)
        )
        node = make_node("right", redis_url=locked.url.replace("//", "//:right@"))
        node.start()
        assert node.publish(line("x")).status_code == 201


def test_a_database_without_the_schema_names_the_command(
    make_node: NodeMaker, postgres: PostgresServer
) -> None:
    """A database that was not migrated, or by a newer program, is refused with what mends it."""
    assert "run `heliograph migrate`" in refused_start(make_node("node", database_url=postgres.url()))


def test_a_full_log_refuses_before_anything_is_dropped(
    make_node: NodeMaker, postgres: PostgresServer, database_url: str
) -> None:
    """While PostgreSQL is away the log fills to its bound; then 503, and nothing acknowledged is lost."""
    node = make_node("node", settings="[redis]\nmax_events = 2000\nkeep_events = 1000\n")
    node.start()
    postgres.kill()
    kept, refused = fill(node, 5000)
    assert 2000 <= len(kept) <= 2100
    assert "wait to be archived" in refused.json()["detail"]
    postgres.start()
    await_outputs(database_url, len(kept))
    wait_until(lambda: node.publish(line("again")).status_code == 201, "there is room again")
    await_outputs(database_url, len(kept) + 1)
    check_archive(database_url, [*kept, "again"])


def test_redis_near_its_memory_refuses_before_anything_is_dropped(
    make_node: NodeMaker, postgres: PostgresServer, database_url: str
) -> None:
    """Near maxmemory publishing is refused; what was acknowledged is archived."""
    with redis_server(maxmemory="20mb") as small:
        node = make_node("node", redis_url=small.url)
        node.start()
        postgres.kill()
        kept, refused = fill(node, 100_000, size=20_000)
        assert len(kept) > 100
        assert re.match("Redis is (nearly )?full", refused.json()["detail"])
        postgres.start()
        await_outputs(database_url, len(kept))
        check_archive(database_url, kept)


def test_redis_that_may_evict_is_refused(make_node: NodeMaker) -> None:
    """A Redis whose policy would delete events is refused at the start, and later when it is changed."""
    with redis_server(maxmemory="100mb", maxmemory_policy="allkeys-lru") as evicting:
        said = refused_start(make_node("node", redis_url=evicting.url))
        assert "maxmemory-policy is allkeys-lru" in said
        assert "noeviction" in said
    with redis_server(maxmemory="100mb") as changed, changed.client() as client:
        node = make_node("other", redis_url=changed.url)
        node.start()
        client.config_set("maxmemory-policy", "volatile-lru")
        wait_until(lambda: node.publish(line("x")).status_code == 503, "publishing is refused")
        client.config_set("maxmemory-policy", "noeviction")
        wait_until(lambda: node.publish(line("x")).status_code == 201, "publishing goes on")


def fill(node: Node, most: int, size: int = 0) -> tuple[list[str], httpx.Response]:
    """Publish requests of 50 lines until one is refused; return what was kept, and the refusal."""
    kept: list[str] = []
    for start in range(0, most, 50):
        lines = [line(str(number), size) for number in range(start, start + 50)]
        answer = node.publish(*lines)
        if answer.status_code != 201:
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
            return kept, answer
        kept += [one["output"] for one in lines]
    raise AssertionError("it was never refused")
