"""How entities are kept: what reading a row by its places stands on."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from heliograph.storage.sql.entities import ENTITIES
from heliograph.storage.sql.entity import DECODES, Entity


@pytest.mark.parametrize("entity", ENTITIES, ids=lambda entity: entity.kind.name)
def test_a_row_is_a_value_place_by_place(entity: Entity[Any]) -> None:
    """The columns of a table are the fields of its values, in their order, and each can be decoded."""
    assert [column.name for column in entity.table.c] == [one.name for one in attrs.fields(entity.kind.value)]
    assert {type(column.type) for column in entity.table.c} <= DECODES.keys()
