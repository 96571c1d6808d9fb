"""The webhooks that there are: those in files, looked at once a second, and those that were made over HTTP.

A configuration that was made over HTTP is in the log, and in every node's store a moment later; its secret
is in the vault, and nowhere else. So each node asks its store once a second. The node that was told something
knows it at once, and does not forget it for an older answer of the store.

Where two webhooks have one endpoint the one in a file has it, and of two files the first one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import structlog
import trio

from heliograph.actors import hook_files
from heliograph.actors.hook_files import HookFile
from heliograph.model.channels import WEBHOOKS
from heliograph.model.errors import (
    Conflict,
    FieldError,
    NotFound,
    TooMany,
    Unavailable,
    WebhookValidationError,
)
from heliograph.model.event import Draft
from heliograph.model.ids import OLDEST, EventId, time_of
from heliograph.model.webhooks.config import WebhookConfig, read_config
from heliograph.model.webhooks.webhook import (
    CONFIGURED,
    REMOVED,
    SWITCHED,
    WEBHOOK,
    Webhook,
    WebhookFilter,
)
from heliograph.model.yaml import Document
from heliograph.storage.protocols import Receipt, Store, Vault

INTERVAL_SECONDS = 1.0
MOST_WEBHOOKS = 500
PAGE = 500

log = structlog.get_logger(__name__)


@attrs.frozen
class Hook:
    """One webhook.

    Args:
        config: The configuration, and whether the webhook is enabled.
        secret: The secret that it shares with its provider; ``None``: there is none.
        file: The file of its configuration, from the root; empty: it was made over HTTP.
        created_at: The time at which it was made over HTTP.
        created_by: The name of the key that made it.
        said: The body that it was made of.
    """

    config: WebhookConfig
    secret: str | None = attrs.field(default=None, repr=False)
    file: str = ""
    created_at: datetime | None = None
    created_by: str | None = None
    said: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def webhook_id(self) -> str:
        """The webhook's id."""
        return self.config.webhook_id


