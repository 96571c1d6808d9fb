"""The configuration of a webhook: its provider, its signatures, and its commands.

It is written in YAML, in either of two forms. The form of a gateway's folders (``{folder}/config.yaml``) has
``source``, ``agent_trigger`` and ``security``, and ``target_agent`` and ``prompt_template`` of a command. The
plain form (any ``*.yaml``) has ``provider``, and ``trigger``, ``agent``, ``template``, ``conditions`` and
``priority`` of a command. Each field is read by either of its names; configurations that are made over HTTP
are checked by the same code.

All problems are reported at once, with file, field and line. A configuration with any problem is refused:
half of one would do half of what its author meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from heliograph.model.errors import FieldError, WebhookValidationError
from heliograph.model.webhooks.templates import check
from heliograph.model.workflows.reading import Fields, FileProblem
from heliograph.model.yaml import Document

PROVIDERS = ("github", "jira", "slack", "gitlab", "sentry", "stripe", "standard", "custom")
ENDPOINT = r"/webhooks/[a-z0-9-]+"
ENDPOINT_HELP = "must be /webhooks/ and a name of a-z, 0-9 and -"
COMMAND_NAME = r"[a-z0-9_-]+"
DEFAULT_AGENT = "brain"
COMMAND_AGENT = "planning"
MOST_COMMANDS = 200

_endpoint = re.compile(ENDPOINT)
_command_name = re.compile(COMMAND_NAME)


@attrs.frozen
class Command:
    """A command that a delivery can ask for.

    Args:
        name: The name by which a text asks for it.
        template: The template of the task's input; see ``templates``.
        aliases: Other names.
        description: The description for people.
        agent: The agent that does it.
        requires_approval: Whether the task is marked as needing an approval first.
        trigger: The event that asks for it by itself, such as ``issues.opened`` or ``issues.*``; empty: none.
        conditions: The values that such an event's payload must have, by their path in it (``issue.state``).
        priority: The rank among several commands that one event asks for; the one with the highest rank is
            done.
    """

    name: str
    template: str
    aliases: tuple[str, ...] = ()
    description: str = ""
    agent: str = COMMAND_AGENT
    requires_approval: bool = False
    trigger: str = ""
    conditions: Mapping[str, Any] = attrs.field(factory=dict)
    priority: int = 0


@attrs.frozen
class WebhookConfig:
    """One webhook.

    Args:
        webhook_id: Its id: ``static-`` and the name of its folder or file, or ``wh-`` and a random part.
        name: Its name.
        provider: The sender of the deliveries, which decides how they are signed and read.
        endpoint: The path that they are sent to, ``/webhooks/{name}``.
        commands: The commands that can be asked for.
        description: The description for people.
        agent: The agent of a task whose command names none.
        default_command: The command of a text that addresses us without naming one.
        prefix: The word that a text addresses us by, such as ``@agent``; empty: every text does.
        aliases: Other prefixes.
        assignee: The account whose assignment asks for the default command.
        requires_signature: Whether a delivery without a good signature is refused.
        signature_header: The header of the signature; empty: the provider's usual one.
        secret_env: The environment variable that has the secret.
        enabled: Whether deliveries are taken.
        is_builtin: Whether it comes from a file, and so can't be changed over HTTP.
    """

    webhook_id: str
    name: str
    provider: str
    endpoint: str
    commands: tuple[Command, ...]
    description: str = ""
    agent: str = DEFAULT_AGENT
    default_command: str | None = None
    prefix: str = ""
    aliases: tuple[str, ...] = ()
    assignee: str = ""
    requires_signature: bool = False
    signature_header: str = ""
    secret_env: str = ""
    enabled: bool = True
    is_builtin: bool = False

    @property
    def slug(self) -> str:
        """The last part of its endpoint."""
        return self.endpoint.rpartition("/")[2]

    def command(self, word: str) -> Command | None:
        """Return the command of a name or alias, in any case."""
        wanted = word.casefold()
        for command in self.commands:
            if wanted == command.name.casefold() or wanted in map(str.casefold, command.aliases):
                return command
        return None


def read_config(
    document: Document,
    webhook_id: str,
    *,
    file: str = "",
    name: str = "",
    is_builtin: bool = False,
    template_file: Callable[[str], str] | None = None,
) -> WebhookConfig:
    """Read a configuration in either form.

    Args:
        document: The YAML, or an object with no lines.
        webhook_id: Its id.
        file: The file's name in problems.
        name: Its name, if the document has none.
        is_builtin: Whether it comes from a file.
        template_file: Reads the file that a command names as its template; raises ``OSError``.

    Raises:
        WebhookValidationError: The configuration has problems; all of them are listed.
    """
    problems: list[FileProblem] = []
    fields = Fields.of(document, file, problems)
    provider = fields.choice(_either(fields, "source", "provider"), PROVIDERS, "custom")
    name = fields.text("name", name).strip()
    if not name:
        fields.wrong("name", "is missing")
    endpoint = fields.text("endpoint", f"/webhooks/{_slug(name) or _slug(webhook_id)}")
    if not _endpoint.fullmatch(endpoint):
        fields.wrong("endpoint", ENDPOINT_HELP)
    commands = tuple(_read_command(one, template_file) for one in fields.each("commands"))
    _check_commands(fields, commands)
    default = fields.text(_either(fields, "default_command"), "") or None
    trigger, security = fields.inside("agent_trigger"), fields.inside("security")
    signed = security is not None
    config = WebhookConfig(
        webhook_id=webhook_id,
        name=name,
        provider=provider,
        endpoint=endpoint,
        commands=commands,
        description=fields.text("description"),
        agent=fields.text(_either(fields, "target_agent", "agent"), DEFAULT_AGENT),
        default_command=default,
        prefix=trigger.text("prefix").strip() if trigger else "",
        aliases=tuple(filter(None, map(str.strip, trigger.texts("aliases")))) if trigger else (),
        assignee=trigger.text("assignee_trigger").strip() if trigger else "",
        requires_signature=security.flag("requires_signature", signed) if security else False,
        signature_header=security.text("signature_header") if security else "",
        secret_env=security.text("secret_env_var") if security else fields.text("secret_env_var"),
        enabled=fields.flag("enabled", True),
        is_builtin=is_builtin,
    )
    if default is not None and config.command(default) is None:
        fields.wrong("default_command", f"must be one of its commands: {', '.join(c.name for c in commands)}")
    if problems:
        raise WebhookValidationError([_field_error(problem) for problem in problems], file)
    return config


def _read_command(fields: Fields, template_file: Callable[[str], str] | None) -> Command:
    name = fields.text("name")
    if not _command_name.fullmatch(name):
        fields.wrong("name", "must be of a-z, 0-9, _ and -")
    conditions = fields.inside("conditions")
    return Command(
        name=name,
        template=_read_template(fields, template_file),
        aliases=fields.texts("aliases"),
        description=fields.text("description"),
        agent=fields.text(_either(fields, "target_agent", "agent"), COMMAND_AGENT),
        requires_approval=fields.flag("requires_approval", False),
        trigger=fields.text("trigger"),
        conditions={} if conditions is None else conditions.whole_object(),
        priority=fields.whole("priority", 0) or 0,
    )


def _read_template(fields: Fields, template_file: Callable[[str], str] | None) -> str:
    where = _either(fields, "prompt_template", "template", "template_file")
    template = fields.text(where)
    if where == "template_file":
        if template_file is None:
            fields.wrong(where, "is for configurations in folders; say the template itself")
            return ""
        try:
            template = template_file(template)
        except (OSError, ValueError) as error:
            fields.wrong(where, f"can't be read: {error}")
            return ""
    if not template.strip():
        fields.wrong(where, "must not be empty")
    else:
        problem = check(template)
        if problem is not None:
            fields.wrong(where, problem)
    return template


def _check_commands(fields: Fields, commands: Sequence[Command]) -> None:
    if not commands:
        fields.wrong("commands", "must have at least one command")
    if len(commands) > MOST_COMMANDS:
        fields.wrong("commands", f"must be at most {MOST_COMMANDS}")
    owners: dict[str, int] = {}
    for index, command in enumerate(commands):
        for word in {command.name.casefold(), *map(str.casefold, command.aliases)} - {""}:
            if owners.setdefault(word, index) != index:
                name = commands[owners[word]].name
                fields.wrong("commands", f"{word!r} is a name of the command {name!r} already", index)


def _either(fields: Fields, *names: str) -> str:
    """Return the first of the names that is present; the first name if none is."""
    return next((name for name in names if fields.get(name) is not None), names[0])


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")


def _field_error(problem: FileProblem) -> FieldError:
    where = f" (line {problem.line})" if problem.line is not None else ""
    return FieldError(problem.field, problem.detail + where)
