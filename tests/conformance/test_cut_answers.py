"""An archive that refuses in the middle of a long answer: the answer is cut, and the log tells why."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from tests.conformance.clients import connect, get, publish, request_head
from tests.conformance.serving import serve, settings_for
from tests.polling import until
from tests.storages import DistributedForm, administrate

LINES = 16
"""Of a megabyte each: more than the sockets of both sides hold."""

PATH = "/api/v1/tasks/t/logs/full"


@pytest.mark.parametrize("form", ["text/plain", "application/x-ndjson"])
async def test_an_archive_that_refuses_cuts_a_full_log(
    nursery: trio.Nursery, distributed: DistributedForm, tmp_path: Path, form: str
) -> None:
    """What has no last chunk is no whole answer; the service goes on, and gives it whole afterwards."""
    served = await serve(nursery, distributed.place(settings_for(tmp_path)))
    for number in range(LINES):
        await publish(
            served.url, {"type": "task_output", "task_id": "t", "output": f"{number} " + "x" * 1_000_000}
        )

    async def archived() -> bool:
        return bool((await get(served.url, "/api/v1/tasks/t"))["output_lines"] == LINES)

    await until(archived)
    with capture_logs() as logs:
        cut = await download(served.url, form, distributed)
    assert cut.startswith(b"HTTP/1.1 200")
    assert len(cut) < LINES * 1_000_000
    assert not cut.endswith(b"\r\n0\r\n\r\n")
    [told] = [line for line in logs if line["event"] == "an answer was cut"]
    assert told["path"] == PATH
    assert 'relation "events" does not exist' in told["reason"]
    administrate(distributed.postgres_url, "ALTER TABLE events_away RENAME TO events")
    whole = await download(served.url, form)
    assert whole.endswith(b"\r\n0\r\n\r\n")
    assert len(whole) > LINES * 1_000_000
    nursery.cancel_scope.cancel()


async def download(url: str, form: str, refusing: DistributedForm | None = None) -> bytes:
    """Return a full log as it comes, up to the end of its connection.

    Args:
        url: The service.
        form: The media type of the answer.
        refusing: The form whose archive begins to refuse once the answer has begun.
    """
    head = request_head("GET", PATH, {"Host": "localhost", "Accept": form, "Connection": "close"})
    async with await connect(url, receive_buffer=16_384) as stream:
        await stream.send_all(head)
        came = bytearray(await stream.receive_some(1))
        if refusing is not None:
            await trio.to_thread.run_sync(
                administrate, refusing.postgres_url, "ALTER TABLE events RENAME TO events_away"
            )
        try:
            while data := await stream.receive_some(1 << 18):
                came += data
        except trio.BrokenResourceError:
            pass  # reset
        return bytes(came)
