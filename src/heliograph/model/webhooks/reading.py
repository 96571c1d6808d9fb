"""Parsing of deliveries: each provider has its own fields for the event, the text and the id."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import attrs

from heliograph.model.errors import Malformed, TooLarge
from heliograph.model.exact_json import parts_of
from heliograph.model.mend import plain, read_json

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 1000
MOST_PARTS = 2_000_000
"""The most of what ``parts_of`` counts in a delivery; one of 10 MB has about as many."""

MOST_TYPE = 100
MOST_ID = 200


@attrs.frozen
class ParsedDelivery:
    """A parsed delivery.

    Args:
        event_type: The event, such as ``issue_comment.created``.
        payload: The whole payload.
        delivery_id: The provider's id of the delivery; ``None`` if it has none.
        text: The text that a person wrote.
        title: The subject, in one line.
        assignee: The person whom the event assigns.
        by_bot: Whether a program wrote it, which may be ourselves.
        flow_id: The id of the issue or thread that it belongs to; ``None`` if it is unknown.
        metadata: Further facts of the event, in the provider's terms.
        challenge: The answer that a provider demands before it sends deliveries.
    """

    event_type: str
    payload: Mapping[str, Any]
    delivery_id: str | None = None
    text: str = ""
    title: str = ""
    assignee: str = ""
    by_bot: bool = False
    flow_id: str | None = None
    metadata: Mapping[str, Any] = attrs.field(factory=dict)
    challenge: str | None = None


def read_delivery(provider: str, headers: Mapping[str, str], body: bytes) -> ParsedDelivery:
    """Parse a delivery.

    Args:
        provider: The provider of the delivery.
        headers: The headers of the request, with names in lower case.
        body: JSON, or a form.

    Raises:
        Malformed: The body is neither.
        TooLarge: It has too many parts.
    """
    if parts_of(body) > MOST_PARTS:
        raise TooLarge(f"a delivery may have at most {MOST_PARTS} brackets, commas, colons and quotes")
    payload = _payload(headers, body)
    said = _READERS.get(provider, _other)(headers, payload)
    return attrs.evolve(
        said,
        event_type=(said.event_type or "unknown")[:MOST_TYPE],
        delivery_id=said.delivery_id[:MOST_ID] if said.delivery_id else None,
        metadata={name: value for name, value in said.metadata.items() if value not in (None, "")},
    )


def digest(body: bytes) -> str:
    """Return a digest that serves as the id of a signed delivery without one."""
    return hashlib.sha256(body).hexdigest()


def _payload(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    if headers.get("content-type", "").partition(";")[0].strip().lower() == FORM:
        try:
            fields: dict[str, Any] = dict(
                parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
            )
        except ValueError as error:
            raise Malformed(f"the form can't be read: {error}") from None
        value = read_json(fields["payload"].encode()) if "payload" in fields else plain(fields)
    else:
        value = read_json(body)
    if not isinstance(value, dict):
        raise Malformed("a delivery must be a JSON object")
    return value


def _at(value: Any, way: str) -> Any:
    """Return the value at a path such as ``issue.user.login``; ``None`` if there is none."""
    for part in way.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _text(value: Any, *ways: str) -> str:
    """Return the first text at one of some paths."""
    for way in ways:
        found = _at(value, way)
        if isinstance(found, str) and found:
            return found
        if isinstance(found, int) and not isinstance(found, bool):
            return str(found)
    return ""


def _github(headers: Mapping[str, str], payload: dict[str, Any]) -> ParsedDelivery:
    event, action = headers.get("x-github-event", ""), _text(payload, "action")
    repo = _text(payload, "repository.full_name")
    number = _text(payload, "issue.number", "pull_request.number", "discussion.number")
    subject = "issue" if "issue" in payload else "pull_request"
    title = _text(payload, f"{subject}.title", "discussion.title")
    opened = "\n\n".join(filter(None, (title, _text(payload, f"{subject}.body", "discussion.body"))))
    written = _text(payload, "comment.body", "review.body")
    return ParsedDelivery(
        event_type=".".join(filter(None, (event, action))),
        payload=payload,
        delivery_id=headers.get("x-github-delivery"),
        text=written if "comment" in payload or "review" in payload else opened,
        title=title,
        assignee=_text(payload, "assignee.login") if action == "assigned" else "",
        by_bot=_text(payload, "sender.type") == "Bot",
        flow_id=f"github:{repo}#{number}" if repo and number else None,
        metadata={
            "repo": repo,
            "number": number,
            "url": _text(payload, "comment.html_url", f"{subject}.html_url", "repository.html_url"),
            "comment_id": _text(payload, "comment.id"),
            "sender": _text(payload, "sender.login"),
            "installation_id": _text(payload, "installation.id"),
        },
    )


def _jira(headers: Mapping[str, str], payload: dict[str, Any]) -> ParsedDelivery:
    key = _text(payload, "issue.key")
    title = _text(payload, "issue.fields.summary")
    comment = _at(payload, "comment.body")
    written = _document(comment) if comment is not None else ""
    opened = "\n\n".join(filter(None, (title, _document(_at(payload, "issue.fields.description")))))
    return ParsedDelivery(
        event_type=_text(payload, "webhookEvent", "issue_event_type_name"),
        payload=payload,
        delivery_id=headers.get("x-atlassian-webhook-identifier"),
        text=written if comment is not None else opened,
        title=title,
        assignee=_text(payload, "issue.fields.assignee.displayName", "issue.fields.assignee.name"),
        by_bot=_text(payload, "comment.author.accountType", "user.accountType") == "app",
        flow_id=f"jira:{key}" if key else None,
        metadata={
            "issue_key": key,
            "project": _text(payload, "issue.fields.project.key"),
            "url": _text(payload, "issue.self"),
            "comment_id": _text(payload, "comment.id"),
            "sender": _text(payload, "comment.author.displayName", "user.displayName", "user.name"),
        },
    )


def _document(value: Any) -> str:
    """Return the text of a document in Jira's format; plain text as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        own = _text(value, "text", "attrs.text")
        inner = _document(value.get("content"))
        return own + inner + ("\n" if value.get("type") in {"paragraph", "heading", "listItem"} else "")
    return "".join(map(_document, value)) if isinstance(value, list) else ""


