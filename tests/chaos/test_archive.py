"""One node archives at a time, another takes over, and nobody folds twice."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from sqlalchemy import make_url
from tests.archived import await_outputs, check_archive
from tests.servers import wait_until
from tests.storages import administrate

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker
    from tests.servers import PostgresServer

HANDOVER_SECONDS = 10


def line(text: str) -> dict[str, str]:
    """Make a line of output, with a key."""
    return {"type": "task_output", "task_id": "t", "output": text, "key": text}


def test_a_node_takes_over_within_ten_seconds_of_a_kill(make_node: NodeMaker, database_url: str) -> None:
    """The archiver's node is killed -9; the other one archives what comes, and what the first had left."""
    first, second = make_node("first"), make_node("second")
    first.start()
    wait_until(lambda: first.archives, "the first archives")
    second.start()
    published = [f"{n}" for n in range(200)]
    for text in published[:100]:
        assert first.publish(line(text)).status_code == 201
    first.kill()
    for text in published[100:]:
        assert second.publish(line(text)).status_code == 201
    await_outputs(database_url, 200, HANDOVER_SECONDS)
    assert second.archives
    check_archive(database_url, published)


def test_a_paused_node_is_replaced_and_cannot_fold_twice(make_node: NodeMaker, database_url: str) -> None:
    """SIGSTOP the archiver's node until the other one has taken over, wake it, and again the other way."""
    nodes = [make_node(name) for name in ("first", "second")]
    for node in nodes:
        node.start()
    numbers = count()
    published: list[str] = []

    def publish(through: int, many: int) -> None:
        texts = [f"{next(numbers)}" for _ in range(many)]
        assert nodes[through].publish(*map(line, texts)).status_code == 201
        published.extend(texts)

    wait_until(lambda: nodes[0].archives or nodes[1].archives, "one archives")
    for _ in range(2):
        active = 0 if nodes[0].archives else 1
        for _ in range(20):  # so that it is paused somewhere in the middle of a batch
            publish(active, 50)
        nodes[active].pause()
        for _ in range(20):
            publish(1 - active, 50)
        await_outputs(database_url, len(published), HANDOVER_SECONDS)
        nodes[active].resume()
        for through in (0, 1):
            publish(through, 50)
        await_outputs(database_url, len(published))
    check_archive(database_url, published)


def test_an_old_backup_is_brought_up_to_date_from_the_log(
    make_node: NodeMaker, postgres: PostgresServer, database_url: str
) -> None:
    """PostgreSQL restored from a backup gets what came since from Redis, which has kept it."""
    node = make_node("node")
    node.start()
    published = [f"{n}" for n in range(100)]
    assert node.publish(*map(line, published[:50])).status_code == 201
    await_outputs(database_url, 50)
    node.kill()
    name = make_url(database_url).database
    administrate(postgres.url(), f"CREATE DATABASE backup TEMPLATE {name}")
    node.start()
    assert node.publish(*map(line, published[50:])).status_code == 201
    await_outputs(database_url, 100)
    node.kill()
    administrate(postgres.url(), f"DROP DATABASE {name} WITH (FORCE)")
    administrate(postgres.url(), f"ALTER DATABASE backup RENAME TO {name}")
    node.start()
    await_outputs(database_url, 100)
    assert node.publish(*map(line, published)).json()["accepted"] == 100
    check_archive(database_url, published)
