import hashlib
import time
from types import SimpleNamespace

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import URLSafeTimedSerializer
from tests.conformance.clients import open_sse, open_ws
from tests.http.conftest import Api, Start, output
from werkzeug.datastructures import Headers

from heliograph.config import AuthSettings, KeySettings
from heliograph.http.rules.auth import LOCAL, NETWORK, Authenticator, Identity
from heliograph.model.channels import selector_covers
from heliograph.model.errors import Forbidden, Unauthenticated
from heliograph.model.settings import SCOPES


def key(name: str, text: str, *scopes: str, channels: tuple[str, ...] = ()) -> KeySettings:
    """Configure a key by its text."""
    return KeySettings(
        name, hashlib.sha256(text.encode()).hexdigest(), scopes or ("read", "publish"), channels
    )


KEYS = (
    key("reader", "r", "read"),
    key("writer", "w", "publish", channels=("task:*",)),
    key("ops", "o", *SCOPES),
)


def signing() -> list[str]:
    """Return what all nodes of a deployment sign with."""
    return ["one", "two"]


@pytest.fixture
def authenticator() -> Authenticator:
    """Make an authenticator of some keys."""
    return Authenticator(AuthSettings(KEYS), signing)


@pytest.mark.parametrize(
    "headers", [{}, {"X-API-Key": "anything"}, {"Authorization": "Basic eDp5"}, {"X-API-Key": ""}]
)
def test_without_keys_everybody_is_local(headers: dict[str, str]) -> None:
    """As long as no key is configured all callers are the local user, who may do everything."""
    authenticator = Authenticator(AuthSettings())
    assert authenticator.open
    assert authenticator.from_headers(Headers(headers)) is LOCAL
    assert authenticator.authenticate("x", None) is LOCAL
    LOCAL.require("admin", "task:1", "*")


@pytest.mark.parametrize(
    "headers", [{"X-API-Key": "r"}, {"Authorization": "Bearer r"}, {"Authorization": "bearer  r "}]
)
def test_a_key_is_known_by_either_header(authenticator: Authenticator, headers: dict[str, str]) -> None:
    """``X-API-Key`` and ``Authorization: Bearer`` carry a key alike."""
    identity = authenticator.from_headers(Headers(headers))
    assert identity == Identity("reader", ("read",))


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic cjpy"}])
def test_no_credentials_are_nobody(authenticator: Authenticator, headers: dict[str, str]) -> None:
    """A request without a key or a ticket is nobody's, which is not the same as wrong credentials."""
    assert authenticator.from_headers(Headers(headers)) is None


@pytest.mark.parametrize(
    "headers",
    [{"X-API-Key": "R"}, {"X-API-Key": ""}, {"Authorization": "Bearer"}, {"X-API-Key": "é\udcff"[:1]}],
)
def test_a_wrong_key_is_refused(authenticator: Authenticator, headers: dict[str, str]) -> None:
    """An unknown or empty key is refused, not taken for no key."""
    with pytest.raises(Unauthenticated):
        authenticator.from_headers(Headers(headers))


@given(st.text(max_size=100))
def test_no_made_up_credentials_pass(text: str) -> None:
    """Whatever text is offered as a key or a ticket, only a real one passes."""
    authenticator = Authenticator(AuthSettings(KEYS))
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(None, text)
    if text not in {"r", "w", "o"}:
        with pytest.raises(Unauthenticated):
            authenticator.authenticate(text.encode(errors="ignore").decode() or "x", None)


def test_a_ticket_stands_for_its_key(authenticator: Authenticator) -> None:
    """A ticket is accepted by every node with the same keys, and brings the rights of its key."""
    identity = authenticator.authenticate("w", None)
    ticket, _ = authenticator.ticket_for(identity)
    other = Authenticator(AuthSettings(KEYS[::-1]), signing)
    assert other.authenticate(None, ticket) == attrs.evolve(identity, by="ticket")
    assert authenticator.from_headers(Headers(), ticket) == attrs.evolve(identity, by="ticket")


