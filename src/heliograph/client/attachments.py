"""Attachments: files in a spool that are to be put at a path of the service, such as a run's artifacts.

Each is one file: a line of JSON with its path, followed by the bytes. They are sent independently of the
items, in no order with them; sending one again is harmless.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson

from heliograph.client.api import Client
from heliograph.client.spool import Spool
from heliograph.model.errors import ClientFault, Forbidden, TooMany, Unauthenticated


async def send_attachments(spool: Spool, client: Client, notify: Callable[[str], object]) -> None:
    """Send all attachments; set aside those that the service refuses for good, and call ``notify`` for each.

    Raises:
        HeliographError: The service can't take them now, or refuses the caller.
    """
    for file in spool.attachments():
        target, data = read_attachment(file)
        try:
            await client.put(target, data)
        except (TooMany, Unauthenticated, Forbidden):
            raise
        except ClientFault as error:
            kept = spool.set_aside_attachment(file)
            notify(f"{client.url} refuses {target} for good ({error}); it is kept in {kept}")
        file.unlink(missing_ok=True)


def read_attachment(file: Path) -> tuple[str, bytes]:
    """Return an attachment's path at the service, and its bytes."""
    about, _, data = file.read_bytes().partition(b"\n")
    return str(orjson.loads(about)["path"]), data
