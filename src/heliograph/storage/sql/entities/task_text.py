"""Search for tasks by words: each word must be part of some text of the task, in upper or lower case.

A trigram index names the tasks that can have a word of three letters or more; then the texts themselves are
examined. The index is made by a migration, and kept up to date by the database.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Table,
    Text,
    and_,
    bindparam,
    case,
    column,
    func,
    literal_column,
    or_,
    select,
    table,
    text,
    true,
)

from heliograph.storage.sql.entity import Probed
from heliograph.storage.sql.prepared import Prepared

SEARCHED = ("task_id", "name", "agent", "agent_type", "model", "error")

LONG = 4000
"""The most characters in a task's texts together; a task with more is not in the index."""

GRAM = 3
_SPECIAL = re.compile("([%_!])")

RARE = 1000
"""If more tasks than this have a word, the first are found soonest by examining one task after the other."""

_TEXTS = table("task_texts", column("id", Integer), column("task_id", Text), column("long", Integer))


def mentions(connection: Connection, tasks: Table, said: str) -> Probed:
    """Return the condition that a task has every word of a text."""
    words = said.split()
    values = {f"word_{n}": "%" + _SPECIAL.sub(r"!\1", word) + "%" for n, word in enumerate(words)}
    long = [word for word in words if min(len(word), len(word.lower())) >= GRAM]
    if connection.dialect.name == "postgresql":
        values |= {f"long_{n}": word for n, word in enumerate(long)}
        shape: tuple[Any, ...] = ("grams", len(words), len(long))
        return Probed(shape, lambda: _among_grams(tasks, len(words), len(long)), values)
    names = _names(connection, long) if long else None
    if names is None:
        return Probed(("all", len(words)), lambda: _has_words(tasks, len(words)), values)
    values["names"] = orjson.dumps(names).decode()
    return Probed(("named", len(words)), lambda: _among_names(tasks, len(words)), values)


def _has_words(tasks: Table, number: int) -> ColumnElement[bool]:
    words = [func.lower(bindparam(f"word_{n}", type_=Text)) for n in range(number)]
    texts = [func.lower(tasks.c[name]) for name in SEARCHED]
    return and_(true(), *(or_(*(one.like(word, "!") for one in texts)) for word in words))


def _among_names(tasks: Table, number: int) -> ColumnElement[bool]:
    names = func.json_each(bindparam("names", type_=Text)).table_valued("value").c.value
    return and_(tasks.c.task_id.in_(select(names)), _has_words(tasks, number))


def _among_grams(tasks: Table, number: int, long: int) -> ColumnElement[bool]:
    """Return the condition for PostgreSQL, in the expression of its index, which is used for no other."""
    if not long:
        return _has_words(tasks, number)
    texts = [func.coalesce(tasks.c[name], literal_column("''")) for name in SEARCHED]
    lengths = [func.coalesce(func.length(tasks.c[name]), literal_column("0")) for name in SEARCHED]
    joined: ColumnElement[str] = texts[0]
    for one in texts[1:]:
        joined = joined.op("||")(func.chr(literal_column("10"))).op("||")(one)
    length = reduce(add, lengths)
    limit: ColumnElement[int] = literal_column(str(LONG))
    grams = func.grams_of(case((length <= limit, joined)))
    wanted = (func.grams_of(bindparam(f"long_{n}", type_=Text)) for n in range(long))
    there = or_(and_(*(grams.op("@>")(one) for one in wanted)), length > limit)
    return and_(there, _has_words(tasks, number))


HAS_INDEX = Prepared(
    select(literal_column("1")).select_from(table("sqlite_master")).where(text("name = 'task_texts'"))
)
MATCHES = Prepared(text("SELECT rowid FROM task_grams WHERE task_grams MATCH :wanted LIMIT :most"))
_IDS = func.json_each(bindparam("ids", type_=Text)).table_valued("value").c.value
NAMES = Prepared(select(_TEXTS.c.task_id).where(_TEXTS.c.id.in_(select(_IDS))))
LONG_ONES = Prepared(text("SELECT task_id FROM task_texts WHERE long LIMIT :most"))


def _names(connection: Connection, words: Sequence[str]) -> list[str] | None:
    """Return the tasks that can have ``words`` by SQLite's index; ``None`` if many, or without the index."""
    if not HAS_INDEX.fetch(connection):
        return None
    wanted = " ".join(f'"{gram}"' for gram in sorted({gram for word in words for gram in _grams(word)}))
    ids = [row[0] for row in MATCHES.fetch(connection, wanted=wanted, most=RARE + 1)]
    long = [row[0] for row in LONG_ONES.fetch(connection, most=RARE + 1)]
    if max(len(ids), len(long)) > RARE:
        return None
    return [*long, *(row[0] for row in NAMES.fetch(connection, ids=orjson.dumps(ids).decode()))]


def _grams(word: str) -> set[str]:
    folded = word.lower()
    return {folded[n : n + GRAM].replace('"', '""') for n in range(len(folded) - GRAM + 1)}
