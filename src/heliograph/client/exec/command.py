"""A program run as a task: its output lines are events, its end is the task's.

Two pumps, one for each output pipe, do three things with what they read, in this order: into the outbox
(from there on it can't be lost), then to the user's own terminal, byte for byte. A line that waits for
its end is sent as it stands after ``LINE_DELAY``. If the outbox waits, or the terminal, the pump does,
and by its full pipe the program.

The end. Once the program has exited, its pipes are read to their end. If something it left running in the
background still holds them, they are left after ``QUIET`` seconds without a byte. The status follows from
how it ended: 0 is ``completed``; ``cancelled`` if this process was asked to stop it (Ctrl-C, SIGTERM),
whatever the program then returned, or if someone else ended it by such a signal; everything else is
``failed``. The exit code is the program's own as a shell would say it: 128+n for a signal, 127 not found,
126 not executable.

If the run is cancelled (Trio's way), the program is killed and reaped, what its pipes hold is kept, and
the task is ``cancelled``: all without waiting for anything but the kernel.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import shlex
import signal
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import trio

from heliograph.client.exec.lines import LineAssembler, Piece
from heliograph.client.outbox import Outbox

LINE_DELAY = 0.1
QUIET = 1.0
READ_BYTES = 64 * 1024
TAIL_BYTES = 4096
MAX_REST_BYTES = 1024 * 1024
"""As much as the kernel lets a pipe hold."""

NOT_FOUND = 127
NOT_EXECUTABLE = 126
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
NAME_CHARACTERS = 200


@attrs.frozen
class Job:
    """A command, and the task that it becomes.

    Args:
        task_id: Of the task.
        command: The program and its arguments.
        name: For people; by default the command.
        agent: Who runs it.
        model: The model it uses.
        metadata: Anything else to be kept with the task.
        usage: Fields for the task's result, such as ``cost_usd``, that the program does not tell itself.
        detached: Without the terminal: no input, and out of reach of its Ctrl-C.
    """

    task_id: str
    command: tuple[str, ...]
    name: str | None = None
    agent: str | None = None
    model: str | None = None
    metadata: Mapping[str, Any] = attrs.Factory(dict)
    usage: Mapping[str, Any] = attrs.Factory(dict)
    detached: bool = False

    def event(self, topic: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Make an event of this task, as of now, in the form that is published."""
        event = {
            "topic": topic,
            "payload": {"task_id": self.task_id, **payload},
            "timestamp": datetime.now(UTC).isoformat(),
        }
        return event if self.agent is None else {**event, "sender": self.agent}

    def created(self) -> dict[str, Any]:
        """Make the event that begins the task."""
        command = [_visible(word) for word in self.command]
        described = {
            "name": self.name or shlex.join(command)[:NAME_CHARACTERS],
            "agent": self.agent,
            "model": self.model,
            "input": {"command": command},
            "metadata": dict(self.metadata),
        }
        return self.event(
            "task.created", {name: value for name, value in described.items() if value is not None}
        )


@attrs.frozen
class Outcome:
    """How a command ended.

    Args:
        status: ``completed``, ``failed`` or ``cancelled``.
        exit_code: As a shell would say it.
        error: Why it is not completed, in a few words.
        started: Whether the program could be started at all.
    """

    status: str
    exit_code: int
    error: str | None = None
    started: bool = True


