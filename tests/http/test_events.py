"""The list of events."""

from typing import Any

import pytest
from tests.http.conftest import Api, output

from heliograph.http.requests import encode_cursor

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
