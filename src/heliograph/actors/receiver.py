"""The receiver: takes in deliveries to webhooks, and answers when they are in the log.

A delivery's signature and time are checked, its body is parsed, and it becomes a task if it asks for a
command. All its events are appended as one request, so all are kept or none. A delivery is kept once: its
first event has the delivery's id as its idempotency key, and a random part in its content. So if a delivery
is repeated, even at the same moment on two nodes, the log itself refuses the second. Keys are forgotten after
a while, so a delivery without a time in its signature is also looked up among the store's deliveries.

A body may have megabytes, and need not be signed. A large one is checked, parsed and cut to the size of an
event in a thread; two at a time, since each takes many times its size of memory; others wait.

A refused delivery leaves no event of its own, since anybody may send one. Refusals are counted, and the
counts published once a second.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from secrets import token_hex
from typing import Any, ParamSpec, TypeVar

import attrs
import structlog
import trio

from heliograph.actors.engine import Engine
from heliograph.actors.webhooks import Hook, Webhooks
from heliograph.model.analytics.sketch import bin_of
from heliograph.model.channels import WEBHOOKS
from heliograph.model.dispatch import REQUESTED
from heliograph.model.errors import (
    BadSignature,
    Conflict,
    Forbidden,
    HeliographError,
    Malformed,
    RepeatedDelivery,
    TooLarge,
    Unavailable,
)
from heliograph.model.event import Draft
from heliograph.model.mend import mend
from heliograph.model.webhooks import reading, signatures
from heliograph.model.webhooks.commands import CommandCall, find_command, input_of
from heliograph.model.webhooks.delivery import DELIVERY, RECEIVED, SKIPPED, TASK_CREATED, DeliveryFilter
from heliograph.model.webhooks.reading import ParsedDelivery, digest, read_delivery
from heliograph.model.webhooks.templates import BadTemplate
from heliograph.model.webhooks.webhook import MEASURED
from heliograph.storage.protocols import Receipt, Store

INTERVAL_SECONDS = 1.0
KEYS = "webhooks/"
"""The beginning of the idempotency keys of deliveries."""
LARGE_BYTES = 64 * 1024
"""The size from which a delivery is worked on in a thread."""
LARGE_AT_ONCE = 2
MOST_SHOWN = 500
"""The most characters of a task's input in the events of webhooks."""

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


@attrs.frozen
class Received:
    """The outcome of a delivery.

    Args:
        event_id: Our id of the delivery.
        webhook_id: The webhook that it came to.
        event_type: The name of the provider's event.
        matched_command: The command that it asks for.
        task_id: The task that was made of it.
        reason: Why no task was made.
        challenge: The answer to a provider's challenge; such a delivery is not kept.
    """

    webhook_id: str
    event_type: str
    event_id: str | None = None
    matched_command: str | None = None
    task_id: str | None = None
    reason: str | None = None
    challenge: str | None = None


@attrs.frozen
class ReceiverStats:
    """Counters since the start.

    Args:
        accepted: Deliveries that became tasks.
        skipped: Deliveries that asked for no task.
        refused: The number of refused deliveries, by reason.
    """

    accepted: int
    skipped: int
    refused: Mapping[str, int]


