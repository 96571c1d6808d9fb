"""Log lines of a program as output of its tasks: for ``logging``, and for structlog.

    logging.getLogger().addHandler(heliograph.LoggingHandler())
    structlog.configure(processors=[..., heliograph.StructlogProcessor(), structlog.dev.ConsoleRenderer()])

A line goes to the innermost task around it, with ``level`` and ``logger`` beside its text. Outside of all
tasks it becomes an event ``log``. Lines of the client's own thread (its HTTP library, say) are ignored: each
request would cause the next one.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import MutableMapping
from typing import Any

from heliograph.client import environment
from heliograph.client.agent.courier import THREAD_NAME
from heliograph.client.agent.payload import text_of
from heliograph.client.agent.record import TaskRecord, current, publish_alone

TOPIC = "log"


class LoggingHandler(logging.Handler):
    """Publishes log records. It never waits for the network.

    Args:
        level: Only records of this level or above.
    """

    def __init__(self, level: int | str = logging.NOTSET) -> None:
        super().__init__(level)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Publish one record."""
        if record.threadName == THREAD_NAME or record.name == "heliograph" or record.process != os.getpid():
            return
        try:
            _write(self.format(record), record.levelname.lower(), record.name)
        except Exception:  # as in every handler: a program must not fail because of its logging
            self.handleError(record)


class StructlogProcessor:
    """Publishes each event of structlog, and passes it on unchanged."""

    def __call__(
        self, logger: Any, method_name: str, event_dict: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Publish one event."""
        if threading.current_thread().name != THREAD_NAME:
            fields = " ".join(
                f"{key}={text_of(value)}" for key, value in event_dict.items() if key != "event"
            )
            text = f"{method_name.upper()} {text_of(event_dict.get('event', ''))} {fields}".rstrip()
            _write(text, method_name, text_of(event_dict.get("logger", "")) or None)
        return event_dict


def _write(text: str, level: str, logger: str | None) -> None:
    told = {"level": level} if logger is None else {"level": level, "logger": logger}
    record, task_id = current(), environment.task_id()
    if record is None and task_id is not None:
        record = TaskRecord(task_id)
    if record is None:
        publish_alone(TOPIC, {"message": text, **told})
    else:
        record.write(text + "\n", "stderr", told)
