"""Webhooks and deliveries are the fold of the log, on both forms of storage."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from tests.conformance.test_storage import kept, read_all
from tests.storages import Form, archived

from heliograph.model.channels import WEBHOOKS
from heliograph.model.errors import Invalid
from heliograph.model.event import Draft, Event
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


def recount(events: Sequence[Event]) -> tuple[dict[str, dict[str, Any]], dict[str, Counter[str]]]:
    """Count deliveries, and what each webhook has of which status, the slow and simple way."""
    told: dict[str, dict[str, Any]] = {}
    for one in events:
        name = one.payload["webhook_event_id"]
        delivery = told.setdefault(name, {"status": "received", "task": None, "hook": None})
        delivery["hook"] = (
            one.payload.get("webhook_id") or delivery["hook"] or f"static-{one.payload['source']}"
        )
        delivery["task"] = one.payload.get("task_id") or delivery["task"]
        if one.topic == "webhook.task_created":
            delivery["status"] = "accepted"
        elif one.topic == "webhook.skipped":
            delivery["status"] = "skipped"
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for delivery in told.values():
        counts[delivery["hook"]][delivery["status"]] += 1
    return told, counts


@pytest.mark.parametrize("seed", range(3))
async def test_any_order_and_batches_come_to_the_same(form: Form, seed: int) -> None:
    """Stages in any order, deliveries that move to another webhook, batches of any size: all is a recount."""
    chance = random.Random(seed)
    stages = ["received", "matched", "task_created", "skipped"]
    async with form.open() as storage:
        for _ in range(25):
            batch = []
            for _ in range(chance.randint(1, 6)):
                about = {"webhook_event_id": f"e{chance.randrange(8)}", "source": chance.choice(["a", "b"])}
                if chance.random() < 0.3:
                    about["webhook_id"] = f"wh-{chance.randrange(3)}"
                stage = chance.choice(stages)
                more = {"task_id": f"t{chance.randrange(9)}"} if stage == "task_created" else {}
                batch.append(told(f"webhook.{stage}", **about, **more))
            await kept(storage, batch)
        await archived(storage)
        deliveries, counts = recount(await read_all(storage))
        rows, _ = await storage.store.list(DELIVERY, DeliveryFilter(), None, 100)
        hooks, _ = await storage.store.list(WEBHOOK, WebhookFilter(), None, 100)
    assert {row.event_id: (row.status, row.task_id, row.webhook_id) for row in rows} == {
        name: (one["status"], one["task"], one["hook"]) for name, one in deliveries.items()
    }
    assert {hook.webhook_id: hook.deliveries for hook in hooks if hook.deliveries} == dict(counts)
    assert all(sum(hook.hours.values()) == hook.received for hook in hooks)


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
