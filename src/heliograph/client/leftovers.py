"""The spools of earlier runs, sent by a later one.

A run that ended while the service was away leaves a complete spool. A run that was killed leaves a spool
without the task's end; the task is then ended here as failed, so that it does not run for ever in the
dashboard.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

from heliograph.client.api import Client
from heliograph.client.attachments import send_attachments
from heliograph.client.environment import DEFAULT_URL
from heliograph.client.invocation import command_line
from heliograph.client.outbox import Outbox
from heliograph.client.spool import Spool, spools
from heliograph.model.errors import HeliographError
from heliograph.model.task import TERMINAL


async def send_leftovers(
    home: Path, url: str, client: Client, notify: Callable[[str], object], patience: float
) -> tuple[int, int]:
    """Send every spool for this service whose process is gone.

    Args:
        home: The folder of all spools.
        url: The service's URL, as the spools name it.
        client: The client of the service.
        notify: Called with each fault, as a sentence for people.
        patience: Seconds without progress after which to give up; at once if the service refuses.

    Returns:
        The number of spools that were sent, and of those that stay. Spools for other services, and of live
        processes, are not counted.
    """
    sent = stay = 0
    for folder in spools(home):
        spool = Spool.adopt(folder)
        if spool is None:
            continue
        with spool:
            if spool.about.url != url:
                continue
            _end(spool)
            # After one failure the others are not tried, since the service is the same.
            if stay == 0 and await _send(spool, client, notify, patience):
                spool.remove()
                sent += 1
            else:
                stay += 1
    return sent, stay


def services_waited_for(home: Path) -> set[str]:
    """Return the URLs of the services for which spools of dead processes wait."""
    found = set()
    for folder in spools(home):
        if (spool := Spool.adopt(folder)) is not None:
            with spool:
                found.add(spool.about.url)
    return found


def how_to_send(url: str) -> str:
    """Return the shell command that sends the waiting spools for a service."""
    return command_line("publish", "--spooled", *([] if url == DEFAULT_URL else ["--url", url]))


async def _send(spool: Spool, client: Client, notify: Callable[[str], object], patience: float) -> bool:
    outbox = Outbox(spool, client, notify)
    outbox.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.send)
        sent = await outbox.sent(patience)
        nursery.cancel_scope.cancel()
    try:
        await send_attachments(spool, client, notify)
    except HeliographError:
        return False
    return sent


def _end(spool: Spool) -> None:
    """Append the ends of the tasks that the dead process did not end."""
    if spool.about.task_id:
        last = spool.last_item()
        killed = {} if last is None or _is_end(last) else {spool.about.task_id: "heliograph exec was killed"}
    else:
        killed = dict.fromkeys(spool.open_tasks(), "the program was killed")
    now = datetime.now(UTC).isoformat()
    spool.append(
        {
            "topic": "task.status",
            "payload": {"task_id": task_id, "status": "failed", "result": {"error": f"{who} before its end"}},
            "timestamp": now,
        }
        for task_id, who in killed.items()
    )
    if killed:
        spool.note_open(())


def _is_end(item: dict[str, Any]) -> bool:
    return item["topic"] == "task.status" and item["payload"]["status"] in TERMINAL
