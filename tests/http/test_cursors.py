"""Where each answer says that a stream goes on from it."""

from tests.http.conftest import Api, output


async def test_every_answer_says_where_to_go_on(api: Api) -> None:
    """Whatever is asked carries the cursor up to which it tells; the full log has it in a header."""
    cursor = (await api.publish(output(), output()))["cursor"]
    for path in (
        "/api/v1/tasks",
        "/api/v1/tasks/1",
        "/api/v1/tasks/1/logs",
        "/api/v1/events",
        "/api/v1/status",
    ):
        assert number((await api.get(path))["meta"]["stream_cursor"]) >= number(cursor)
    for kind in ("text/plain", "application/x-ndjson"):
        answer = await api.http.get("/api/v1/tasks/1/logs/full", headers={"Accept": kind})
        assert answer.headers["content-type"].startswith(kind)
        assert number(answer.headers["X-Stream-Cursor"]) >= number(cursor)


def number(cursor: str) -> tuple[int, ...]:
    """Return a cursor in a form that is ordered."""
    return tuple(map(int, cursor.split("-")))


async def test_a_web_socket_asked_for_as_a_page_says_so(api: Api) -> None:
    """Without an upgrade ``/ws`` tells that it is a WebSocket, in the answer that names the protocol."""
    answer = await api.http.get("/ws")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    problem = await api.problem("GET", "/ws")
    assert "WebSocket" in problem["detail"]
