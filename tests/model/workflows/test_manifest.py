"""Manifests and cards: what is read of them, and what is said of each mistake."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from heliograph.model.workflows.cards import Card, read_card
from heliograph.model.workflows.manifest import Manifest, Setting, read_manifest, stays_inside
from heliograph.model.workflows.reading import FileProblem
from heliograph.model.workflows.workflow import put_together
from heliograph.model.yaml import load

FULL = """
name: invoice_to_ledger
display_name: "Invoice → Ledger"
description: Reads invoices and books them.
version: 3.1.0
icon: 🧾
color: "#4285F4"
memory: {scope: run}
triggers:
  - {type: gmail_push, label_ids: [INBOX, Label_7]}
  - {type: webhook, path: /hooks/invoice}
  - {type: scheduled, schedule: "*/5 * * * *"}
  - type: manual
settings:
  - {key: LEDGER_TOKEN, type: secret, required: true, default: hush, description: Of the ledger}
  - {key: currency, type: select, default: EUR, options: [EUR, USD]}
agents:
  cards_dir: agents/
tags: [finance, books]
something_new: {a: 1}
"""


def manifest_of(text: str) -> tuple[Manifest | None, str, list[FileProblem]]:
    """Read a manifest's text."""
    problems: list[FileProblem] = []
    manifest, cards = read_manifest(load(text.encode()), "manifest.yaml", problems)
    return manifest, cards, problems


def card_of(text: str) -> tuple[Card | None, list[FileProblem]]:
    """Read a card's text."""
    problems: list[FileProblem] = []
    return read_card(load(text.encode()), "agents/x.agent.yaml", problems), problems


def test_a_manifest_is_read_whole() -> None:
    """Every field is kept, triggers with all that they say; a secret's default is not."""
    manifest, cards, problems = manifest_of(FULL)
    assert not problems
    assert cards == "agents"
    assert manifest == Manifest(
        name="invoice_to_ledger",
        display_name="Invoice → Ledger",
        description="Reads invoices and books them.",
        version="3.1.0",
        icon="🧾",
        color="#4285F4",
        enabled=True,
        triggers=(
            {"type": "gmail_push", "label_ids": ["INBOX", "Label_7"]},
            {"type": "webhook", "path": "/hooks/invoice"},
            {"type": "scheduled", "schedule": "*/5 * * * *"},
            {"type": "manual"},
        ),
        tags=("finance", "books"),
        settings=(
            Setting("LEDGER_TOKEN", "secret", True, None, "Of the ledger"),
            Setting("currency", "select", False, "EUR", "", ("EUR", "USD")),
        ),
        memory={"scope": "run"},
    )


def test_a_name_is_enough() -> None:
    """All else has a default, and the name for people is the name."""
    manifest, cards, problems = manifest_of("name: x")
    assert manifest == Manifest("x", "x")
    assert (cards, problems) == ("agents", [])


def test_agents_may_be_named_in_the_manifest() -> None:
    """A list of names is kept; cards, where there are some, say it themselves."""
    manifest, _, problems = manifest_of("name: x\nagents: [one, two]")
    assert manifest is not None
    assert manifest.agents == ("one", "two")
    cards = {"agents/b.agent.yaml": load(b"name: b"), "agents/a.agent.yaml": load(b"name: a")}
    assert put_together(manifest, None, cards, problems).manifest.agents == ("a", "b")
    assert put_together(manifest, None, {}, problems).manifest.agents == ("one", "two")


@pytest.mark.parametrize(
    ("text", "field", "line", "words"),
    [
        ("", "name", None, "A-Z"),
        ("display_name: x", "name", 1, "A-Z"),
        ("name: ../etc", "name", 1, "A-Z"),
        ("name: 5", "name", 1, "text"),
        ("name: x\ndisplay_name: 5", "display_name", 2, "text"),
        ("name: x\nversion: 1.0", "version", 2, "quotes"),
        ("name: x\nenabled: 1", "enabled", 2, "true or false"),
        ("name: x\ntriggers: manual", "triggers", 2, "list"),
        ("name: x\ntriggers:\n- manual", "triggers[0]", 3, "object"),
        ("name: x\ntriggers:\n- {path: /a}", "triggers[0].type", 3, "missing"),
        ("name: x\ntags: [1]", "tags[0]", 2, "text"),
        ("name: x\nsettings:\n- {type: string}", "settings[0].key", 3, "missing"),
        ("name: x\nsettings:\n- {key: a, type: date}", "settings[0].type", 3, "one of string"),
        ("name: x\nsettings:\n- {key: a, required: maybe}", "settings[0].required", 3, "true"),
        ("name: x\nsettings:\n- {key: a, options: 5}", "settings[0].options", 3, "list"),
        ("name: x\nagents: 5", "agents", 2, "object"),
        ("name: x\nagents: {cards_dir: ../../etc}", "agents.cards_dir", 2, "inside"),
        ("name: x\nagents: {cards_dir: /etc}", "agents.cards_dir", 2, "inside"),
        ("name: x\nagents: {cards_dir: 5}", "agents.cards_dir", 2, "text"),
    ],
)
def test_a_manifests_mistakes_are_named(text: str, field: str, line: int | None, words: str) -> None:
    """Each wrong type or word, and what is missing, is a problem with its field and line."""
    manifest, cards, problems = manifest_of(text)
    found = [problem for problem in problems if words in problem.detail]
    assert (found[0].field, found[0].line) == (field, line)
    assert (manifest is None) == (field == "name")
    assert cards == "agents"


