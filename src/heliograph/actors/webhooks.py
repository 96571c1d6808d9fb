"""The list of webhooks: those in files, which are checked once a second, and those made over HTTP.

A configuration made over HTTP is in the log, and in every node's store a moment later; its secret is only in
the vault. So each node asks its store once a second. The node that made a change knows it at once, and
ignores older answers of the store.

If two webhooks have the same endpoint, one in a file wins over one made over HTTP, and the first of two files
wins.
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
        file: The path of its file, relative to the root; empty: it was made over HTTP.
        created_at: The time at which it was made over HTTP.
        created_by: The name of the key that made it.
        said: The body of the request that made it.
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
        root: The folder of files; ``None``: there is none.
        environ: The environment with the secrets of webhooks in files.
        store: The store of webhooks made over HTTP.
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
        """All webhooks, those in files first."""
        return list(self._hooks.values())

    @property
    def broken(self) -> Mapping[str, WebhookValidationError]:
        """The files that should be webhooks but are broken, each with its fault."""
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
        """Return the body of the request that made a webhook over HTTP.

        Raises:
            NotFound: There is no such webhook.
            Conflict: It comes from a file.
        """
        if self.get(webhook_id).config.is_builtin:
            raise Conflict(f"{webhook_id} comes from a file, and is changed there")
        return self._made[webhook_id].said

    def at(self, slug: str) -> Hook:
        """Return the webhook whose endpoint, or id, is ``slug``.

        Raises:
            NotFound: There is none.
        """
        hook = self._by_slug.get(slug) or self._hooks.get(slug)
        if hook is None:
            raise NotFound("no webhook has this endpoint")
        return hook

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read all webhooks, then look again until cancelled; ``started`` after the first reading."""
        await self._look()
        await self._ask()
        task_status.started()
        while True:
            await trio.sleep(INTERVAL_SECONDS)
            await self._look()
            await self._ask()

    # Webhooks made over HTTP

    async def configure(self, webhook_id: str, said: Mapping[str, Any], secret: str | None, who: str) -> Hook:
        """Make a webhook over HTTP, or replace the configuration of one.

        Args:
            webhook_id: The webhook's id.
            said: The configuration, in either of the forms that files have.
            secret: The secret; ``None``: the one that it has stays.
            who: The name of the caller.

        Raises:
            WebhookValidationError: The configuration is invalid; every wrong field is named.
            Conflict: The webhook comes from a file.
            TooMany: There are too many webhooks.
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
        definition = {**said, "endpoint": config.endpoint}  # the endpoint stays when the name changes
        receipt = await self._say(
            CONFIGURED, webhook_id, enabled=config.enabled, definition=definition, created_by=who
        )
        made_at = time_of(receipt.cursor) if known is None else known.created_at
        self._made[webhook_id] = Hook(config, kept, created_at=made_at, created_by=who, said=definition)
        self._enabled[webhook_id] = config.enabled
        self._arrange()
        return self.get(webhook_id)

    async def switch(self, webhook_id: str, enabled: bool) -> Hook:
        """Switch a webhook on or off.

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
        # A network folder may never answer; its thread is left behind when the service stops.
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
        """Take over the store's webhooks, except where this node knows a newer change."""
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
        """Merge the webhooks of files and store, and find out which one has each endpoint."""
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
