"""A program run as a task: its output lines are events, and its end is the task's end.

Two pumps, one for each output pipe, copy what they read first into the outbox (after which it can't be lost),
and then to the user's terminal, byte for byte. An unfinished line is sent as it is after ``LINE_DELAY``. If
the outbox or the terminal blocks, the pump waits, and the program waits on its full pipe.

*The end.* Once the program has exited, the bytes in its pipes are read. The pipes are left after ``LINGER``
seconds, even if a background process of the program still holds them. The status follows from the exit: 0 is
``completed``; it is ``cancelled`` if this process was asked to stop the program (Ctrl-C, SIGTERM), whatever
the program then returned, or if another process ended it by such a signal; everything else is ``failed``. The
exit code is the program's own, as in a shell: 128+n for a signal, 127 not found, 126 not executable.

While the program is silent, the task publishes a heartbeat now and then. It has announced that at its
beginning: a task with a heartbeat that falls silent counts as lost.

If the run is cancelled (in Trio's sense), the program is killed and reaped, the bytes in its pipes are kept,
and the task is ``cancelled``: all without waiting for anything but the kernel.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs
import trio

from heliograph.client.exec.job import Job, visible
from heliograph.client.exec.lines import LineAssembler, Piece
from heliograph.client.outbox import Outbox
from heliograph.client.spool import OutputRun

LINE_DELAY = 0.1
LINGER = 1.0
HEARTBEAT_SECONDS = 15.0
"""The longest silence of a running task."""

READ_BYTES = 64 * 1024
TAIL_BYTES = 4096
MAX_REST_BYTES = 1024 * 1024
"""The most bytes that the kernel lets a pipe hold."""

NOT_FOUND = 127
NOT_EXECUTABLE = 126
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@attrs.frozen
class CommandOutcome:
    """The outcome of a command.

    Args:
        status: ``completed``, ``failed`` or ``cancelled``.
        exit_code: The exit code, as in a shell.
        error: Why the task is not completed, in a few words.
        started: Whether the program could be started at all.
    """

    status: str
    exit_code: int
    error: str | None = None
    started: bool = True


class Execution:
    """One run of a job.

    Args:
        job: The command to run.
        outbox: The outbox that its events go to.
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
            number: The signal's number.
            pass_on: Whether to send it to the program, too.
        """
        self._asked = signal.Signals(number)
        if pass_on and self._process is not None:
            self._process.send_signal(number)

    def leave(self) -> None:
        """Stop waiting for the pipes and the terminal; to be called after the program has exited."""
        for pump in self._pumps:
            pump.stop()

    async def run(self) -> CommandOutcome:
        """Run the program to its end; every event of the task is in the outbox when this returns.

        Raises:
            OSError: The spool can't be written.
        """
        job, begun = self._job, trio.current_time()
        begins = job.created()
        begins["payload"]["heartbeat_seconds"] = HEARTBEAT_SECONDS
        self._outbox.append([begins])
        outcome = CommandOutcome("cancelled", 128 + signal.SIGKILL, "interrupted")
        try:
            process, pipes = await self._start()
        except OSError as error:
            outcome = _not_started(job.command[0], error)
        else:
            self._process = process
            self._outbox.append([job.event("task.status", {"status": "running"})])
            self._pumps = [self._pump(stream, pipe) for stream, pipe in pipes.items()]
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

    async def _start(self) -> tuple[trio.Process, dict[str, Any]]:
        """Start the program; return the pipes of its output, by stream."""
        job = self._job
        start = partial(
            trio.lowlevel.open_process,
            job.command,
            stdin=subprocess.DEVNULL if job.detached else None,
            env=job.environment(),
            start_new_session=job.detached,
        )
        if not job.pty:
            process = await start(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            return process, {"stdout": process.stdout, "stderr": process.stderr}
        ours, theirs = open_pty()
        try:
            process = await start(stdout=theirs, stderr=theirs)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return process, {"stdout": trio.lowlevel.FdStream(ours)}

    def _pump(self, stream: str, pipe: Any) -> _Pump:
        return _Pump(self._job, stream, pipe, self._outbox, self._echo.get(stream))

    async def _attend(self, process: trio.Process) -> None:
        try:
            async with trio.open_nursery() as nursery:
                for pump in self._pumps:
                    nursery.start_soon(pump.run)
                beating = trio.CancelScope()
                nursery.start_soon(self._beat, beating)
                await process.wait()
                self.ended = True
                await self._read_to_the_end()
                beating.cancel()
        finally:
            if process.returncode is None:
                _kill(process, group=self._job.detached)
                with trio.move_on_after(1, shield=True):
                    await process.wait()

    async def _beat(self, beating: trio.CancelScope) -> None:
        """Publish heartbeats while the program is silent, unless items wait to be sent."""
        with beating:
            while True:
                before = sum(pump.count for pump in self._pumps)
                await trio.sleep(HEARTBEAT_SECONDS / 2)
                silent = sum(pump.count for pump in self._pumps) == before
                if silent and not self._outbox.unsent:
                    # A full disk also holds up the program's output, where it is reported.
                    with contextlib.suppress(OSError):
                        self._outbox.append([self._job.event("task.heartbeat", {})])

    async def _read_to_the_end(self) -> None:
        """Read all that the program has written, and what its background processes write meanwhile.

        A blocked pump takes the bytes in its pipe without waiting, unless the terminal blocks it.
        """
        ends = [pump.count + pump.held() for pump in self._pumps]
        while not all(pump.ended.is_set() for pump in self._pumps):
            before = [pump.count for pump in self._pumps]
            with trio.move_on_after(LINGER):
                for pump in self._pumps:
                    await pump.ended.wait()
            for pump, end, count in zip(self._pumps, ends, before, strict=True):
                if not pump.echoing and (pump.count >= end or pump.count == count):
                    pump.stop()

    def _judge(self, process: trio.Process) -> CommandOutcome:
        code = process.returncode
        assert code is not None
        exit_code = code if code >= 0 else 128 - code
        if self._asked is not None:
            return CommandOutcome("cancelled", exit_code, f"stopped by {self._asked.name}")
        if code < 0:
            number = signal.Signals(-code)
            if number in STOP_SIGNALS:
                return CommandOutcome("cancelled", exit_code, f"stopped by {number.name}")
            return CommandOutcome("failed", exit_code, f"killed by {number.name}")
        return (
            CommandOutcome("failed", code, f"exit status {code}") if code else CommandOutcome("completed", 0)
        )


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
        self.echoing = False  # whether it waits for the terminal
        self._scope = trio.CancelScope()

    def stop(self) -> None:
        """Take the bytes that are in the pipe now, and end."""
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
                try:
                    data = await self._pipe.receive_some(READ_BYTES)
                except trio.BrokenResourceError:  # a pseudo-terminal's end of file
                    data = b""
            if data == b"":
                break
            if data is None:  # the delay is over, but under load the rest of the line may be there by now
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

    def held(self) -> int:
        """Return the number of bytes in the pipe now."""
        held = bytearray(4)
        with contextlib.suppress(OSError, ValueError):  # the pipe was closed
            fcntl.ioctl(self._pipe.fileno(), termios.FIONREAD, held)
        return int.from_bytes(held, sys.byteorder)

    def _count(self, data: bytes) -> bytes:
        self.count += len(data)
        self.tail = (self.tail + data)[-TAIL_BYTES:]
        return data

    async def _record(self, pieces: list[Piece]) -> None:
        """Keep pieces in the outbox; if stopped while it is full, exceed its bound."""
        if not pieces:
            return
        items = self._items(pieces)
        with trio.CancelScope() as self._scope:
            await self._outbox.put(items)
            return
        self._outbox.append(items)

    async def _copy(self, data: bytes, echo: int) -> None:
        """Copy to the terminal, in a thread, since it may block (Ctrl-S) and is shared by programs."""
        self.echoing = True
        try:
            with trio.CancelScope() as self._scope:
                await trio.to_thread.run_sync(_write_all, echo, data, abandon_on_cancel=True)
        except OSError:
            # Our output has no reader any more. The program learns it as it would without us: by SIGPIPE.
            self._stopped = True
            self._pipe.close()
        self.echoing = False

    def _read_now(self, limit: int) -> bytes:
        """Return the bytes in the pipe, without waiting."""
        held = b""
        with contextlib.suppress(OSError):  # empty but still open elsewhere, or closed by us
            while len(held) < limit and (data := os.read(self._pipe.fileno(), READ_BYTES)):
                held += data
        return held

    def _items(self, pieces: list[Piece]) -> list[dict[str, Any] | OutputRun]:
        items: list[dict[str, Any] | OutputRun] = []
        for piece in pieces:
            payload: dict[str, Any] = {"stream": self._stream}
            if piece.partial:
                payload["partial"] = True
            if piece.rewind:
                payload["rewind"] = True
            event = self._job.event("task.output", payload)
            if "\n" in piece.text:
                items.append(OutputRun(event, piece.text))
            else:
                event["payload"]["output"] = piece.text
                items.append(event)
        return items


def open_pty() -> tuple[int, int]:
    """Make a pseudo-terminal as large as the user's own; return the end to read and the one to write.

    Line ends are kept as the program writes them, not converted for a terminal.
    """
    ours, theirs = os.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    columns, lines = shutil.get_terminal_size()
    termios.tcsetwinsize(theirs, (lines, columns))
    return ours, theirs


def _not_started(program: str, error: OSError) -> CommandOutcome:
    if isinstance(error, FileNotFoundError):
        return CommandOutcome("failed", NOT_FOUND, f"command not found: {visible(program)}", False)
    why = f"can't be executed: {visible(program)}: {error.strerror}"
    return CommandOutcome("failed", NOT_EXECUTABLE, why, False)


def _kill(process: trio.Process, *, group: bool) -> None:
    if group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _visible_tail(tail: bytes) -> str:
    if len(tail) == TAIL_BYTES:
        tail = tail.lstrip(bytes(range(0x80, 0xC0)))  # the rest of a character that was cut
    return tail.decode("utf-8", "replace").replace("\0", "\u2400")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
