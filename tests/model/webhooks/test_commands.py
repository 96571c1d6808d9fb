"""From a delivery to the input of a task: reading it, finding its command, filling the template."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import json_values

from heliograph.model.errors import Malformed
from heliograph.model.webhooks.commands import CommandCall, find_command, input_of
from heliograph.model.webhooks.config import PROVIDERS, Command, WebhookConfig
from heliograph.model.webhooks.reading import FORM, ParsedDelivery, read_delivery

COMMENT = {
    "action": "created",
    "issue": {"number": 12, "title": "It breaks", "body": "Steps …", "html_url": "https://x/12"},
    "comment": {"id": 5, "body": "@agent fix the login", "html_url": "https://x/12#5"},
    "repository": {"full_name": "acme/app"},
    "sender": {"login": "ada", "type": "User"},
}
JIRA = {
    "webhookEvent": "comment_created",
    "comment": {
        "id": "7",
        "author": {"displayName": "Ada"},
        "body": {
            "type": "doc",
            "content": [{"type": "paragraph", "content": [{"type": "text", "text": "@agent plan"}]}],
        },
    },
    "issue": {"key": "KEY-1", "fields": {"summary": "Slow", "project": {"key": "KEY"}}},
}
SLACK = {
    "type": "event_callback",
    "event_id": "Ev1",
    "team_id": "T",
    "event": {"type": "app_mention", "text": "@agent plan it", "channel": "C", "ts": "1.2", "user": "U"},
}


def read(provider: str, payload: Any, **headers: str) -> ParsedDelivery:
    """Read a delivery in JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_delivery(provider, named, json.dumps(payload).encode())


@pytest.mark.parametrize(
    ("provider", "payload", "headers", "event", "text", "delivery", "flow"),
    [
        (
            "github",
            COMMENT,
            {"x_github_event": "issue_comment", "x_github_delivery": "d1"},
            "issue_comment.created",
            "@agent fix the login",
            "d1",
            "github:acme/app#12",
        ),
        (
            "github",
            {**COMMENT, "action": "opened", "comment": ...},
            {"x_github_event": "issues"},
            "issues.opened",
            "It breaks\n\nSteps …",
            None,
            "github:acme/app#12",
        ),
        (
            "jira",
            JIRA,
            {"x_atlassian_webhook_identifier": "j1"},
            "comment_created",
            "@agent plan\n",
            "j1",
            "jira:KEY-1",
        ),
        ("slack", SLACK, {}, "app_mention", "@agent plan it", "Ev1", "slack:C:1.2"),
        (
            "gitlab",
            {
                "object_kind": "note",
                "object_attributes": {"note": "go"},
                "project": {"path_with_namespace": "a/b"},
                "issue": {"iid": 3},
            },
            {"x_gitlab_event_uuid": "g"},
            "note",
            "go",
            "g",
            "gitlab:a/b#3",
        ),
        (
            "sentry",
            {"action": "created", "data": {"issue": {"title": "Boom", "shortId": "APP-1"}}},
            {"sentry_hook_resource": "issue", "request_id": "s"},
            "issue.created",
            "Boom",
            "s",
            "sentry:APP-1",
        ),
        (
            "stripe",
            {"id": "evt_1", "type": "charge.failed", "data": {"object": {"id": "ch_1"}}},
            {},
            "charge.failed",
            "charge.failed",
            "evt_1",
            "stripe:ch_1",
        ),
        (
            "standard",
            {"type": "a.b", "data": {"text": "t"}},
            {"webhook_id": "m"},
            "a.b",
            "t",
            "m",
            None,
        ),
        ("custom", {"event": "deploy", "message": "go"}, {"x_delivery_id": "c"}, "deploy", "go", "c", None),
    ],
)
def test_each_provider_is_read(
    provider: str, payload: Any, headers: dict[str, str], event: str, text: str, delivery: Any, flow: Any
) -> None:
    """Of each provider the event, the text, the delivery's id and what belongs together are found."""
    payload = {name: value for name, value in payload.items() if value is not ...}
    said = read(provider, payload, **headers)
    assert (said.event_type, said.text, said.delivery_id, said.flow_id) == (event, text, delivery, flow)


def test_where_a_delivery_comes_from() -> None:
    """What the answer needs to find its place again is kept, without what is not there."""
    said = read("github", COMMENT, x_github_event="issue_comment")
    assert said.metadata == {
        "repo": "acme/app",
        "number": "12",
        "url": "https://x/12#5",
        "comment_id": "5",
        "sender": "ada",
    }
    assert said.title == "It breaks"


