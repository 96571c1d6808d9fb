"""Groups of tasks: by agent, model or session, with their counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

import attrs

from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.routes.tasks import GROUPED, TaskNarrowing
from heliograph.http.api.services import Services
from heliograph.http.api.shared import ListMeta
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.parameters import Word, encode_cursor, page_cursor, page_limit, query
from heliograph.http.rules.schema import COUNT, record, says
from heliograph.model.errors import Invalid, Unavailable
from heliograph.model.ids import to_microseconds
from heliograph.model.task import STATUSES, TASK


def _group_key(newest: int, name: str) -> tuple[int, str]:
    if not 0 <= newest < 2**58:
        raise ValueError("no group has such a key")
    return newest, name


@attrs.frozen
class GroupListing(TaskNarrowing):
    """The filters of tasks, and the field that they are grouped by."""

    by: str = query(Word(GROUPED), "The field that tasks are grouped by.", default="agent")
    limit: int = page_limit()
    cursor: tuple[int, str] | None = page_cursor(_group_key, int, str)


@attrs.frozen
class TaskGroup:
    """The tasks with one value of a field."""

    name: Annotated[str | None, says("The value of that field; null: the tasks without one.")]
    tasks: Annotated[Mapping[str, int], says(**record(dict.fromkeys(STATUSES, COUNT)))]
    newest: Annotated[datetime, says("When the newest of them was created.")]


@attrs.frozen
class TaskGroupList:
    """A page of groups."""

    groups: Sequence[TaskGroup]
    meta: ListMeta


async def list_groups(services: Services, who: Identity, asked: GroupListing) -> TaskGroupList:
    """List groups of tasks, the one with the newest task first, with the counts of its tasks by status."""
    look = services.store.look()
    found, more = await look.groups(TASK, asked.by, "status", asked.filter(), asked.cursor, asked.limit)
    groups = [
        TaskGroup(group.name, dict.fromkeys(STATUSES, 0) | dict(group.counts), group.newest)
        for group in found
    ]
    last = encode_cursor(to_microseconds(found[-1].newest), found[-1].name or "") if more else None
    return TaskGroupList(groups, ListMeta(last, look.position))


ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/v1/task-groups",
        list_groups,
        "tasks",
        Described("A page of groups."),
        channels=lambda asked: ("task:*",),
        refuses=(Invalid, Unavailable),
        example=TaskGroupList(
            [TaskGroup("planner", {**dict.fromkeys(STATUSES, 0), "completed": 1}, samples.TASK.created_at)],
            samples.LAST_PAGE,
        ),
    ),
]
