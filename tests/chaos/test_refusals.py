"""A PostgreSQL that is there and refuses is an outage: nodes live, say so, and go on by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import make_url
from tests.archived import await_outputs, check_archive
from tests.chaos.test_access import line, refused_start
from tests.servers import wait_until

from heliograph.storage.distributed.form import migrate_database
from heliograph.storage.distributed.postgres import is_outage

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker
    from tests.servers import PostgresServer, RedisServer

Admin = Callable[..., None]

REFUSALS = {
    "read-only": (
        ["ALTER ROLE {role} SET default_transaction_read_only = on", "{kill}"],
        ["ALTER ROLE {role} RESET default_transaction_read_only"],
        "read-only transaction",
    ),
    "no right": (
        ["ALTER TABLE events OWNER TO postgres", "GRANT SELECT ON events TO {role}"],
        ["ALTER TABLE events OWNER TO {role}"],
        "permission denied for table events",
    ),
    "no table": (
        ["ALTER TABLE tasks RENAME TO tasks_away"],
        ["ALTER TABLE tasks_away RENAME TO tasks"],
        'relation "tasks" does not exist',
    ),
}
"""What is done, what undoes it, and what is said meanwhile."""

KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"


@pytest.fixture
def owned(postgres: PostgresServer) -> Iterator[tuple[str, str]]:
    """Make a database that a role of few rights owns; yield the role and the URL."""
    role = f"app_{uuid4().hex}"
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN".encode())
        admin.execute(f"CREATE DATABASE {role} OWNER {role}".encode())
    url = make_url(postgres.url(role)).set(username=role).render_as_string(hide_password=False)
    migrate_database(url)
    yield role, url
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {role} WITH (FORCE)".encode())


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusing_database_is_an_outage(
    make_node: NodeMaker, postgres: PostgresServer, owned: tuple[str, str], refusal: str
) -> None:
    """Publishing goes on, readiness says what is wrong till it is mended, and then the archive catches up."""
    role, url = owned
    do, undo, words = REFUSALS[refusal]
    node = make_node("a", database_url=url)
    node.start()
    wait_until(lambda: node.archives, "it archives")

    def execute(*statements: str) -> None:
        with psycopg.connect(postgres.url(role), autocommit=True) as admin:
            for statement in statements:
                admin.execute(statement.format(role=role, kill=KILL.format(role=role)).encode())

    execute(*do)
    for number in range(5):
        assert node.publish(line(str(number))).status_code == 201
    wait_until(lambda: words in str(node.checks()), "it says what is wrong")
    assert node.ask("/api/ready")[0] == 503
    node.kill()  # nor does it keep a node from starting
    node.start()
    assert node.publish(line("5")).status_code == 201
    execute(*undo)
    await_outputs(url, 6)
    wait_until(lambda: node.ask("/api/ready")[0] == 200, "it is ready")
    check_archive(url, [str(number) for number in range(6)])


REDIS_REFUSALS = [
    ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "You can't write against a read only replica"),
    (
        "CONFIG SET min-replicas-to-write 1",
        "CONFIG SET min-replicas-to-write 0",
        "Not enough good replicas to write",
    ),
    ("ACL SETUSER default -xadd", "ACL SETUSER default +xadd", "The user executing the script can't"),
]
"""What is done, what undoes it, and what is said meanwhile."""


def test_a_redis_that_takes_no_writes_is_an_outage(make_node: NodeMaker, redis: RedisServer) -> None:
    """Readiness says why nothing can be published, till it can; no append is needed to find out."""
    node = make_node("a")
    node.start()
    assert node.publish(line("0")).status_code == 201
    for number, (do, undo, words) in enumerate(REDIS_REFUSALS):
        with redis.client() as client:
            client.execute_command(*do.split(" "))
            before = {one["id"] for one in client.client_list() if one["name"] == "heliograph"}
            refused = node.publish(line(f"refused {number}"))
            assert (refused.status_code, words in refused.json()["detail"]) == (503, True)
            assert "Error running script" not in refused.json()["detail"]
            assert node.ask("/api/ready")[0] == 503
            assert words in node.checks()["redis"]
            if do.startswith("REPLICAOF"):  # its old connections may lead to what is the primary no more
                assert before - {one["id"] for one in client.client_list()}
            client.execute_command(*undo.split(" "))
        wait_until(lambda: node.ask("/api/ready")[0] == 200, "it is ready")
        assert node.publish(line(str(number))).status_code == 201


def test_a_database_that_cannot_keep_every_text_is_refused(
    make_node: NodeMaker, postgres: PostgresServer
) -> None:
    """A database in another encoding than UTF-8 is named at once, before anything is kept."""
    name = f"latin_{uuid4().hex}"
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        options = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        admin.execute(f"CREATE DATABASE {name} {options}".encode())
    said = refused_start(make_node("a", database_url=postgres.url(name)))
    assert "encoding is LATIN1; it must be UTF8" in said
    assert "Traceback" not in said


def test_a_bug_of_ours_is_no_outage() -> None:
    """What is wrong with a value or a statement would be wrong again; everything else ends without us."""
    bugs = (
        errors.UniqueViolation,
        errors.NumericValueOutOfRange,
        errors.SyntaxError,
        errors.DatatypeMismatch,
    )
    outages = (
        *(errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege, errors.UndefinedTable),
        *(errors.DiskFull, errors.SerializationFailure, errors.IdleInTransactionSessionTimeout),
        *(errors.DataCorrupted, errors.UndefinedColumn, errors.AdminShutdown),
    )
    assert not any(is_outage(bug("")) for bug in bugs)
    assert all(is_outage(outage("")) for outage in outages)
    assert not is_outage(psycopg.ProgrammingError("the connection is used wrongly"))
