"""What the factories promise, which is what the fleet's own tests hold them to."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import (
    ConversationFactory,
    InvalidTransitionError,
    SessionFactory,
    Task,
    TaskFactory,
    TaskStatus,
    WebhookCommand,
    WebhookFactory,
)
from tests.factories.webhook_factory import WebhookValidationError

from heliograph.model.errors import HeliographError
from heliograph.model.event import Event
from heliograph.model.ids import make_id
from heliograph.model.prices import Price, Prices, Usage
from heliograph.model.task import LOST, STATUSES, TERMINAL
from heliograph.model.task import Task as ServiceTask

FACTORIES = (TaskFactory, SessionFactory, ConversationFactory, WebhookFactory)


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Begin the ids anew for each test."""
    for factory in FACTORIES:
        factory.reset()


def test_ids_count_and_begin_anew() -> None:
    """Each factory counts its ids from 001, and anew after a reset."""
    assert [TaskFactory.create().task_id for _ in range(2)] == ["task-001", "task-002"]
    TaskFactory.reset()
    assert TaskFactory.create().task_id == "task-001"
    assert SessionFactory.create().session_id == "session-001"
    assert ConversationFactory.create().conversation_id == "conv-001"
    assert WebhookFactory.create().webhook_id == "webhook-001"


def test_statuses_are_the_services() -> None:
    """The statuses are those of the service but for the one that only it finds; its ends are ends here."""
    assert [status.value for status in TaskStatus] == [status for status in STATUSES if status != LOST]
    ends = {status.value for status, further in Task.VALID_TRANSITIONS.items() if not further}
    assert ends == TERMINAL - {LOST}


@pytest.mark.parametrize("current", TaskStatus)
@pytest.mark.parametrize("wanted", TaskStatus)
def test_a_task_goes_only_where_it_may(current: TaskStatus, wanted: TaskStatus) -> None:
    """Every transition that is not listed is an error that names both ends."""
    task = TaskFactory.create(status=current)
    steps = {
        TaskStatus.RUNNING: task.resume if current is TaskStatus.WAITING_INPUT else task.start,
        TaskStatus.WAITING_INPUT: task.wait_for_input,
        TaskStatus.COMPLETED: lambda: task.complete("done"),
        TaskStatus.FAILED: lambda: task.fail("boom"),
        TaskStatus.CANCELLED: task.cancel,
    }
    if wanted not in steps:
        assert not task.can_transition_to(wanted)
    elif task.can_transition_to(wanted):
        steps[wanted]()
        assert task.status is wanted
    else:
        with pytest.raises(InvalidTransitionError, match=f"from {current.value} to {wanted.value}"):
            steps[wanted]()


@given(st.lists(st.sampled_from(TaskStatus), max_size=12))
def test_the_service_follows_every_course_that_a_task_may_take(wanted: list[TaskStatus]) -> None:
    """Published status by status, a course of valid transitions leaves the service's task where it went."""
    ours, theirs = TaskFactory.create(), None
    for number, status in enumerate(wanted, 1):
        if not ours.can_transition_to(status):
            continue
        ours.status = status
        payload = {"task_id": ours.task_id, "status": status.value}
        event = Event(
            make_id(number), f"task:{ours.task_id}", number, "task.status", ours.created_at, payload
        )
        theirs = theirs or ServiceTask.first_seen(event)
        theirs.apply(event)
    assert theirs is None or theirs.status == ours.status.value


def test_tasks_as_they_are_made() -> None:
    """The factory's tasks are in the status that they are asked for, with what belongs to it."""
    assert TaskFactory.create_queued().status is TaskStatus.QUEUED
    assert TaskFactory.create_running().started_at is not None
    done = TaskFactory.create_completed("ok")
    assert (done.result, done.cost_usd, done.completed_at is not None) == ("ok", 0.05, True)
    assert TaskFactory.create_failed("boom").error == "boom"


def test_costs_of_models() -> None:
    """Prices are for a million tokens; one that nobody knows takes the price of ``*``."""
    table = {"claude-opus-4": (15, 75), "claude-sonnet-4": (3, 15), "*": (3, 15)}
    prices = Prices([Price(name, Decimal(i), Decimal(o)) for name, (i, o) in table.items()])
    usage = Usage(1_000_000, output=1_000_000)
    moment = datetime.now(UTC)
    assert prices.cost("claude-opus-4", moment, usage) == 90 * 10**9
    assert prices.cost("claude-sonnet-4-20250514", moment, usage) == 18 * 10**9
    assert prices.cost("a-model-of-tomorrow", moment, usage) == 18 * 10**9


def test_rates_and_averages() -> None:
    """Of ten tasks of which eight completed the rate is 80, of none 0; averages are of the completed."""
    tasks = [TaskFactory.create_completed(duration_seconds=2.0) for _ in range(8)]
    tasks += [TaskFactory.create_failed() for _ in range(2)]
    assert _success_rate(tasks) == 80.0
    assert _success_rate([]) == 0.0
    assert _average_duration(tasks) == 2.0
    assert _average_duration(tasks[8:]) == 0.0


