"""An index for texts in tasks: of every three letters in a row, so that any part of a word is found by them.

Both databases keep it by themselves, with every statement that changes a task. Tasks with long texts, such as
an error of a megabyte, are left out; they are few, and have an index of their own.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

SEARCHED = ("task_id", "name", "agent", "agent_type", "model", "error")
LONG = 4000


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _upgrade_postgresql()
    elif _has_trigrams():
        _upgrade_sqlite()


def _upgrade_postgresql() -> None:
    op.execute("""
        CREATE FUNCTION grams_of(words text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
            SELECT array_agg(DISTINCT substr(folded, i, 3))
            FROM (SELECT lower(words) AS folded) one, generate_series(1, length(folded) - 2) i
        $$
    """)
    op.execute(f"""
        CREATE INDEX tasks_grams ON tasks USING gin (
            grams_of(CASE WHEN {_length("")} <= {LONG} THEN {_joined("")} END)
        )
    """)
    op.execute(f"CREATE INDEX tasks_long ON tasks (task_id) WHERE {_length('')} > {LONG}")


def _has_trigrams() -> bool:
    try:
        with op.get_bind().begin_nested():
            op.execute("CREATE VIRTUAL TABLE task_probe USING fts5(words, tokenize='trigram')")
            op.execute("DROP TABLE task_probe")
    except sa.exc.OperationalError:
        return False
    return True


def _upgrade_sqlite() -> None:
    op.execute("""
        CREATE TABLE task_texts (
            id INTEGER PRIMARY KEY, task_id TEXT NOT NULL UNIQUE, words TEXT NOT NULL, long BOOLEAN NOT NULL
        )
    """)
    op.execute("CREATE INDEX task_texts_long ON task_texts (task_id) WHERE long")
    op.execute("""
        CREATE VIRTUAL TABLE task_grams USING fts5(
            words, content='task_texts', content_rowid='id', detail='none', columnsize=0,
            tokenize='trigram case_sensitive 1'
        )
    """)
    for name, what, sign in (("added", "INSERT", 1), ("removed", "DELETE", -1)):
        row, command = ("new", "") if sign > 0 else ("old", "task_grams, ")
        op.execute(f"""
            CREATE TRIGGER task_texts_{name} AFTER {what} ON task_texts BEGIN
                INSERT INTO task_grams ({command}rowid, words)
                VALUES ({"'delete', " if command else ""}{row}.id, {row}.words);
            END
        """)
    words = f"CASE WHEN {_length('new.')} <= {LONG} THEN {_joined('new.')} ELSE '' END"
    added = f"""
        INSERT INTO task_texts (task_id, words, long)
        VALUES (new.task_id, {words}, {_length("new.")} > {LONG});
    """
    removed = "DELETE FROM task_texts WHERE task_id = old.task_id;"
    changed = " OR ".join(f"old.{name} IS NOT new.{name}" for name in SEARCHED)
    op.execute(f"CREATE TRIGGER tasks_text_added AFTER INSERT ON tasks BEGIN {added} END")
    op.execute(f"CREATE TRIGGER tasks_text_removed AFTER DELETE ON tasks BEGIN {removed} END")
    op.execute(f"""
        CREATE TRIGGER tasks_text_changed AFTER UPDATE OF {", ".join(SEARCHED)} ON tasks WHEN {changed}
        BEGIN {removed} {added} END
    """)
    op.execute(f"""
        INSERT INTO task_texts (task_id, words, long)
        SELECT task_id, {words.replace("new.", "")}, {_length("")} > {LONG} FROM tasks
    """)


def _length(row: str) -> str:
    return " + ".join(f"coalesce(length({row}{name}), 0)" for name in SEARCHED)


def _joined(row: str) -> str:
    """Join the texts, with what is in none of them in between."""
    between = " || CHR(10) || " if op.get_bind().dialect.name == "postgresql" else " || char(10) || "
    joined = between.join(f"coalesce({row}{name}, '')" for name in SEARCHED)
    return joined if op.get_bind().dialect.name == "postgresql" else f"lower({joined})"


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP INDEX tasks_long")
        op.execute("DROP INDEX tasks_grams")
        op.execute("DROP FUNCTION grams_of(text)")
    else:
        for name in ("added", "removed", "changed"):
            op.execute(f"DROP TRIGGER IF EXISTS tasks_text_{name}")
        op.execute("DROP TABLE IF EXISTS task_grams")
        op.execute("DROP TABLE IF EXISTS task_texts")