class Receiver:
    """Takes deliveries in.

    Args:
        webhooks: The webhooks that exist.
        store: The store of earlier deliveries.
        append: Appends drafts to the log.
        engine: The engine, which is given the new tasks a moment later.
        repo_path: The folder in which the engine finds the code.
        max_bytes: Limit of an event's payload.
    """

    def __init__(
        self,
        webhooks: Webhooks,
        store: Store,
        append: Callable[[Sequence[Draft]], Awaitable[Receipt]],
        engine: Engine,
        repo_path: str | None,
        max_bytes: int,
    ) -> None:
        self._webhooks = webhooks
        self._append = append
        self._engine = engine
        self._repo_path = repo_path
        self._max_bytes = max_bytes
        self._large = trio.CapacityLimiter(LARGE_AT_ONCE)
        self._known = _Known(store)
        self._outcomes: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._refused: dict[str, Counter[str]] = {}
        self._latencies: dict[str, Counter[str]] = {}

    def stats(self) -> ReceiverStats:
        """Return a snapshot of the counters."""
        return ReceiverStats(self._outcomes["accepted"], self._outcomes["skipped"], dict(self._refusals))

    async def run(self) -> None:
        """Publish once a second what was refused and how long deliveries took, until cancelled."""
        while True:
            await trio.sleep(INTERVAL_SECONDS)
            await self._publish_counts()

    async def receive(self, slug: str, header: Callable[[str], str | None], body: bytes) -> Received:
        """Take a delivery in.

        Args:
            slug: The last part of the webhook's endpoint.
            header: Returns a header of the request.
            body: The body of the request.

        Raises:
            NotFound: No webhook has this endpoint.
            Forbidden: The webhook is switched off.
            BadSignature: The signature is missing, wrong or too old.
            Malformed: The body can't be parsed.
            TooLarge: The body has too many parts.
            RepeatedDelivery: The delivery was taken before.
            Unavailable: The delivery can't be kept now.
        """
        began = time.perf_counter()
        hook = self._webhooks.at(slug)
        try:
            received = await self._receive(hook, header, body)
        except HeliographError as error:
            reason = _reason(error)
            self._refusals[reason] += 1
            self._refused.setdefault(hook.webhook_id, Counter())[reason] += 1
            raise
        if received.challenge is None:
            self._outcomes["skipped" if received.task_id is None else "accepted"] += 1
            took = bin_of(round((time.perf_counter() - began) * 1_000_000))
            self._latencies.setdefault(hook.webhook_id, Counter())[str(took)] += 1
        return received

    async def _receive(self, hook: Hook, header: Callable[[str], str | None], body: bytes) -> Received:
        config = hook.config
        if not config.enabled:
            raise Forbidden("the webhook is switched off")
        own = config.signature_header.lower() or signatures.HEADERS[config.provider]
        names = {*reading.HEADERS, *signatures.MORE_HEADERS, own}
        headers = {name: value for name in names if (value := header(name)) is not None}
        signed = await self._work(len(body), self._check, hook, headers, body)
        said = await self._work(len(body), read_delivery, config.provider, headers, body)
        if said.challenge is not None:
            return Received(hook.webhook_id, said.event_type, challenge=said.challenge)
        if said.delivery_id is None and signed:
            said = attrs.evolve(said, delivery_id=digest(body))
        event_id = _event_id(hook, said)
        if said.delivery_id is not None and config.provider not in signatures.TIMED:
            await self._refuse_repeated(event_id)
        received, drafts = await self._work(len(body), self._drafts, hook, said, event_id, len(body), signed)
        try:
            await self._append(drafts)
        except Conflict:
            raise RepeatedDelivery(f"the delivery {said.delivery_id} was taken before") from None
        if received.task_id is not None:
            self._engine.wake()
        return received

    async def _work(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do a part of the work on a delivery of ``size`` bytes, in a thread if it is large."""
        if size < LARGE_BYTES:
            return work(*args, **kwargs)
        return await trio.to_thread.run_sync(partial(work, *args, **kwargs), limiter=self._large)

    def _check(self, hook: Hook, headers: Mapping[str, str], body: bytes) -> bool:
        """Check the signature if there is a secret, or must be one; tell whether it was checked."""
        config = hook.config
        if hook.secret is None:
            if config.requires_signature:
                missing = f"{config.secret_env} is not set" if config.secret_env else "it has none"
                raise BadSignature(
                    "no_secret", f"the webhook needs a secret to check signatures by, and {missing}"
                )
            return False
        signatures.verify(config.provider, headers, body, hook.secret, time.time(), config.signature_header)
        return True

    async def _refuse_repeated(self, event_id: str) -> None:
        try:
            known = await self._known.has(event_id)
        except Unavailable:
            return  # the log remembers keys for longer than an outage
        if known:
            raise RepeatedDelivery("the delivery was taken before")

    def _drafts(
        self, hook: Hook, said: ParsedDelivery, event_id: str, size: int, signed: bool
    ) -> tuple[Received, list[Draft]]:
        """Make all events of a delivery."""
        config = hook.config
        about = {
            "webhook_event_id": event_id,
            "webhook_id": hook.webhook_id,
            "source": config.provider,
            "event_type": said.event_type,
        }
        received = Received(hook.webhook_id, said.event_type, event_id)
        first = {
            **about,
            "delivery_id": said.delivery_id,
            "payload_size": size,
            "signature_valid": True if signed else None,
            "receipt": token_hex(8),
            "payload": dict(said.payload),
        }
        items = [_item(RECEIVED, WEBHOOKS, first)]
        asked = find_command(config, said)
        text = ""
        if isinstance(asked, CommandCall):
            try:
                text = input_of(asked, config, said)
            except BadTemplate as error:
                log.warning(
                    "template failed", webhook=hook.webhook_id, command=asked.command.name, reason=str(error)
                )
                asked = str(error)
        if isinstance(asked, CommandCall):
            task_id = f"task-{token_hex(8)}"
            command = asked.command
            received = attrs.evolve(received, matched_command=command.name, task_id=task_id)
            about |= {"task_id": task_id, "matched_command": command.name, "input_message": text[:MOST_SHOWN]}
            items += [
                _item(TASK_CREATED, WEBHOOKS, dict(about)),
                _item("task.created", f"task:{task_id}", _task(hook, said, asked, text, event_id, task_id)),
                _item(TASK_CREATED, f"task:{task_id}", dict(about)),
            ]
            if self._engine.configured:
                items.append(_item(REQUESTED, f"task:{task_id}", self._request(hook, said, task_id, text)))
        else:
            received = attrs.evolve(received, reason=asked)
            items.append(_item(SKIPPED, WEBHOOKS, {**about, "reason": asked}))
        around = {"sender": f"webhook:{config.slug}"[:200], "correlation_id": event_id}
        drafts = [mend({**item, **around}, self._max_bytes) for item in items]
        return received, [drafts[0]._replace(key=f"{KEYS}{event_id}"), *drafts[1:]]

    def _request(self, hook: Hook, said: ParsedDelivery, task_id: str, text: str) -> dict[str, Any]:
        return {
            "task_id": task_id,
            "prompt": text,
            "session_id": f"webhook-{hook.config.slug}",
            "repo_path": self._repo_path,
            "flow_id": said.flow_id,
            "source": "webhook",
            "source_metadata": {"provider": hook.config.provider, **said.metadata},
        }

    async def _publish_counts(self) -> None:
        names = sorted(self._refused.keys() | self._latencies.keys())
        if not names:
            return
        refused, latencies = self._refused, self._latencies
        self._refused, self._latencies = {}, {}
        try:
            await self._append([_measured(name, refused.get(name), latencies.get(name)) for name in names])
        except Unavailable as error:
            log.warning("what was refused is told later", reason=str(error))
            for kept, old in ((self._refused, refused), (self._latencies, latencies)):
                for name, counts in old.items():
                    kept.setdefault(name, Counter()).update(counts)


class _Known:
    """Looks deliveries up in the store; lookups that come during one query share the next one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asking = trio.Lock()
        self._next = _Lookup()

    async def has(self, event_id: str) -> bool:
        """Tell whether the store has a delivery."""
        question = self._next
        question.ids.add(event_id)
        async with self._asking:
            if question.found is None:
                if self._next is question:
                    self._next = _Lookup()
                wanted = DeliveryFilter(event_ids=tuple(question.ids))
                found, _ = await self._store.list(DELIVERY, wanted, None, len(question.ids))
                question.found = {delivery.event_id for delivery in found}
        return event_id in question.found


@attrs.define
class _Lookup:
    ids: set[str] = attrs.field(factory=set)
    found: set[str] | None = None


def _task(
    hook: Hook, said: ParsedDelivery, asked: CommandCall, text: str, event_id: str, task_id: str
) -> dict[str, Any]:
    command = asked.command
    return {
        "task_id": task_id,
        "name": (said.title or command.name)[:200],
        "input": text,
        "agent": command.agent or hook.config.agent,
        "source": "webhook",
        "source_metadata": {
            "provider": hook.config.provider,
            "webhook_id": hook.webhook_id,
            "webhook_event_id": event_id,
            "event_type": said.event_type,
            **said.metadata,
        },
        "flow_id": said.flow_id,
        "metadata": {
            "webhook": hook.webhook_id,
            "command": command.name,
            "requires_approval": command.requires_approval,
        },
    }


def _item(topic: str, channel: str, payload: dict[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in payload.items() if value is not None}
    return {"topic": topic, "channel": channel, "payload": said}


def _measured(webhook_id: str, refused: Counter[str] | None, latencies: Counter[str] | None) -> Draft:
    payload: dict[str, Any] = {
        "webhook_id": webhook_id,
        "refused": refused or {},
        "latencies": latencies or {},
    }
    return Draft.own(WEBHOOKS, MEASURED, payload, sender="webhooks")


def _event_id(hook: Hook, said: ParsedDelivery) -> str:
    """Return our id of a delivery; repeats have the same id if the provider gives deliveries ids."""
    if said.delivery_id is None:
        return f"evt-{token_hex(12)}"
    named = f"{hook.webhook_id}\n{said.delivery_id}".encode("utf-8", "replace")
    return f"evt-{hashlib.sha256(named).hexdigest()[:24]}"


def _reason(error: HeliographError) -> str:
    match error:
        case BadSignature():
            return error.reason
        case RepeatedDelivery():
            return "repeated"
        case Forbidden():
            return "disabled"
        case Malformed() | TooLarge():
            return "malformed"
    return "unavailable"