def test_a_card_is_flattened() -> None:
    """Tools are told by name, guardrails of the model and schemas by theirs; other fields are left alone."""
    card, problems = card_of(
        """
        name: reader
        display_name: Reader
        description: Reads.
        type: LLM
        model: some-model-2
        stage: 2
        input: {schema_ref: Mail + Hints, fields: [{name: a}]}
        output: {schema_ref: Booking}
        tools: [{name: search, description: Looks}, {name: fetch}]
        guardrails: {before_model: [size], after_model: [json, tone], before_tool: [allow]}
        state_keys: {reads: mail, writes: booking}
        """
    )
    assert not problems
    assert card == Card(
        name="reader",
        display_name="Reader",
        type="llm",
        description="Reads.",
        model="some-model-2",
        stage=2,
        tools=("search", "fetch"),
        guardrails_before=("size",),
        guardrails_after=("json", "tone"),
        input_schema="Mail + Hints",
        output_schema="Booking",
    )


def test_a_card_has_eleven_fields() -> None:
    """A card is exactly what dashboards know."""
    assert [field.name for field in attrs.fields(Card)] == [
        *("name", "display_name", "type", "description", "model", "stage", "tools"),
        *("guardrails_before", "guardrails_after", "input_schema", "output_schema"),
    ]


def test_an_object_is_no_name_of_a_schema() -> None:
    """A JSON Schema in a card's ``input_schema`` is not told as a name."""
    card, problems = card_of("name: a\ninput_schema: {type: object}\noutput_key: answer\ntools: []")
    assert not problems
    assert card == Card("a", "a")


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("type: llm", "name", "missing"),
        ("name: [a]", "name", "text"),
        ("name: a\ntype: robot", "type", "one of llm"),
        ("name: a\nstage: first", "stage", "whole"),
        ("name: a\nstage: -1", "stage", "whole"),
        ("name: a\nstage: true", "stage", "whole"),
        ("name: a\nmodel: {}", "model", "text"),
        ("name: a\ntools: search", "tools", "list"),
        ("name: a\ntools: [{name: b}, 5]", "tools[1]", "object"),
        ("name: a\ntools: [{description: b}]", "tools[0].name", "missing"),
        ("name: a\nguardrails: [b]", "guardrails", "object"),
        ("name: a\nguardrails: {before_model: b}", "guardrails.before_model", "list"),
        ("name: a\ninput: Mail", "input", "object"),
        ("name: a\noutput: {schema_ref: {}}", "output.schema_ref", "text"),
    ],
)
def test_a_cards_mistakes_are_named(text: str, field: str, words: str) -> None:
    """Each wrong type or word, and what is missing, is a problem of the card's file."""
    card, problems = card_of(text)
    found = [problem for problem in problems if words in problem.detail]
    assert (found[0].file, found[0].field) == ("agents/x.agent.yaml", field)
    assert (card is None) == (field == "name")


def test_two_cards_of_one_name_are_a_problem() -> None:
    """The first is kept, and the second is named."""
    cards: dict[str, Any] = {f"agents/{name}.agent.yaml": load(b"\nname: same") for name in "ba"}
    workflow = put_together(Manifest("w", "w"), None, cards, [])
    assert [card.name for card in workflow.cards] == ["same"]
    assert workflow.problems == (
        FileProblem("agents/b.agent.yaml", "another card is named 'same' too", "name", 2),
    )


@pytest.mark.parametrize("path", ["agents", "my cards", "a/b", ".hidden", "..a"])
def test_a_path_that_stays_inside_is_taken(path: str) -> None:
    """Folders inside the workflow's are taken, however deep."""
    assert stays_inside(path)


@pytest.mark.parametrize("path", ["..", "../a", "a/../b", "/etc", "a//b", "", "a\\b", "c:x", "a\0b"])
def test_a_path_that_leads_out_is_refused(path: str) -> None:
    """Nothing above, absolute, or of another system's writing is taken."""
    assert not stays_inside(path)