def _slack(headers: Mapping[str, str], payload: dict[str, Any]) -> ParsedDelivery:
    event = payload.get("event") if isinstance(payload.get("event"), dict) else payload
    channel = _text(event, "channel", "channel_id", "channel.id")
    moment = _text(event, "thread_ts", "ts", "message.ts")
    kind = _text(event, "type") or ("slash_command" if "command" in payload else "")
    return ParsedDelivery(
        event_type=kind,
        payload=payload,
        delivery_id=_text(payload, "event_id", "trigger_id") or None,
        text=_text(event, "text"),
        title=_text(event, "text").partition("\n")[0][:100],
        by_bot=bool(_text(event, "bot_id", "bot_profile.id")) or _text(event, "subtype") == "bot_message",
        flow_id=f"slack:{channel}:{moment}" if channel and moment else None,
        metadata={
            "team": _text(payload, "team_id"),
            "channel": channel,
            "ts": _text(event, "ts"),
            "thread_ts": _text(event, "thread_ts"),
            "sender": _text(event, "user", "user_id", "user.id"),
            "response_url": _text(payload, "response_url"),
        },
        challenge=_text(payload, "challenge") if _text(payload, "type") == "url_verification" else None,
    )


def _gitlab(headers: Mapping[str, str], payload: dict[str, Any]) -> ParsedDelivery:
    kind, action = _text(payload, "object_kind", "event_type"), _text(payload, "object_attributes.action")
    repo = _text(payload, "project.path_with_namespace")
    number = _text(payload, "issue.iid", "merge_request.iid", "object_attributes.iid")
    title = _text(payload, "object_attributes.title", "issue.title", "merge_request.title")
    note = _text(payload, "object_attributes.note")
    opened = "\n\n".join(filter(None, (title, _text(payload, "object_attributes.description"))))
    return ParsedDelivery(
        event_type=".".join(filter(None, (kind, action))),
        payload=payload,
        delivery_id=headers.get("idempotency-key") or headers.get("x-gitlab-event-uuid"),
        text=note or opened,
        title=title,
        by_bot=_at(payload, "user.bot") is True,
        flow_id=f"gitlab:{repo}#{number}" if repo and number else None,
        metadata={
            "repo": repo,
            "number": number,
            "url": _text(payload, "object_attributes.url"),
            "sender": _text(payload, "user.username", "user_username"),
        },
    )


def _sentry(headers: Mapping[str, str], payload: dict[str, Any]) -> ParsedDelivery:
    resource = headers.get("sentry-hook-resource", "")
    found = _at(payload, "data.issue") or _at(payload, "data.event") or _at(payload, "data.error") or {}
    title = _text(found, "title", "message")
    number = _text(found, "shortId", "id", "event_id")
    return ParsedDelivery(
        event_type=".".join(filter(None, (resource, _text(payload, "action")))),
        payload=payload,
        delivery_id=headers.get("request-id"),
        text="\n\n".join(filter(None, (title, _text(found, "culprit")))),
        title=title,
        flow_id=f"sentry:{number}" if number else None,
        metadata={
            "project": _text(found, "project.slug", "project"),
            "url": _text(found, "web_url", "permalink", "url"),
            "level": _text(found, "level"),
        },
    )


def _other(headers: Mapping[str, str], payload: dict[str, Any]) -> ParsedDelivery:
    text = _text(payload, "text", "message", "comment", "prompt", "description", "data.text", "body")
    return ParsedDelivery(
        event_type=_text(payload, "type", "event_type", "event") or headers.get("x-event-type", ""),
        payload=payload,
        delivery_id=next(
            (
                headers[name]
                for name in ("webhook-id", "idempotency-key", "x-delivery-id", "x-request-id")
                if headers.get(name)
            ),
            _text(payload, "delivery_id") or None,
        ),
        text=text,
        title=_text(payload, "title", "subject") or text.partition("\n")[0][:100],
        flow_id=_text(payload, "flow_id") or None,
        metadata={"sender": _text(payload, "sender", "user"), "url": _text(payload, "url")},
    )


def _stripe(headers: Mapping[str, str], payload: dict[str, Any]) -> ParsedDelivery:
    thing = _text(payload, "data.object.id")
    return ParsedDelivery(
        event_type=_text(payload, "type"),
        payload=payload,
        delivery_id=_text(payload, "id") or None,
        text=_text(payload, "data.object.description", "type"),
        title=_text(payload, "type"),
        flow_id=f"stripe:{thing}" if thing else None,
        metadata={"object": thing, "account": _text(payload, "account")},
    )


_READERS: Mapping[str, Callable[[Mapping[str, str], dict[str, Any]], ParsedDelivery]] = {
    "github": _github,
    "jira": _jira,
    "slack": _slack,
    "gitlab": _gitlab,
    "sentry": _sentry,
    "stripe": _stripe,
}


HEADERS = (
    *("content-type", "x-github-event", "x-github-delivery", "x-atlassian-webhook-identifier"),
    *("idempotency-key", "x-gitlab-event-uuid", "sentry-hook-resource", "request-id"),
    *("webhook-id", "x-delivery-id", "x-request-id", "x-event-type"),
)
"""The headers that are read here."""
