"""Webhooks and deliveries are the fold of the log, on both forms of storage."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest
from tests.conformance.test_storage import kept
from tests.storages import Form, archived

from heliograph.model.channels import WEBHOOKS
from heliograph.model.errors import Invalid
from heliograph.model.event import Draft
from heliograph.model.intake import parse_item
from heliograph.model.webhooks.delivery import DELIVERY, DeliveryFilter
from heliograph.model.webhooks.webhook import OWN_TOPICS, WEBHOOK, WebhookFilter


def told(topic: str, moment: str = "2026-01-31T12:00:00Z", **payload: Any) -> Draft:
    """Make the draft of an event on the channel of webhooks."""
    if topic in OWN_TOPICS:
        return Draft(WEBHOOKS, topic, payload, orjson.dumps(payload))
    return parse_item({"topic": topic, "channel": WEBHOOKS, "payload": payload, "timestamp": moment}, 1 << 20)


def delivery(number: int, outcome: str, moment: str = "2026-01-31T12:00:00Z") -> list[Draft]:
    """Make the events of a delivery as a gateway tells it."""
    about = {"webhook_event_id": f"e{number}", "source": "github"}
    events = [told("webhook.received", moment, **about, event_type="issues.opened", payload_size=10)]
    if outcome == "accepted":
        events.append(told("webhook.matched", moment, **about, matched_handler="fix"))
        events.append(told("webhook.task_created", moment, **about, task_id=f"t{number}"))
        events.append(told("response.immediate", moment, **about, task_id=f"t{number}"))
    elif outcome == "skipped":
        events.append(told("webhook.skipped", moment, **about, reason="bot"))
    return events


async def test_deliveries_are_folded_and_added_up(form: Form) -> None:
    """A delivery's events make one row, and its webhook counts it where it has come to, hour by hour."""
    outcomes = ["accepted", "skipped", "received", "accepted"]
    async with form.open() as storage:
        for number, outcome in enumerate(outcomes):
            for event in delivery(number, outcome, f"2026-01-31T1{number}:30:00Z"):
                await kept(storage, [event])
        measured: dict[str, Any] = {
            "webhook_id": "static-github",
            "refused": {"mismatch": 2},
            "latencies": {"5": 1},
        }
        await kept(storage, [told("webhook.measured", **measured), told("webhook.measured", **measured)])
        await archived(storage)
        found, more = await storage.store.list(DELIVERY, DeliveryFilter(), None, 10)
        webhook = await storage.store.get(WEBHOOK, "static-github")
        skipped, _ = await storage.store.list(DELIVERY, DeliveryFilter(status="skipped"), None, 10)
    assert not more
    assert [one.event_id for one in found] == ["e3", "e2", "e1", "e0"]
    first = found[3]
    assert (
        first.webhook_id,
        first.event_type,
        first.matched_command,
        first.task_id,
        first.response_sent,
    ) == (
        "static-github",
        "issues.opened",
        "fix",
        "t0",
        True,
    )
    assert [(one.event_id, one.reason) for one in skipped] == [("e1", "bot")]
    assert webhook is not None
    assert webhook.deliveries == Counter(outcomes)
    assert webhook.hours == {f"2026-01-31T1{number}:00:00Z": 1 for number in range(4)}
    assert (webhook.refused, webhook.latencies, webhook.received) == ({"mismatch": 4}, {"5": 2}, 4)
    assert webhook.last_event_at == found[0].created_at


async def test_a_configuration_lives_in_the_log(form: Form) -> None:
    """What was configured over HTTP is there as it was said, is switched, and is gone when it is removed."""
    configured = told(
        "webhook.configured", webhook_id="wh-1", enabled=True, definition={"name": "n"}, created_by="ada"
    )
    switched = told("webhook.switched", webhook_id="wh-1", enabled=False)
    async with form.open() as storage:
        await kept(storage, [configured], [switched])
        await archived(storage)
        webhook = await storage.store.get(WEBHOOK, "wh-1")
        assert webhook is not None
        assert (webhook.definition, webhook.enabled, webhook.created_by) == ({"name": "n"}, False, "ada")
        await kept(storage, [told("webhook.removed", webhook_id="wh-1")])
        await archived(storage)
        left, _ = await storage.store.list(WEBHOOK, WebhookFilter(removed=False), None, 10)
        assert left == []


@pytest.mark.parametrize("topic", sorted(OWN_TOPICS))
def test_publishers_cannot_configure(topic: str) -> None:
    """A key that may publish is not one that may configure: the service's own topics are refused."""
    with pytest.raises(Invalid, match="said by the service itself"):
        parse_item({"topic": topic, "payload": {"webhook_id": "wh-1"}}, 1000)


async def test_secrets_are_kept_apart(form: Form) -> None:
    """A secret is there after a restart, is replaced, and is forgotten."""
    for secret in ("a", "b", None):
        async with form.open() as storage:
            await storage.vault.keep("wh-1", secret)
            assert await storage.vault.secrets() == ({} if secret is None else {"wh-1": secret})