def _success_rate(tasks: list[Task]) -> float:
    done = sum(task.status is TaskStatus.COMPLETED for task in tasks)
    return 100.0 * done / len(tasks) if tasks else 0.0


def _average_duration(tasks: list[Task]) -> float:
    lengths = [task.duration_seconds for task in tasks if task.status is TaskStatus.COMPLETED]
    return sum(lengths) / len(lengths) if lengths else 0.0


def test_costs_by_day_and_agent_add_up() -> None:
    """Costs by the day of ``completed_at``, and by agent type, come to the same total."""
    day = datetime(2026, 1, 31, 12, tzinfo=UTC)
    tasks = [
        TaskFactory.create_completed(
            cost_usd=0.25,
            agent_type=("planning", "executor")[n % 2],
            completed_at=day - timedelta(days=n % 3),
        )
        for n in range(6)
    ]
    by_day: dict[object, float] = defaultdict(float)
    by_agent: dict[str, float] = defaultdict(float)
    for task in tasks:
        assert task.completed_at is not None
        by_day[task.completed_at.date()] += task.cost_usd
        by_agent[task.agent_type] += task.cost_usd
    assert len(by_day) == 3
    assert sum(by_day.values()) == sum(by_agent.values()) == 1.5


def test_sessions() -> None:
    """A session counts its tasks, ends, is held back, and says what is wrong with it."""
    session = SessionFactory.create_active()
    session.add_completed_task(0.25)
    session.add_completed_task(0.5)
    assert (session.total_tasks, session.total_cost_usd, session.active) == (2, 0.75, True)
    assert session.validate() == []
    ended = SessionFactory.create_disconnected()
    assert (ended.active, ended.disconnected_at is not None) == (False, True)
    assert not SessionFactory.create_rate_limited().active
    assert len(SessionFactory.create(user_id=" ", total_cost_usd=-1).validate()) == 2


def test_a_conversation_adds_up_its_tasks() -> None:
    """Cost, number and duration are of all tasks, failed ones too; the times span the first to the last."""
    conversation = ConversationFactory.create()
    first = TaskFactory.create_completed(cost_usd=0.5, duration_seconds=2.0)
    second = TaskFactory.create_failed()
    second.cost_usd, second.duration_seconds = 0.25, 1.0
    for task in (second, first):
        conversation.add_task(task)
    assert (conversation.total_tasks, conversation.total_cost_usd, conversation.total_duration_seconds) == (
        2,
        0.75,
        3.0,
    )
    assert (conversation.started_at, conversation.completed_at) == (first.started_at, second.completed_at)


def test_conversations_keep_their_messages() -> None:
    """Messages come oldest first; what is put away keeps its data."""
    conversation = ConversationFactory.create_with_messages()
    assert [message.role for message in conversation.get_messages_ordered()] == [
        "user",
        "assistant",
        "user",
    ]
    conversation.archive()
    assert conversation.is_archived
    assert len(conversation.messages) == 3
    assert ConversationFactory.create_archived().is_archived


@pytest.mark.parametrize(
    "endpoint", ["/webhooks/My-Hook", "hook_underscore", "/api/webhooks/hook", "webhooks/no-slash"]
)
def test_a_bad_endpoint_is_refused(endpoint: str) -> None:
    """An endpoint is /webhooks/ and a name in lower case."""
    with pytest.raises(WebhookValidationError, match="endpoint"):
        WebhookFactory.create(endpoint=endpoint).validate()


def test_bad_commands_are_refused() -> None:
    """No commands, one name twice, a default that is none, an empty template: each is refused."""
    twice = [WebhookCommand(), WebhookCommand()]
    for wrong in (
        WebhookFactory.create(commands=[]),
        WebhookFactory.create(commands=twice),
        WebhookFactory.create(default_command="other"),
        WebhookFactory.create(commands=[WebhookCommand(template="")]),
        WebhookFactory.create(provider="nobody"),
    ):
        with pytest.raises(WebhookValidationError):
            wrong.validate()
    assert issubclass(WebhookValidationError, HeliographError)


def test_webhooks_as_they_are_made() -> None:
    """What the factory makes is good; only what comes from a file can't be changed."""
    made = [
        WebhookFactory.create(default_command="analyze"),
        WebhookFactory.create_github_webhook(),
        WebhookFactory.create_jira_webhook(),
        WebhookFactory.create_builtin("slack"),
        WebhookFactory.create_dynamic(),
    ]
    for webhook in made:
        webhook.validate()
    assert [webhook.is_mutable() for webhook in made] == [True, True, True, False, True]
    assert made[3].provider == "slack"
