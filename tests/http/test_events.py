"""The list of events."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from tests.http.conftest import Api, Start, output

from heliograph.http.rules.parameters import MAX_SELECTORS, encode_cursor

PATH = "/api/v1/events"


@pytest.mark.parametrize("position", [9_999_999_999_999_999_999, 2**63, 0, -1])
async def test_a_cursor_beyond_all_ids_is_refused(api: Api, position: int) -> None:
    """A number that no database holds, or that is no event's, is no cursor of this list."""
    problem = await api.problem("GET", f"{PATH}?cursor={encode_cursor(position)}")
    assert (problem["status"], problem["errors"][0]["field"]) == (422, "cursor")


async def outputs(api: Api, **query: str) -> list[Any]:
    """Return the texts of output that a list of events shows."""
    answer = await api.http.get(PATH, params={"topic": "task.output", **query})
    assert answer.status_code == 200, answer.text
    return [event["payload"]["output"] for event in answer.json()["events"]]


async def test_the_list_goes_on_from_its_cursor(api: Api) -> None:
    """Page by page the list gives every event once, newest first."""
    await api.publish(*(output(text=str(number)) for number in range(5)))
    page = await api.get(f"{PATH}?topic=task.output&limit=3")
    assert [event["payload"]["output"] for event in page["events"]] == ["4", "3", "2"]
    assert await outputs(api, cursor=page["meta"]["next_cursor"]) == ["1", "0"]


async def test_channels_beyond_what_is_read_at_once(start: Start) -> None:
    """As many channels as the database reads at once are read; one more is refused, whatever is allowed."""
    api = await start(streams={"max_channels": 1000})
    await api.publish(output("499"))
    channels = [f"channel=task:{number}" for number in range(MAX_SELECTORS + 1)]
    assert len((await api.get(f"{PATH}?{'&'.join(channels[1:])}"))["events"]) == 1
    for path in (PATH, f"{PATH}/stream"):
        problem = await api.problem("GET", f"{path}?{'&'.join(channels)}")
        assert (problem["status"], problem["errors"][0]["field"]) == (422, "channel")


async def test_the_list_is_filtered(api: Api) -> None:
    """By sender, correlation id and when the log took them, alone and together; a wrong filter is named."""
    by = [{"sender": sender, "correlation_id": why} for sender in ("x", "y z") for why in ("1", "2")]
    for number, more in enumerate(by):
        item = {"topic": "task.output", "payload": {"task_id": "1", "output": str(number)}, **more}
        await api.publish(item)
    listed = (await api.get(f"{PATH}?topic=task.output"))["events"][::-1]
    ids = [event["id"] for event in listed]
    assert await outputs(api, sender="x") == ["1", "0"]
    assert await outputs(api, sender="y z", correlation_id="2") == ["3"]
    assert await outputs(api, since=ids[1]) == ["3", "2"]
    assert await outputs(api, until=ids[1]) == ["1", "0"]
    assert await outputs(api, since=ids[0], until=ids[2], correlation_id="1") == ["2"]
    moment = datetime.fromtimestamp(int(ids[2].partition("-")[0]) / 1000, UTC)
    for text in (moment.isoformat(), moment.astimezone(timezone(timedelta(hours=2))).isoformat()):
        since, until = await outputs(api, since=text), await outputs(api, until=text)
        assert since + until == ["3", "2", "1", "0"]
        assert "2" in since
    assert await outputs(api, since="1970-01-01T00:00:00Z", until="9000-01-01T00:00:00Z") == [
        "3",
        "2",
        "1",
        "0",
    ]
    assert await outputs(api, until="1970-01-01T00:00:00Z") == []
    for query in ("since=yesterday", "until=1", "sender=%00", "sent_by=x"):
        problem = await api.problem("GET", f"{PATH}?{query}")
        assert (problem["status"], problem["errors"][0]["field"]) == (422, query.partition("=")[0])
