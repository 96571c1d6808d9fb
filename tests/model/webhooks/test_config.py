"""Configurations in both forms of YAML, and what is wrong with one, by file, field and line."""

from __future__ import annotations

from typing import Any

import pytest

from heliograph.model import yaml
from heliograph.model.errors import Invalid, WebhookValidationError
from heliograph.model.webhooks.config import WebhookConfig, read_config

GATEWAY = """
name: github
description: Issues and pull requests
endpoint: /webhooks/github
source: github
agent_trigger:
  prefix: "@agent"
  aliases: ["@bot", "/agent"]
  assignee_trigger: agent-bot
target_agent: brain
default_command: analyze
security:
  requires_signature: true
  signature_header: X-Hub-Signature-256
  secret_env_var: GITHUB_WEBHOOK_SECRET
commands:
  - name: analyze
    aliases: [look]
    description: Look at it
    target_agent: planning
    prompt_template: "Analyze {{ issue.title }}"
    requires_approval: false
  - name: implement
    target_agent: executor
    template_file: prompts/implement.md
    requires_approval: true
"""

PLAIN = """
name: Deploys
provider: custom
endpoint: /webhooks/deploys
enabled: false
commands:
  - name: check
    trigger: deploy.*
    agent: executor
    template: "Check {{ text }}"
    conditions: {environment: production}
    priority: 5
"""


def read(text: str, **more: Any) -> WebhookConfig:
    """Read a configuration."""
    document = yaml.load(text.encode())
    return read_config(document, "static-x", file="x/config.yaml", is_builtin=True, **more)


def test_a_gateways_form() -> None:
    """Every field of a gateway's file is read, templates in files of their own too."""
    config = read(GATEWAY, template_file=lambda name: f"From {name}: {{{{ text }}}}")
    assert (config.name, config.provider, config.endpoint, config.slug) == (
        "github",
        "github",
        "/webhooks/github",
        "github",
    )
    assert (config.prefix, config.aliases, config.assignee) == ("@agent", ("@bot", "/agent"), "agent-bot")
    assert (config.agent, config.default_command, config.enabled, config.is_builtin) == (
        "brain",
        "analyze",
        True,
        True,
    )
    assert (config.requires_signature, config.signature_header, config.secret_env) == (
        True,
        "X-Hub-Signature-256",
        "GITHUB_WEBHOOK_SECRET",
    )
    analyze, implement = config.commands
    assert (analyze.aliases, analyze.agent, analyze.template) == (
        ("look",),
        "planning",
        "Analyze {{ issue.title }}",
    )
    assert (implement.agent, implement.template, implement.requires_approval) == (
        "executor",
        "From prompts/implement.md: {{ text }}",
        True,
    )
    assert config.command("LOOK") is analyze
    assert config.command("other") is None


def test_the_plain_form() -> None:
    """A plain file has commands that wait for events."""
    config = read(PLAIN)
    [check] = config.commands
    assert (config.provider, config.enabled, config.requires_signature) == ("custom", False, False)
    assert (check.trigger, check.agent, check.conditions, check.priority) == (
        "deploy.*",
        "executor",
        {"environment": "production"},
        5,
    )


@pytest.mark.parametrize(
    ("wrong", "right", "field"),
    [
        ("endpoint: /webhooks/My-Hook", "endpoint: /webhooks/github", "endpoint"),
        ("endpoint: hook_underscore", "endpoint: /webhooks/github", "endpoint"),
        ("endpoint: /api/webhooks/hook", "endpoint: /webhooks/github", "endpoint"),
        ("endpoint: webhooks/no-slash", "endpoint: /webhooks/github", "endpoint"),
        ("source: bitbucket", "source: github", "source"),
        ("default_command: nothing", "default_command: analyze", "default_command"),
        ("name: Im Plement", "name: implement", "commands[1].name"),
        ("name: analyze", "name: implement", "commands[1]"),
        ("name: look", "name: implement", "commands[1]"),
        (
            'prompt_template: "  "',
            'prompt_template: "Analyze {{ issue.title }}"',
            "commands[0].prompt_template",
        ),
        (
            'prompt_template: "{{"',
            'prompt_template: "Analyze {{ issue.title }}"',
            "commands[0].prompt_template",
        ),
        ("prompt_template: 5", 'prompt_template: "Analyze {{ issue.title }}"', "commands[0].prompt_template"),
        ("requires_signature: maybe", "requires_signature: true", "security.requires_signature"),
        ("template_file: none.md", "template_file: prompts/implement.md", "commands[1].template_file"),
        ("commands: []\nothers:", "commands:", "commands"),
        ("commands: {}\nothers:", "commands:", "commands"),
        ("name: ''\nd:", "name: github\ndescription:", "name"),
    ],
)
def test_what_is_wrong_is_named(wrong: str, right: str, field: str) -> None:
    """A wrong field is named with its file and its line; it is one class of the family of errors."""

    def template_file(name: str) -> str:
        if name == "none.md":
            raise FileNotFoundError(name)
        return "x"

    with pytest.raises(WebhookValidationError) as caught:
        read(GATEWAY.replace(right, wrong), template_file=template_file)
    assert isinstance(caught.value, Invalid)
    assert caught.value.file == "x/config.yaml"
    assert str(caught.value).startswith("x/config.yaml: ")
    assert field in {error.field for error in caught.value.errors}
    assert all("(line " in error.detail for error in caught.value.errors)


def test_all_that_is_wrong_is_named_at_once() -> None:
    """Somebody who mends a file need not find its mistakes one by one."""
    with pytest.raises(WebhookValidationError) as caught:
        read("name: x\nendpoint: no\nsource: nobody\ncommands: [{name: a}, 5]\n")
    assert {error.field for error in caught.value.errors} == {
        "endpoint",
        "source",
        "commands[0].prompt_template",
        "commands[1]",
    }
    with pytest.raises(WebhookValidationError, match="must be an object"):
        read("- a\n")
