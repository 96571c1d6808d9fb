"""Wrong credentials are counted and said with their address, and slowed; good ones never are."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from tests.conformance.clients import open_ws
from tests.http.conftest import Start
from tests.http.rules.test_auth import KEYS
from trio.testing import MockClock

from heliograph.http.rules import refused
from heliograph.http.rules.refused import FREE, HOLD_SECONDS, MOST_ADDRESSES, WINDOW, RefusedCredentials
from heliograph.model.errors import TooMany

WRONG = {"X-API-Key": "wrong"}
GOOD = {"X-API-Key": "r"}


async def test_an_address_is_slowed_after_some_wrong_keys(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the free ones answers to wrong keys are held back; that to a good key of the address is not."""
    held: list[RefusedCredentials] = []

    async def hold(self: RefusedCredentials) -> None:
        held.append(self)

    monkeypatch.setattr(RefusedCredentials, "hold", hold)
    api = await start(auth={"keys": KEYS})
    with capture_logs() as logs:
        codes = [(await api.http.get("/api/v1/tasks", headers=WRONG)).status_code for _ in range(FREE + 2)]
    assert codes == [401] * (FREE + 2)
    assert len(held) == 2
    said = [line for line in logs if line["event"].startswith("credentials refused")]
    assert len(said) == FREE + 1, "a guesser does not fill the log"
    assert {line["peer"] for line in said} == {"127.0.0.1"}
    assert (await api.http.get("/api/v1/tasks", headers=GOOD)).status_code == 200
    assert len(held) == 2
    text = (await api.http.get("/metrics", headers=GOOD)).text
    assert f"heliograph_refused_credentials_total {FREE + 2}.0" in text
    assert "heliograph_slowed_credentials_total 2.0" in text


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        ((), "9.9.9.9", "127.0.0.1"),
        (("127.0.0.1",), "9.9.9.9, 8.8.8.8", "8.8.8.8"),
        (("127.0.0.1", "10.0.0.0/8"), "9.9.9.9, 8.8.8.8, 10.1.2.3", "8.8.8.8"),
        (("127.0.0.1",), "[2001:db8::1]:99", "2001:db8::1"),
        (("127.0.0.1",), "8.8.8.8:99", "8.8.8.8"),
        (("127.0.0.1",), "nonsense", "127.0.0.1"),
        (("127.0.0.1",), "", "127.0.0.1"),
    ],
)
async def test_the_address_is_the_clients(
    start: Start, proxies: tuple[str, ...], forwarded: str, address: str
) -> None:
    """Behind a proxy that is trusted it is the one that the proxy names, and nobody else's word counts."""
    api = await start(auth={"keys": KEYS}, server={"trusted_proxies": proxies})
    with capture_logs() as logs:
        await api.http.get("/api/v1/tasks", headers={**WRONG, "X-Forwarded-For": forwarded})
        async with await open_ws(api.url, headers={"X-Forwarded-For": forwarded}) as late:
            await late.say("auth", key="wrong")
            assert (await late.end())["code"] == 4500
    said = [line["peer"] for line in logs if line["event"] == "credentials refused"]
    assert said == [address, address]


async def test_few_addresses_are_remembered(autojump_clock: MockClock) -> None:
    """However many addresses send wrong keys, memory is bounded; and a minute later all is forgiven."""
    kept = RefusedCredentials()
    for number in range(3 * MOST_ADDRESSES):
        assert kept.note(f"address {number}", "/", "unknown") is False
    assert kept.addresses == MOST_ADDRESSES
    for _ in range(FREE):
        assert not kept.note("one", "/", "unknown")
    assert kept.note("one", "/", "unknown")
    await trio.sleep(WINDOW + 1)
    assert not kept.note("one", "/", "unknown")


async def test_few_answers_are_held(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many answers wait at a time, and one more is refused; a flood of wrong keys costs no more tasks."""
    monkeypatch.setattr(refused, "MOST_HELD", 2)
    kept = RefusedCredentials()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(kept.hold)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(TooMany):
            await kept.hold()
    began = trio.current_time()
    await kept.hold()
    assert trio.current_time() - began == pytest.approx(HOLD_SECONDS)