class Execution:
    """One run of a job.

    Args:
        job: What to run.
        outbox: Where its events go.
        echo: File descriptors to copy the output to, by stream: ``stdout``, ``stderr``.
    """

    def __init__(self, job: Job, outbox: Outbox, echo: Mapping[str, int] | None = None) -> None:
        self._job = job
        self._outbox = outbox
        self._echo = echo or {}
        self._process: trio.Process | None = None
        self._pumps: list[_Pump] = []
        self._asked: signal.Signals | None = None
        self.ended = False
        """Whether the program has exited."""

    def stop(self, number: int, *, pass_on: bool) -> None:
        """Note that the user asked for the end by a signal.

        Args:
            number: Of the signal.
            pass_on: Send it to the program too.
        """
        self._asked = signal.Signals(number)
        if pass_on and self._process is not None:
            self._process.send_signal(number)

    def leave(self) -> None:
        """After the program ended: stop waiting for its pipes and the terminal."""
        for pump in self._pumps:
            pump.stop()

    async def run(self) -> Outcome:
        """Run the program to its end; every event of the task is in the outbox when this returns.

        Raises:
            OSError: The spool can't be written.
        """
        job, begun = self._job, trio.current_time()
        self._outbox.append([job.created()])
        outcome = Outcome("cancelled", 128 + signal.SIGKILL, "interrupted")
        try:
            process = self._process = await trio.lowlevel.open_process(
                job.command,
                stdin=subprocess.DEVNULL if job.detached else None,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=job.detached,
            )
        except OSError as error:
            outcome = _not_started(job.command[0], error)
        else:
            self._outbox.append([job.event("task.status", {"status": "running"})])
            self._pumps = [self._pump("stdout", process.stdout), self._pump("stderr", process.stderr)]
            await self._attend(process)
            outcome = self._judge(process)
        finally:
            self.ended = True
            result = {
                "stdout": _visible_tail(self._pumps[0].tail) if self._pumps else "",
                "exit_code": outcome.exit_code,
                "error": outcome.error,
                "duration": round(trio.current_time() - begun, 3),
                **job.usage,
            }
            self._outbox.append([job.event("task.status", {"status": outcome.status, "result": result})])
        return outcome

    def _pump(self, stream: str, pipe: Any) -> _Pump:
        return _Pump(self._job, stream, pipe, self._outbox, self._echo.get(stream))

    async def _attend(self, process: trio.Process) -> None:
        try:
            async with trio.open_nursery() as nursery:
                for pump in self._pumps:
                    nursery.start_soon(pump.run)
                await process.wait()
                self.ended = True
                await self._read_to_the_end()
        finally:
            if process.returncode is None:
                _kill(process, group=self._job.detached)
                with trio.move_on_after(1, shield=True):
                    await process.wait()

    async def _read_to_the_end(self) -> None:
        while not all(pump.ended.is_set() for pump in self._pumps):
            seen = [pump.count for pump in self._pumps]
            with trio.move_on_after(QUIET):
                for pump in self._pumps:
                    await pump.ended.wait()
            if seen == [pump.count for pump in self._pumps]:
                for pump in self._pumps:
                    if not pump.echoing:
                        pump.stop()

    def _judge(self, process: trio.Process) -> Outcome:
        code = process.returncode
        assert code is not None
        exit_code = code if code >= 0 else 128 - code
        if self._asked is not None:
            return Outcome("cancelled", exit_code, f"stopped by {self._asked.name}")
        if code < 0:
            number = signal.Signals(-code)
            if number in STOP_SIGNALS:
                return Outcome("cancelled", exit_code, f"stopped by {number.name}")
            return Outcome("failed", exit_code, f"killed by {number.name}")
        return Outcome("failed", code, f"exit status {code}") if code else Outcome("completed", 0)