class Webhooks:
    """Keeps the list up to date.

    Args:
        root: The folder with files; ``None``: none.
        environ: The environment with the secrets of webhooks in files.
        store: Asked for those that were made over HTTP.
        vault: The vault of their secrets.
        append: Appends drafts to the log.
    """

    def __init__(
        self,
        root: Path | None,
        environ: Mapping[str, str],
        store: Store,
        vault: Vault,
        append: Callable[[Sequence[Draft]], Awaitable[Receipt]],
    ) -> None:
        self._root = root
        self._environ = environ
        self._store = store
        self._vault = vault
        self._append = append
        self._files: dict[Path, HookFile] = {}
        self._trouble: str | None = None
        self._made: dict[str, Hook] = {}
        self._enabled: dict[str, bool] = {}
        self._known: dict[str, EventId] = {}  # the last event about each that this node knows
        self._hooks: dict[str, Hook] = {}
        self._by_slug: dict[str, Hook] = {}
        self._broken: dict[str, WebhookValidationError] = {}
        self._away = False

    @property
    def hooks(self) -> Sequence[Hook]:
        """All that there are, those in files first."""
        return list(self._hooks.values())

    @property
    def broken(self) -> Mapping[str, WebhookValidationError]:
        """Files that should be webhooks and are none, and what is wrong with each."""
        return self._broken

    def get(self, webhook_id: str) -> Hook:
        """Return one webhook.

        Raises:
            NotFound: There is none of that id.
        """
        hook = self._hooks.get(webhook_id)
        if hook is None:
            raise NotFound(f"no webhook {webhook_id!r}; Available: {list(self._hooks)[:50]}")
        return hook

    def definition(self, webhook_id: str) -> Mapping[str, Any]:
        """Return the body that a webhook was made of over HTTP.

        Raises:
            NotFound: There is no such webhook.
            Conflict: It comes from a file.
        """
        if self.get(webhook_id).config.is_builtin:
            raise Conflict(f"{webhook_id} comes from a file, and is changed there")
        return self._made[webhook_id].said

    def at(self, slug: str) -> Hook:
        """Return the webhook at an endpoint, or of an id.

        Raises:
            NotFound: There is none.
        """
        hook = self._by_slug.get(slug) or self._hooks.get(slug)
        if hook is None:
            raise NotFound("no webhook has this endpoint")
        return hook

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read all, then look again until cancelled; started when all was read for the first time."""
        await self._look()
        await self._ask()
        task_status.started()
        while True:
            await trio.sleep(INTERVAL_SECONDS)
            await self._look()
            await self._ask()

    # Webhooks made over HTTP

    async def configure(self, webhook_id: str, said: Mapping[str, Any], secret: str | None, who: str) -> Hook:
        """Make a webhook, or configure one that was made over HTTP anew.

        Args:
            webhook_id: Its id.
            said: Its configuration, in either of the forms that files have.
            secret: Its secret; ``None``: the one that it has stays.
            who: The name of the caller.

        Raises:
            WebhookValidationError: Something is wrong with it; every field of it is named.
            Conflict: It comes from a file.
            TooMany: There are too many.
            Unavailable: It can't be kept now.
        """
        known = self._made.get(webhook_id)
        config = read_config(Document(dict(said), {}), webhook_id)
        if webhook_id in self._hooks and known is None:
            raise Conflict(f"{webhook_id} comes from a file, and is changed there")
        if known is None and len(self._made) >= MOST_WEBHOOKS:
            raise TooMany(f"there may be {MOST_WEBHOOKS} webhooks besides those in files")
        owner = self._by_slug.get(config.slug)
        taken = owner is not None and owner.webhook_id != webhook_id
        if taken and "endpoint" not in said:
            config = attrs.evolve(config, endpoint=f"{config.endpoint}-{webhook_id[-6:]}")
        elif owner is not None and taken:
            detail = f"is the endpoint of the webhook {owner.webhook_id} already"
            raise WebhookValidationError([FieldError("endpoint", detail)])
        if secret is not None:
            await self._vault.keep(webhook_id, secret or None)
        kept = known.secret if secret is None and known is not None else secret or None
        definition = {**said, "endpoint": config.endpoint}  # it stays when the name changes
        receipt = await self._say(
            CONFIGURED, webhook_id, enabled=config.enabled, definition=definition, created_by=who
        )
        made_at = time_of(receipt.cursor) if known is None else known.created_at
        self._made[webhook_id] = Hook(config, kept, created_at=made_at, created_by=who, said=definition)
        self._enabled[webhook_id] = config.enabled
        self._arrange()
        return self.get(webhook_id)

    async def switch(self, webhook_id: str, enabled: bool) -> Hook:
        """Take deliveries, or take none.

        Raises:
            NotFound: There is no such webhook.
            Unavailable: It can't be kept now.
        """
        self.get(webhook_id)
        await self._say(SWITCHED, webhook_id, enabled=enabled)
        self._enabled[webhook_id] = enabled
        self._arrange()
        return self.get(webhook_id)

    async def remove(self, webhook_id: str) -> None:
        """Remove a webhook that was made over HTTP.

        Raises:
            NotFound: There is no such webhook.
            Conflict: It comes from a file.
            Unavailable: It can't be kept now.
        """
        if self.get(webhook_id).config.is_builtin:
            raise Conflict(f"{webhook_id} comes from a file, and is removed there")
        await self._say(REMOVED, webhook_id)
        await self._vault.keep(webhook_id, None)
        self._made.pop(webhook_id, None)
        self._arrange()

    async def _say(self, topic: str, webhook_id: str, **more: Any) -> Receipt:
        payload = {"webhook_id": webhook_id, **more}
        draft = Draft.own(WEBHOOKS, topic, payload, sender="webhooks")
        receipt = await self._append([draft])
        self._known[webhook_id] = receipt.cursor
        return receipt

    # Looking

    async def _look(self) -> None:
        if self._root is None:
            return
        # A network's folder may never answer; then the thread is left behind when the service stops.
        found, trouble = await trio.to_thread.run_sync(self._look_now, self._root, abandon_on_cancel=True)
        if trouble != self._trouble:
            log.warning("webhooks can't be read", reason=trouble) if trouble else log.info("webhooks read")
        self._trouble = trouble
        if found != self._files:
            self._files = found
            self._arrange()

    def _look_now(self, root: Path) -> tuple[dict[Path, HookFile], str | None]:
        paths, trouble = hook_files.files_of(root)
        found = {}
        for path in paths:
            known = self._files.get(path)
            same = known is not None and hook_files.look(path) == known.signature
            found[path] = known if known is not None and same else hook_files.read(path, root)
        return found, trouble

    async def _ask(self) -> None:
        """Take over what the store knows, where it is not older than what this node knows."""
        try:
            news = [
                row
                async for row in self._rows()
                if row.last_event_id > self._known.get(row.webhook_id, OLDEST)
            ]
            secrets = await self._vault.secrets() if news else {}
        except Unavailable as error:
            if not self._away:
                log.warning("webhooks of the store are not asked for", reason=str(error))
            self._away = True
            return
        self._away = False
        for row in news:
            self._take(row, secrets.get(row.webhook_id))
        if news:
            self._arrange()

    async def _rows(self) -> AsyncIterator[Webhook]:
        after, more = None, True
        while more:
            rows, more = await self._store.list(WEBHOOK, WebhookFilter(), after, PAGE)
            for row in rows:
                yield row
            after = WEBHOOK.position(rows[-1]) if rows else None

    def _take(self, row: Webhook, secret: str | None) -> None:
        name = row.webhook_id
        self._known[name] = row.last_event_id
        self._enabled[name] = row.enabled
        self._made.pop(name, None)
        if row.definition is None:
            return
        try:
            config = read_config(Document(row.definition, {}), name)
        except WebhookValidationError as error:
            log.warning("webhook can't be used any more", webhook=name, reason=str(error))
            return
        self._made[name] = Hook(
            config,
            secret,
            created_at=row.created_at,
            created_by=row.created_by,
            said=row.definition,
        )

    def _arrange(self) -> None:
        """Put together what there is, and find out who has which endpoint."""
        hooks: dict[str, Hook] = {}
        slugs: dict[str, Hook] = {}
        broken = {file.file: file.error for file in self._files.values() if file.error is not None}
        for file in self._files.values():
            if file.config is None:
                continue
            hook = self._of_file(file, file.config)
            owner = slugs.get(hook.config.slug) or hooks.get(hook.webhook_id)
            if owner is not None:
                detail = f"{hook.config.endpoint} is the endpoint in {owner.file} already"
                broken[file.file] = WebhookValidationError([FieldError("endpoint", detail)], file.file)
                continue
            hooks[hook.webhook_id] = slugs[hook.config.slug] = hook
        for hook in self._made.values():
            hooks[hook.webhook_id] = self._as_switched(hook)
            slugs.setdefault(hook.config.slug, hooks[hook.webhook_id])
        for file_name in sorted(broken.keys() - self._broken.keys()):
            log.warning("webhook problem", file=file_name, reason=str(broken[file_name]))
        for file_name in sorted(self._broken.keys() - broken.keys()):
            log.info("webhook mended", file=file_name)
        self._hooks, self._by_slug, self._broken = hooks, slugs, broken

    def _of_file(self, file: HookFile, config: WebhookConfig) -> Hook:
        secret = file.secret or self._environ.get(config.secret_env, "").strip() or None
        return self._as_switched(Hook(config, secret, file.file))

    def _as_switched(self, hook: Hook) -> Hook:
        enabled = self._enabled.get(hook.webhook_id, hook.config.enabled)
        return attrs.evolve(hook, config=attrs.evolve(hook.config, enabled=enabled))
