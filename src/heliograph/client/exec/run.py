"""``heliograph exec``: a command as a task, from its start to the last byte at the service.

First the spool is made and locked; if that fails the command is not started, since its output could not be
kept. Then the command runs, and its output is sent meanwhile if the service can be reached. The spools of
earlier runs are sent at the same time. After the command has ended, sending the rest may take ``patience``
seconds without progress. Unsent items then stay in the spool for the next run, and stderr says so.

*Signals.* SIGINT, SIGTERM, SIGHUP and SIGQUIT don't end this process; they make the task ``cancelled``. The
terminal's own Ctrl-C has reached the command already, since both are in the foreground; any other signal is
passed on. The third one kills the command. After the command has ended, a second signal ends the waiting for
the service, or the first one after the user was told of the waiting.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import attrs
import trio

from heliograph.client.api import Client
from heliograph.client.exec.command import STOP_SIGNALS, Execution
from heliograph.client.exec.job import Job
from heliograph.client.leftovers import how_to_send, send_leftovers
from heliograph.client.outbox import Outbox
from heliograph.client.spool import About, Spool
from heliograph.model.errors import HeliographError

SIGNALS_UNTIL_KILL = 3
SILENT_SECONDS = 1.0
KEY_SECONDS = 2.0


@attrs.frozen
class Service:
    """The service that a run's output goes to, and the spooling on the way.

    Args:
        url: The service's URL.
        api_key: The key to publish with; ``None``: none.
        spools: The folder of all spools.
        spool_limit: Bytes that may wait in a spool before the command is blocked.
        patience: Seconds without progress after which unsent items are left to the next run.
    """

    url: str
    api_key: str | None
    spools: Path
    spool_limit: int
    patience: float


def say(sentence: str) -> None:
    """Write a message for the user to stderr, apart from the command's own output."""
    print(f"heliograph: {sentence}", file=sys.stderr, flush=True)  # noqa: T201


async def execute(job: Job, service: Service, *, quiet: bool) -> int:
    """Run a command as a task and send its output.

    Args:
        job: The command to run.
        service: The service that the output goes to.
        quiet: Whether not to copy the command's output to this process's stdout and stderr.

    Returns:
        The exit code for this process: the command's own.

    Raises:
        OSError: The spool can't be made or written.
    """
    with (
        trio.open_signal_receiver(*STOP_SIGNALS) as signals,
        Spool.create(
            service.spools, About(service.url, job.task_id, job.created()["payload"]["name"])
        ) as spool,
    ):
        async with Client(service.url, service.api_key) as client:
            if service.api_key is not None:
                job = attrs.evolve(job, api_key=await _key_for(job, client))
            outbox = Outbox(spool, client, say, service.spool_limit)
            execution = Execution(job, outbox, {} if quiet else {"stdout": 1, "stderr": 2})
            waiting, told = trio.CancelScope(), trio.Event()
            earlier_sent = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pass_signals, signals, execution, waiting, told)
                nursery.start_soon(outbox.send)
                nursery.start_soon(_send_earlier, service, client, earlier_sent)
                outcome = await execution.run()
                outbox.close()
                if not outcome.started:
                    say(str(outcome.error))
                with waiting:
                    if await _all_sent(outbox, service, told):
                        spool.remove()
                        with trio.move_on_after(service.patience):
                            await earlier_sent.wait()
                nursery.cancel_scope.cancel()
        if outbox.unsent:
            say(
                f"{outbox.unsent:,} bytes of output are kept in {spool.folder}; the next exec for"
                f" {service.url} sends them, or at once: {how_to_send(service.url)}"
            )
    return outcome.exit_code


async def _key_for(job: Job, client: Client) -> str | None:
    """Request a key for the command; ``None`` if the service is away, or does not issue keys."""
    with trio.move_on_after(KEY_SECONDS), suppress(HeliographError):
        return await client.task_key(job.task_id)
    return None


async def _all_sent(outbox: Outbox, service: Service, told: trio.Event) -> bool:
    """Wait until the service has everything; set ``told`` once the user knows that Ctrl-C ends the wait."""
    if await outbox.sent(min(SILENT_SECONDS, service.patience)):
        return True
    if outbox.refused:
        return False
    say(
        f"waiting for {service.url} to take {outbox.unsent:,} bytes of output"
        f" (at most {service.patience:g} s without progress; Ctrl-C leaves them to the next run)"
    )
    told.set()
    return await outbox.sent(service.patience)


async def _send_earlier(service: Service, client: Client, done: trio.Event) -> None:
    try:
        # A fault that keeps these spools from being sent also keeps this run's own, which reports it.
        await send_leftovers(service.spools, service.url, client, lambda sentence: None, service.patience)
    except (OSError, ValueError) as error:
        say(f"what an earlier run left can't be read: {error}")
    done.set()


async def _pass_signals(
    signals: AsyncIterator[int], execution: Execution, waiting: trio.CancelScope, told: trio.Event
) -> None:
    count = 0
    async for number in signals:
        count += 1
        if execution.ended:
            # Ctrl-C also reaches the command, which may have ended first: only a further one is for us.
            if count > 1 or told.is_set():
                execution.leave()
                waiting.cancel()
        elif count >= SIGNALS_UNTIL_KILL:
            execution.stop(signal.SIGKILL, pass_on=True)
        else:
            execution.stop(number, pass_on=count > 1 or not _reached_all(number))


def _reached_all(number: int) -> bool:
    """Guess whether the terminal sent this signal, and so to the command, too."""
    if number not in {signal.SIGINT, signal.SIGQUIT}:
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
