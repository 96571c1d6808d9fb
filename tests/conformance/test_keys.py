"""Keys that come and go while the service runs, by the command that an operator types; over both forms."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import httpx
import orjson
import pytest
import trio
from click.testing import CliRunner, Result
from tests.conformance.clients import Watch, open_sse, open_ws, watch
from tests.conformance.conftest import Launch, embedded
from tests.conformance.serving import settings_for
from tests.polling import until
from tests.storages import Form, SqliteForm

from heliograph.actors import keyring
from heliograph.cli import main
from heliograph.config import StorageSettings
from heliograph.model.errors import Unavailable
from heliograph.model.keys import MARK, hash_of
from heliograph.storage.sql.vault import SqlVault

Type = Callable[..., Awaitable[Result]]
VARIABLES = ("HELIOGRAPH_API_KEYS", "API_KEY_SECRET", "HELIOGRAPH_DATA", "DATABASE_URL", "REDIS_URL")


def point_at(monkeypatch: pytest.MonkeyPatch, storage: StorageSettings) -> None:
    """Have the commands work on this storage."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if storage.database_url is None:
        monkeypatch.setenv("HELIOGRAPH_DATA", str(storage.data))
    else:
        assert storage.redis_url is not None
        monkeypatch.setenv("DATABASE_URL", storage.database_url)
        monkeypatch.setenv("REDIS_URL", storage.redis_url)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, form: Form) -> Type:
    """Types ``heliograph keys …`` for the data of this form."""
    point_at(monkeypatch, form.place(settings_for(tmp_path)).storage)
    monkeypatch.chdir(tmp_path)

    async def run(*arguments: str, status: int = 0) -> Result:
        result = await trio.to_thread.run_sync(CliRunner().invoke, main, ["keys", *arguments])
        assert result.exit_code == status, result.output
        return result

    return run


async def made(keys: Type, name: str, *options: str) -> dict[str, str]:
    """Make a key; return the header that carries it."""
    printed = (await keys("add", name, *options)).stdout  # with what the service logs at the same time
    (secret,) = (line for line in printed.splitlines() if line.startswith(MARK))
    return {"X-API-Key": secret}


@attrs.frozen
class Client:
    """Asks a service."""

    url: str
    http: httpx.AsyncClient

    async def status(self, headers: dict[str, str], path: str = "/api/v1/session") -> int:
        """Return the status of an answer."""
        return (await self.http.get(self.url + path, headers=headers)).status_code

    async def known(self, headers: dict[str, str], path: str = "/api/v1/session") -> None:
        """Wait until a key is let in."""

        async def let_in() -> bool:
            return await self.status(headers, path) == 200

        await until(let_in)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client that keeps its connections."""
    async with httpx.AsyncClient(timeout=30) as client:
        yield client


async def test_keys_are_made_and_revoked_while_it_serves(
    launch: Launch, keys: Type, http: httpx.AsyncClient
) -> None:
    """A key is let in soon after it is made, with its scopes and channels, and no more once it is revoked."""
    first = await made(keys, "first")
    client = Client((await launch()).url, http)
    assert await client.status(first) == 200
    narrow = await made(keys, "narrow", "--scope", "read", "--channel", "task:1")
    await client.known(narrow)
    assert await client.status(narrow, "/api/v1/tasks/2") == 403
    told = (await http.get(f"{client.url}/api/v1/session", headers=narrow)).json()
    assert (told["name"], told["scopes"], told["channels"]) == ("narrow", ["read"], ["task:1"])
    await keys("revoke", "narrow")

    async def refused() -> bool:
        answer = await http.get(f"{client.url}/api/v1/session", headers=narrow)
        # Who has asked too often with what was no key yet is slowed, and told why all the same.
        return answer.status_code in {401, 429} and "was revoked" in answer.json()["detail"]

    await until(refused)
    assert await client.status(first) == 200


async def streams_of(url: str, headers: dict[str, str], ticket: str) -> list[Watch]:
    """Open a stream in every way that hangs on a key, and wait until all are live."""
    opened = [
        await watch("ws", url, "task:1", headers=headers),
        await watch("sse", url, "task:1", headers=headers),
        await open_sse(url, f"/api/v1/events/stream?channel=task:1&ticket={ticket}"),
    ]
    late = await open_ws(url)
    await late.say("auth", key=headers["X-API-Key"])
    await late.say("subscribe", channel="task:1")
    opened.append(late)
    for one in opened:
        await one.live()
    return opened


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_what_hangs_on_a_key_ends_with_it(
    launch: Launch, keys: Type, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Its streams end with a close code that says not to come back; tickets, sessions and task keys die."""
    stays = await made(keys, "stays")
    goes = await made(keys, "goes", "--expires", "1h")
    url = (await launch(streams={"keepalive_seconds": 600, "rotate_seconds": 3000})).url
    client = Client(url, http)
    ticket = (await http.post(f"{url}/api/v1/stream-tickets", headers=goes)).json()["ticket"]
    session = (await http.post(f"{url}/api/v1/session", headers=goes)).headers["set-cookie"].split(";")[0]
    asked = await http.post(f"{url}/api/v1/task-keys", headers=goes, json={"task_id": "1"})
    task_key = {"X-API-Key": asked.json()["key"]}
    other = await watch("ws", url, "task:1", headers=stays)
    await other.live()
    streams = [
        *await streams_of(url, goes, ticket),
        await watch("ws", url, "task:1", headers=task_key),
        await watch("ws", url, "task:1", headers={"Cookie": session}),
    ]
    for one in streams[-2:]:
        await one.live()
    if end == "revoked":
        await keys("revoke", "goes")
    else:
        later = time.time() + 3601
        monkeypatch.setattr(time, "time", lambda: later)
    for one in streams:
        words = await one.to_end()
        if one.transport == "ws":
            assert words[-1].fields["code"] == 4500
            assert end in words[-1].fields["reason"]
        else:
            assert end in words[-2].fields["reason"]
            assert words[-1].fields["whole"]
    for headers in (goes, task_key, {"Cookie": session}):
        assert await client.status(headers) == 401
    assert await client.status({}, f"/api/v1/tasks?ticket={ticket}") == 401
    assert await client.status(stays) == 200
    await other.say("ping")
    await other.until("pong")
    for one in [*streams, other]:
        await trio.aclose_forcefully(one.stream)

    async def told() -> bool:
        text = (await http.get(f"{url}/metrics", headers=stays)).text
        ended = f'heliograph_streams_ended_total{{reason="{end}",transport="sse"}} 2.0' in text
        return ended and f'heliograph_api_keys{{state="{end}"}} 1.0' in text

    await until(told)