def test_a_ticket_that_is_refused_says_why(
    authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was never a ticket, and one that is too old, are told apart."""
    ticket, expires = authenticator.ticket_for(authenticator.authenticate("r", None))
    with pytest.raises(Unauthenticated, match="is none of ours"):
        authenticator.authenticate(None, "nonsense")
    monkeypatch.setattr("time.time", lambda: expires + 2)
    with pytest.raises(Unauthenticated, match="has expired"):
        authenticator.authenticate(None, ticket)


def test_a_forged_ticket_is_refused(authenticator: Authenticator) -> None:
    """A ticket that is signed with anything else, or changed by a letter, is refused."""
    ticket, _ = authenticator.ticket_for(authenticator.authenticate("r", None))
    with pytest.raises(Unauthenticated):
        Authenticator(AuthSettings(KEYS)).authenticate(None, ticket)
    payload, moment, signature = ticket.split(".")
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(None, ".".join([payload, moment, signature[::-1]]))


def test_the_hashes_of_the_keys_sign_nothing(authenticator: Authenticator) -> None:
    """Whoever reads the configuration can make no ticket, and a ticket tells nothing of a key."""
    hashes = [key.sha256 for key in KEYS]
    for secret in ("".join(sorted(hashes)), *hashes):
        for salt in ("heliograph ticket", "heliograph stream ticket"):
            forged = URLSafeTimedSerializer(secret, salt=salt).dumps("ops")
            with pytest.raises(Unauthenticated):
                authenticator.authenticate(None, forged)


@pytest.mark.parametrize("claim", [["ops"], {"name": "ops"}, 5, None, "nobody"])
def test_a_ticket_names_a_key(authenticator: Authenticator, claim: object) -> None:
    """A ticket that is signed rightly and names no key is refused, whatever it names."""
    signed = URLSafeTimedSerializer(signing(), salt="heliograph ticket").dumps(claim)
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(None, signed)


def test_a_secret_that_was_replaced_is_still_believed(authenticator: Authenticator) -> None:
    """What an older secret has signed is accepted; the newest signs."""
    older = Authenticator(AuthSettings(KEYS), lambda: ["one"])
    ticket, _ = older.ticket_for(older.authenticate("r", None))
    assert authenticator.authenticate(None, ticket).name == "reader"
    ticket, _ = authenticator.ticket_for(authenticator.authenticate("r", None))
    with pytest.raises(Unauthenticated):
        older.authenticate(None, ticket)


def test_a_task_key_reaches_its_task_and_those_beneath(authenticator: Authenticator) -> None:
    """It has its key's scopes, but never admin, and reaches one task and ids that begin with it and a dot."""
    ops = authenticator.authenticate("o", None)
    text, _ = authenticator.task_key_for(ops, "build-1")
    who = authenticator.authenticate(text, None)
    assert (who.scopes, who.by) == (("read", "publish"), "task key")
    for channel in ("task:build-1", "task:build-1.sub", "task:build-1.sub.sub"):
        who.require("publish", channel)
    for channel in ("task:build-10", "task:build", "task:*", "*", "workflow:build-1", "topic:build-1.x"):
        with pytest.raises(Forbidden):
            who.require_channel(channel)


def test_a_task_key_reaches_no_further_than_its_key() -> None:
    """A key for one task has no key for what is beneath it, which it does not cover itself."""
    authenticator = Authenticator(AuthSettings((key("one", "1", channels=("task:build-1",)),)), signing)
    text, _ = authenticator.task_key_for(authenticator.authenticate("1", None), "build-1")
    who = authenticator.authenticate(text, None)
    assert (who.covers("task:build-1"), who.covers("task:build-1.sub")) == (True, False)


def test_a_task_key_buys_nothing(authenticator: Authenticator) -> None:
    """What is signed for who has a task's key stands for nobody, and not for the key that it came from."""
    text, _ = authenticator.task_key_for(authenticator.authenticate("o", None), "build-1")
    who = authenticator.authenticate(text, None)
    ticket, _ = authenticator.ticket_for(who)
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(None, ticket)
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(None, text.removeprefix("task."))
    more, _ = authenticator.task_key_for(who, "another")
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(more, None)
    for forged in ("task.", "task.x", text[:-1], "task." + ticket):
        with pytest.raises(Unauthenticated):
            authenticator.authenticate(forged, None)


async def test_a_task_key_makes_no_others(start: Start) -> None:
    """Only a key makes a task's key; an id that is none is refused by its name."""
    api = await start(auth={"keys": KEYS})
    made = await api.http.post("/api/v1/task-keys", json={"task_id": "t1"}, headers={"X-API-Key": "w"})
    assert made.status_code == 201
    for caller, task_id, status in ((made.json()["key"], "t1", 403), ("w", "-", 422), ("r", "t1", 403)):
        answer = await api.http.post(
            "/api/v1/task-keys", json={"task_id": task_id}, headers={"X-API-Key": caller}
        )
        assert answer.status_code == status


def cookie_of(text: str) -> dict[str, str]:
    """Return the headers with a session's cookie."""
    return {"Cookie": f"other=1; heliograph_session={text}", "Host": "dash.example"}


def test_a_session_is_of_our_own_page(authenticator: Authenticator) -> None:
    """A cookie brings the rights of its key, on pages of our own origin only."""
    text, _ = authenticator.session_for(authenticator.authenticate("r", None))
    found = authenticator.from_headers(Headers(cookie_of(text)))
    assert found == Identity("reader", ("read",), by="session")
    own = {"Origin": "https://dash.example", "Sec-Fetch-Site": "same-origin"}
    assert authenticator.from_headers(Headers(cookie_of(text) | own)) == found
    for other in ({"Origin": "https://dash.example:81"}, {"Sec-Fetch-Site": "same-site"}):
        assert authenticator.from_headers(Headers(cookie_of(text) | other)) is None


def test_a_session_is_no_ticket(authenticator: Authenticator) -> None:
    """Each signed text is good for its own purpose alone."""
    who = authenticator.authenticate("r", None)
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(None, authenticator.session_for(who)[0])
    with pytest.raises(Unauthenticated):
        authenticator.from_headers(Headers(cookie_of(authenticator.ticket_for(who)[0])))


@pytest.mark.parametrize("keys", [(), KEYS])
def test_open_networks_need_no_key(keys: tuple[KeySettings, ...]) -> None:
    """Who comes from a named network, or from this machine, is served; a wrong key is refused even there."""
    settings = AuthSettings(keys, open_networks=("172.16.0.0/12", "fd00::/8"))
    authenticator = Authenticator(settings)
    for peer in ("172.20.0.3", "::ffff:172.20.0.3", "fd00::5", "127.0.0.1", "::1"):
        assert authenticator.from_headers(Headers(), peer=peer) is NETWORK
        with pytest.raises(Unauthenticated):
            authenticator.from_headers(Headers({"X-API-Key": "wrong"}), peer=peer)
    for stranger in ("10.0.0.1", "2001:db8::1", None):
        assert authenticator.from_headers(Headers(), peer=stranger) is None


def test_a_ticket_of_a_renamed_key_is_refused(authenticator: Authenticator) -> None:
    """A ticket whose key has another name by now is refused, and breaks nothing."""
    ticket, _ = authenticator.ticket_for(authenticator.authenticate("r", None))
    renamed = Authenticator(AuthSettings((key("other", "r", "read"), *KEYS[1:])), signing)
    with pytest.raises(Unauthenticated):
        renamed.authenticate(None, ticket)


def test_a_ticket_is_short_lived(authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time a ticket is refused; the time is told with it."""
    now = 1_000_000.0
    clock = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr("itsdangerous.timed.time", clock)
    monkeypatch.setattr("heliograph.http.rules.auth.time", clock)
    identity = authenticator.authenticate("r", None)
    ticket, expires_at = authenticator.ticket_for(identity)
    assert expires_at == now + 60
    now += 60
    assert authenticator.authenticate(None, ticket).name == identity.name
    now += 2
    with pytest.raises(Unauthenticated, match="ticket"):
        authenticator.authenticate(None, ticket)


SELECTORS = st.sampled_from(["task:1", "task:2", "task:*", "workflow:1", "*", "webhooks"])


@given(
    st.sets(st.sampled_from(SCOPES)),
    st.lists(SELECTORS, max_size=3),
    st.sampled_from(SCOPES),
    st.lists(SELECTORS, max_size=3),
)
def test_a_key_reaches_as_far_as_its_channels(
    scopes: set[str], channels: list[str], scope: str, wanted: list[str]
) -> None:
    """A key may do what its scopes say, on channels that one of its own covers, each of them."""
    identity = Identity("k", tuple(scopes), tuple(channels))
    allowed = scope in scopes and (
        not channels or all(any(selector_covers(one, selector) for one in channels) for selector in wanted)
    )
    if allowed:
        identity.require(scope, *wanted)
    else:
        with pytest.raises(Forbidden):
            identity.require(scope, *wanted)


# Over HTTP


@pytest.fixture
async def guarded(start: Start) -> Api:
    """Start a service with keys."""
    return await start(auth={"keys": KEYS})


async def test_every_route_wants_a_key(guarded: Api) -> None:
    """Without a key everything is 401 with how to send one, but for health, readiness and the page."""
    reading = (
        "/api/v1/tasks",
        "/api/v1/tasks/1",
        "/api/v1/events",
        "/api/v1/events/stream",
        "/api/v1/status",
    )
    for path in (*reading, "/metrics", "/nowhere"):
        problem = await guarded.problem("GET", path)
        assert (problem["status"], problem["code"]) == (401, "unauthenticated")
        assert "X-API-Key" in problem["detail"]
    for path in ("/api/health", "/api/ready", "/"):
        assert (await guarded.http.get(path)).status_code != 401  # just started, it may not be ready yet
    assert (await guarded.problem("GET", "/api/v1/tasks", headers={"X-API-Key": "x"}))["status"] == 401


async def test_scopes_part_reading_from_publishing(guarded: Api) -> None:
    """A key that reads can't publish, and one that publishes can't read."""
    reader, writer = {"X-API-Key": "r"}, {"X-API-Key": "w"}
    assert (await guarded.problem("POST", "/api/v1/events", json=output(), headers=reader))["status"] == 403
    await guarded.publish(output(), headers=writer)
    assert (await guarded.get("/api/v1/tasks", headers=reader))["tasks"]
    assert (await guarded.problem("GET", "/api/v1/tasks", headers=writer))["status"] == 403
    assert (await guarded.problem("GET", "/api/v1/tasks/1", headers=writer))["status"] == 403


async def test_a_key_publishes_on_its_channels_only(guarded: Api) -> None:
    """One item on a channel beyond the key refuses the request whole."""
    items = [output(), {"topic": "webhook.received"}]
    problem = await guarded.problem("POST", "/api/v1/events", json=items, headers={"X-API-Key": "w"})
    assert (problem["status"], "webhooks" in problem["detail"]) == (403, True)
    assert (await guarded.get("/api/v1/events", headers={"X-API-Key": "r"}))["events"] == []


async def test_a_ticket_opens_a_stream(guarded: Api) -> None:
    """A key buys a ticket, which opens a WebSocket without any header; a wrong one does not."""
    answer = await guarded.http.post("/api/v1/stream-tickets", headers={"X-API-Key": "r"})
    assert answer.status_code == 201
    async with await open_ws(guarded.url, f"/ws?ticket={answer.json()['ticket']}") as watch:
        await watch.say("subscribe", channel="task:1")
        await watch.live()
    async with await open_ws(guarded.url, "/ws?ticket=wrong") as refused:
        assert refused.status == 401
    assert (await guarded.http.post("/api/v1/stream-tickets")).status_code == 401
    assert (await guarded.http.post("/api/v1/stream-tickets", headers={"X-API-Key": "w"})).status_code == 403


async def test_a_ticket_is_good_for_coming_back(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too old to open a stream, it still opens the one its client has been on, until it is far too old."""
    api = await start(auth={"keys": KEYS, "ticket_seconds": 60, "ticket_return_seconds": 600})
    answer = await api.http.post("/api/v1/stream-tickets", headers={"X-API-Key": "r"})
    query = f"?channel=task:1&ticket={answer.json()['ticket']}"
    path, header = f"/api/v1/events/stream{query}", {"Last-Event-ID": "0-0"}
    now = time.time()

    async def opens(age: float, path: str, headers: dict[str, str]) -> bool:
        monkeypatch.setattr(time, "time", lambda: now + age)
        async with await open_sse(api.url, path, headers) as watch:
            return watch.status == 200

    assert await opens(30, path, {})
    assert not await opens(120, path, {})
    assert await opens(120, path, header)
    assert await opens(120, f"{path}&lastEventId=0-0", {})
    assert not await opens(1200, path, header)
    monkeypatch.setattr(time, "time", lambda: now + 120)
    ticket = answer.json()["ticket"]
    assert (await api.http.get(f"/api/v1/tasks?ticket={ticket}", headers=header)).status_code == 401


async def test_a_ticket_only_looks_on(guarded: Api) -> None:
    """With a ticket everything can be read; it buys no other ticket and publishes nothing."""
    answer = await guarded.http.post("/api/v1/stream-tickets", headers={"X-API-Key": "o"})
    ticket = f"?ticket={answer.json()['ticket']}"
    await guarded.get("/api/v1/tasks" + ticket)
    assert (await guarded.http.head("/api/v1/tasks" + ticket)).status_code == 200
    problem = await guarded.problem("POST", "/api/v1/stream-tickets" + ticket)
    assert (problem["status"], "X-API-Key" in problem["detail"]) == (401, True)
    for way in ({}, {"Expect": "100-continue"}):  # by the shortcut, and by the route
        problem = await guarded.problem("POST", "/api/v1/events" + ticket, json=output(), headers=way)
        assert problem["status"] == 401


async def test_pages_of_other_origins_are_kept_out(start: Start) -> None:
    """CORS headers and WebSockets are for our own origin and the configured ones only."""
    api = await start(server={"cors_origins": ("https://dashboard.example",)})
    origins = {api.url: True, "https://dashboard.example": True, "https://evil.example": False, "null": False}
    for origin, allowed in origins.items():
        answer = await api.http.get("/api/v1/tasks", headers={"Origin": origin})
        assert answer.headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)
        assert ("X-Stream-Cursor" in answer.headers.get("Access-Control-Expose-Headers", "")) == allowed
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        preflight = await api.http.options("/api/v1/events", headers=asked)
        askable = preflight.headers.get("Access-Control-Allow-Headers", "").split(", ")
        assert ({"Idempotency-Key", "Authorization", "*"} <= set(askable)) == allowed
        async with await open_ws(api.url, headers={"Origin": origin}) as watch:
            assert watch.status == (101 if allowed else 403)


async def test_a_page_has_a_session(guarded: Api) -> None:
    """A key is traded for a cookie that serves the page: reads, changes and streams, until it is ended."""
    answer = await guarded.http.post("/api/v1/session", headers={"X-API-Key": "o"})
    assert (answer.status_code, answer.json()["name"]) == (201, "ops")
    cookie = answer.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"))
    assert "Secure" not in cookie
    assert guarded.http.cookies.get("heliograph_session")
    assert (await guarded.get("/api/v1/session"))["by"] == "session"
    await guarded.publish(output())
    assert (await guarded.get("/api/v1/tasks"))["tasks"]
    jar = {"Cookie": cookie.partition(";")[0], "Origin": guarded.url}
    async with await open_ws(guarded.url, headers=jar) as watch:
        await watch.say("subscribe", channel="task:1")
        await watch.live()
    foreign = await guarded.http.post(
        "/api/v1/events", json=output(), headers={"Origin": "http://evil.example"}
    )
    assert foreign.status_code == 403
    again = await guarded.problem("POST", "/api/v1/session")
    assert (again["status"], "with a key" in again["detail"]) == (403, True)
    assert (await guarded.http.delete("/api/v1/session")).status_code == 204
    assert not guarded.http.cookies.get("heliograph_session")
    assert (await guarded.http.get("/api/v1/tasks")).status_code == 401


async def test_a_session_behind_tls_stays_there(guarded: Api) -> None:
    """Where the proxy says that TLS is outside the cookie is sent over TLS alone."""
    headers = {"X-API-Key": "r", "X-Forwarded-Proto": "https"}
    answer = await guarded.http.post("/api/v1/session", headers=headers)
    assert "; Secure" in answer.headers["set-cookie"]


async def test_a_named_network_is_served(start: Start) -> None:
    """Clients of an open network are served without a key, but not under a made-up name."""
    api = await start(auth={"keys": KEYS, "open_networks": ("127.0.0.0/8",)})
    await api.publish(output())
    assert (await api.get("/api/v1/session"))["by"] == "network"
    assert (await api.problem("GET", "/api/v1/nothing"))["status"] == 404
    for way in ({}, {"Expect": "100-continue"}):  # by the shortcut, and by the route
        found = await api.problem("GET", "/api/v1/tasks", headers={"Host": "evil.example", **way})
        assert found["status"] == 403
