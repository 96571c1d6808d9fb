"""Kinds of entities: what each declares fits the channels that there are."""

from __future__ import annotations

from typing import Any

import pytest

from heliograph.model.channels import channel_for, is_channel
from heliograph.model.kind import Kind
from heliograph.model.kinds import KINDS


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.topics], ids=lambda kind: kind.name)
def test_an_event_finds_the_channel_of_its_entity(kind: Kind[Any]) -> None:
    """An event that names no channel goes to the one of the entity that its payload names."""
    payload = {} if kind.field is None else {kind.field: "1"}
    channel = kind.channel_of(payload)
    assert is_channel(channel), f"model/channels.py has no family {kind.family}"
    for topic in kind.topics:
        assert channel_for(topic, payload) == channel