async def test_a_hangup_has_the_keys_read_at_once(
    launch: Launch, keys: Type, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP is no end: what was made meanwhile is known, long before the next look."""
    monkeypatch.setattr(keyring, "LOOK_SECONDS", 3600.0)
    first = await made(keys, "first")
    client = Client((await launch()).url, http)
    assert await client.status(first) == 200  # the first look is over, or the next one is
    second = await made(keys, "second")

    async def let_in() -> bool:
        os.kill(os.getpid(), signal.SIGHUP)
        return await client.status(second) == 200

    await until(let_in)


async def test_the_first_key_closes_the_door(launch: Launch, keys: Type, http: httpx.AsyncClient) -> None:
    """Everybody is let in until a key is made; to revoke it opens nothing again."""
    client = Client((await launch()).url, http)
    assert await client.status({}) == 200
    key = await made(keys, "first")

    async def asked_for() -> bool:
        return await client.status({}) == 401

    await until(asked_for)
    assert await client.status(key) == 200
    await keys("revoke", "first")

    async def refused() -> bool:
        return await client.status(key) == 401

    await until(refused)
    assert await client.status({}) == 401


async def test_a_kept_key_lets_others_than_this_machine_ask(
    launch: Launch, keys: Type, http: httpx.AsyncClient
) -> None:
    """With a key that is kept, and none in the settings, a public address is served, to those who have it."""
    key = await made(keys, "first")
    client = Client((await launch(server={"host": "0.0.0.0", "port": 0})).url, http)
    assert await client.status({}) == 401
    assert await client.status(key) == 200


@embedded
async def test_unknown_keys_may_be_good_until_the_vault_was_read(
    launch: Launch, keys: Type, http: httpx.AsyncClient, form: SqliteForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the keys can't be read, a key that is not known is answered 503, not that it is wrong."""
    key = await made(keys, "first")
    away = True
    read = SqlVault.secrets

    async def secrets(self: SqlVault) -> Any:
        if away:
            raise Unavailable("away")
        return await read(self)

    monkeypatch.setattr(SqlVault, "secrets", secrets)
    client = Client((await launch(server={"host": "0.0.0.0", "port": 0})).url, http)
    assert await client.status(key) == 503
    assert await client.status({}) == 401
    away = False
    await client.known(key)


async def test_a_name_is_given_once(keys: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a key that is there, nor one that was revoked, nor one of the settings is made again."""
    secret = (await made(keys, "ops"))["X-API-Key"]
    assert "is given once" in (await keys("add", "ops", status=1)).stderr
    await keys("revoke", "ops")
    assert "is given once" in (await keys("add", "ops", status=1)).stderr
    monkeypatch.setenv("HELIOGRAPH_API_KEYS", "mine:x")
    assert "have a key mine" in (await keys("add", "mine", status=1)).stderr
    assert "stands in the settings" in (await keys("revoke", "mine", status=1)).stderr
    assert "none was revoked" in (await keys("revoke", "nobody", status=1)).stderr
    listed = await keys("list", "--json")
    (row,) = map(orjson.loads, listed.stdout.splitlines())
    assert (row["name"], row["state"], row["scopes"]) == ("ops", "revoked", ["read", "publish"])
    table = (await keys("list")).stdout
    assert "ops" in table
    assert "mine" in table
    for shown in (listed.stdout, table):
        assert secret not in shown
        assert hash_of(secret) not in shown


@embedded
@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (("-",), "name"),
        (("ok", "--channel", "nonsense"), "channels"),
        (("ok", "--expires", "2001-01-01"), "expires"),
        (("ok", "--expires", "soon"), "neither a time"),
        (("ok", "--scope", "all"), "scope"),
    ],
)
async def test_a_wrong_key_is_refused_by_its_field(keys: Type, options: tuple[str, ...], wrong: str) -> None:
    """What can't be made is told by the field that is wrong, and nothing is kept."""
    assert wrong in (await keys("add", *options, status=2)).stderr
    assert (await keys("list", "--json")).stdout == ""


@embedded
async def test_an_unreadable_key_lets_nobody_in(
    launch: Launch, keys: Type, http: httpx.AsyncClient, form: SqliteForm
) -> None:
    """What is kept in the place of a key and is none is named, and the others stay good."""
    key = await made(keys, "first")
    form.execute("INSERT INTO secrets VALUES ('key/odd', '{}'), ('key/worse', '[')")
    client = Client((await launch()).url, http)
    assert await client.status(key) == 200
    told = await keys("list")
    assert "odd can't be read" in told.stderr
    assert "worse can't be read" in told.stderr