def test_forms_and_challenges() -> None:
    """Slack's commands and GitHub's forms are read as well; Slack's question is found."""
    form = {"command": "/agent", "text": "plan", "channel_id": "C", "trigger_id": "t", "user_id": "U"}
    headers = {"content-type": f"{FORM}; charset=utf-8", "x-github-event": "ping"}
    said = read_delivery("slack", headers, urlencode(form).encode())
    assert (said.event_type, said.text, said.delivery_id) == ("slash_command", "plan", "t")
    said = read_delivery("github", headers, urlencode({"payload": '{"zen":"z"}'}).encode())
    assert (said.event_type, said.payload) == ("ping", {"zen": "z"})
    assert read("slack", {"type": "url_verification", "challenge": "c"}).challenge == "c"
    for body in (b"", b"[]", b"x", b"\xff"):
        with pytest.raises(Malformed):
            read_delivery("custom", {}, body)


@given(
    st.sampled_from(PROVIDERS),
    st.dictionaries(
        st.sampled_from(["action", "issue", "comment", "event", "data", "object_attributes", "text", "id"]),
        json_values(),
    ),
)
def test_no_payload_is_too_odd(provider: str, payload: dict[str, Any]) -> None:
    """Whatever JSON object a provider sends, it is read."""
    said = read_delivery(provider, {}, json.dumps(payload, default=str).encode())
    assert isinstance(said.text, str)
    assert said.event_type


CONFIG = WebhookConfig(
    webhook_id="static-github",
    name="github",
    provider="github",
    endpoint="/webhooks/github",
    commands=(
        Command("fix", "Fix {{ text }} in {{ issue.title }} ({{ event_type }})", ("repair",)),
        Command("plan", "Plan {{ text }}"),
        Command("triage", "Triage {{ title }}", trigger="issues.opened", priority=1),
        Command("greet", "Hello", trigger="issues.*", conditions={"action": "opened"}),
        Command("bye", "Bye", trigger="issues.closed"),
    ),
    default_command="plan",
    prefix="@agent",
    aliases=("/agent",),
    assignee="Agent-Bot",
)


def asked(text: str, **more: Any) -> CommandCall | str:
    """Return what a delivery with a text asks for."""
    said = {"event_type": "issue_comment.created", "payload": {}, "text": text, **more}
    return find_command(CONFIG, ParsedDelivery(**said))


@pytest.mark.parametrize(
    ("text", "command", "rest"),
    [
        ("@agent fix the login", "fix", "the login"),
        ("@Agent FIX: the login", "fix", "the login"),
        ("hey\n@agent, repair\nthe login", "fix", "the login"),
        ("/agent the login", "plan", "the login"),
        ("please @agent", "plan", ""),
        ("@agent fixthe login", "plan", "fixthe login"),
    ],
)
def test_a_text_names_a_command(text: str, command: str, rest: str) -> None:
    """Behind the prefix or an alias, the first word names a command; if it doesn't, the default is meant."""
    found = asked(text)
    assert isinstance(found, CommandCall)
    assert (found.command.name, found.text) == (command, rest)


def test_what_asks_without_a_text() -> None:
    """Being assigned means the default; an event means the command of highest priority that waits for it."""
    found = asked("", assignee="agent-bot")
    assert isinstance(found, CommandCall)
    assert found.command.name == "plan"
    found = asked("It breaks", event_type="issues.opened", payload={"action": "opened"})
    assert isinstance(found, CommandCall)
    assert found.command.name == "triage"
    found = asked("It breaks", event_type="issues.edited", payload={"action": "opened"})
    assert isinstance(found, CommandCall)
    assert found.command.name == "greet"


@pytest.mark.parametrize("text", ["fix it", "mail@agent fix", "@agents fix", "@agent-two fix", ""])
def test_what_is_not_for_us_is_left(text: str) -> None:
    """A text that does not address us asks for nothing, and neither does a bot; the reason says so."""
    assert "does not address" in str(asked(text))
    assert "bot" in str(asked("@agent fix", by_bot=True))


def test_the_input_is_the_filled_template() -> None:
    """A template has the payload's own names and what was read of it."""
    said = read("github", COMMENT, x_github_event="issue_comment")
    found = find_command(CONFIG, said)
    assert isinstance(found, CommandCall)
    assert input_of(found, CONFIG, said) == "Fix the login in It breaks (issue_comment.created)"