class _Pump:
    """Carries one output stream of the program into the outbox and to the terminal."""

    def __init__(self, job: Job, stream: str, pipe: Any, outbox: Outbox, echo: int | None) -> None:
        self.count = 0
        self.tail = b""
        self.ended = trio.Event()
        self._job = job
        self._stream = stream
        self._pipe = pipe  # Trio's FdStream, which it names only as a ReceiveStream
        self._outbox = outbox
        self._echo = echo
        self._lines = LineAssembler()
        self._stopped = False
        self.echoing = False  # waiting for the terminal
        self._scope = trio.CancelScope()

    def stop(self) -> None:
        """Wait for nothing more: take what the pipe holds now, and end."""
        self._stopped = True
        self._scope.cancel()

    async def run(self) -> None:
        try:
            await self._carry()
        finally:
            pieces = self._lines.feed(self._count(self._read_now(MAX_REST_BYTES))) + self._lines.finish()
            self._pipe.close()
            if pieces:
                self._outbox.append(self._items(pieces))
            self.ended.set()

    async def _carry(self) -> None:
        due = math.inf
        while not self._stopped:
            data = None
            with trio.CancelScope(deadline=due) as self._scope:
                data = await self._pipe.receive_some(READ_BYTES)
            if data == b"":
                break
            if data is None:  # the time is up; but under load the rest of the line may be there by now
                data = self._read_now(READ_BYTES)
            pieces = self._lines.feed(self._count(data))
            if not pieces and trio.current_time() >= due:
                pieces = self._lines.flush()
            if not self._lines.waiting:
                due = math.inf
            elif pieces or due == math.inf:
                due = trio.current_time() + LINE_DELAY
            await self._record(pieces)
            if data and self._echo is not None:
                await self._copy(data, self._echo)

    def _count(self, data: bytes) -> bytes:
        self.count += len(data)
        self.tail = (self.tail + data)[-TAIL_BYTES:]
        return data

    async def _record(self, pieces: list[Piece]) -> None:
        """Keep pieces in the outbox; when stopped while it is full, beyond its bound."""
        if not pieces:
            return
        items = self._items(pieces)
        with trio.CancelScope() as self._scope:
            await self._outbox.put(items)
            return
        self._outbox.append(items)

    async def _copy(self, data: bytes, echo: int) -> None:
        """Copy to the terminal: in a thread, for it may be held (Ctrl-S) and is shared with others."""
        self.echoing = True
        try:
            with trio.CancelScope() as self._scope:
                await trio.to_thread.run_sync(_write_all, echo, data, abandon_on_cancel=True)
        except OSError:
            # Nobody reads our output any more. Let the program learn it as it would without us: by SIGPIPE.
            self._stopped = True
            self._pipe.close()
        self.echoing = False

    def _read_now(self, limit: int) -> bytes:
        """Return what the pipe holds, without waiting."""
        held = b""
        with contextlib.suppress(OSError):  # it is empty but held open by someone, or closed by us
            while len(held) < limit and (data := os.read(self._pipe.fileno(), READ_BYTES)):
                held += data
        return held

    def _items(self, pieces: list[Piece]) -> list[dict[str, Any]]:
        items = []
        for piece in pieces:
            payload: dict[str, Any] = {"output": piece.text, "stream": self._stream}
            if piece.partial:
                payload["partial"] = True
            if piece.rewind:
                payload["rewind"] = True
            items.append(self._job.event("task.output", payload))
        return items


def new_task_id(program: str) -> str:
    """Make an id for a task that runs a program, with the program's name in it for people."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(_visible(program)).name).strip("-._")[:40]
    return f"{name or 'task'}-{secrets.token_hex(5)}"


def _not_started(program: str, error: OSError) -> Outcome:
    if isinstance(error, FileNotFoundError):
        return Outcome("failed", NOT_FOUND, f"command not found: {_visible(program)}", False)
    why = f"can't be executed: {_visible(program)}: {error.strerror}"
    return Outcome("failed", NOT_EXECUTABLE, why, False)


def _kill(process: trio.Process, *, group: bool) -> None:
    if group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _visible(text: str) -> str:
    """Return an argument as valid text; its bytes may be anything."""
    return os.fsencode(text).decode("utf-8", "replace")


def _visible_tail(tail: bytes) -> str:
    if len(tail) == TAIL_BYTES:
        tail = tail.lstrip(bytes(range(0x80, 0xC0)))  # the rest of a character that was cut
    return tail.decode("utf-8", "replace").replace("\0", "\u2400")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
