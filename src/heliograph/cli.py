"""The command ``heliograph``.

Each command imports what it needs when it runs, so that ``heliograph --help`` and short commands start at
once. Exit statuses: 0 done, 1 refused, 2 wrong usage or settings, 3 the service can't be reached, 130
interrupted; ``exec`` passes on its command's own.

A long module, since the options of all commands are declared side by side, so that the same option has the
same name everywhere. The work of the commands is elsewhere.
"""

from __future__ import annotations

import errno
import io
import os
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TypeVar

import click

from heliograph import __version__
from heliograph.client.environment import DEFAULT_URL, spool_folder
from heliograph.model.errors import (
    ClientFault,
    HeliographError,
    Invalid,
    SettingsError,
    TooMany,
    Unavailable,
)

if TYPE_CHECKING:
    from heliograph.config import Settings

Result = TypeVar("Result")

REFUSED = 1
WRONG = 2
UNREACHABLE = 3
INTERRUPTED = 130
EXEC_FAILED = 125
MEGABYTE = 1024 * 1024
DEFAULT_TAIL = 100


_ELSEWHERE = {
    "keys": "heliograph.keys",
    "load": "heliograph.client.load",
    **dict.fromkeys(("ask", "cost", "event"), "heliograph.client.agent.commands"),
}
"""Commands that are declared in other modules, and imported at their first use."""


class _Commands(click.Group):
    """The commands.

    An interrupt that no command handles ends the process quietly.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            command: click.Command = getattr(import_module(_ELSEWHERE[cmd_name]), f"{cmd_name}_command")
            return command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        status = INTERRUPTED
        try:
            return self._invoke(ctx)
        except* KeyboardInterrupt:  # alone, or in the exception groups of Trio's nurseries
            pass
        except* ModuleNotFoundError as missing:  # a client's installation lacks the service's libraries
            _say(f"{missing.exceptions[0]}: to serve, pip install 'heliograph[server]'")
            status = WRONG
        sys.exit(status)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            _say(f"{error.filename or 'the output'} can't be written: {error.strerror}")
            _forget_output()
            sys.exit(REFUSED)


def _forget_output() -> None:
    """Have Python not try once more, at its end, to write what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Live output and status of AI-agent fleets: the service, and what talks to it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # characters that the terminal's encoding lacks become ?


def _check_url(ctx: click.Context, param: click.Parameter, url: str) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise click.BadParameter(f"{url!r} is not a URL such as {DEFAULT_URL}")
    return url.rstrip("/")


def _check_key(ctx: click.Context, param: click.Parameter, key: str | None) -> str | None:
    if key is not None and not (key.isascii() and key.isprintable()):
        raise click.BadParameter("must be printable ASCII")
    return key


_url_option = click.option(
    "--url",
    envvar="HELIOGRAPH_URL",
    show_envvar=True,
    default=DEFAULT_URL,
    callback=_check_url,
    help="The service's URL.",
)
_api_key_option = click.option(
    "--api-key",
    envvar="HELIOGRAPH_API_KEY",
    show_envvar=True,
    callback=_check_key,
    help="The key to publish and read with.",
)


@main.command("exec", context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--agent", help="The agent that runs the command.")
@click.option("--name", help="The task's name; by default the command.")
@click.option("--model", help="The model that the command uses.")
@click.option("--task-id", help="The task's id; by default made from the command's name.")
@click.option(
    "--pty",
    is_flag=True,
    help="Give the command a pseudo-terminal: stdout and stderr are one stream, in their order.",
)
@click.option("--quiet", "-q", is_flag=True, help="Don't copy the command's output to this terminal.")
@click.option(
    "--wait",
    default=10.0,
    type=click.FloatRange(min=0),
    help="Seconds to wait for the service, after the command ended, while it takes nothing.",
)
@click.option(
    "--spool-mb",
    default=256,
    type=click.IntRange(min=1),
    help="Megabytes of output that may wait on disk; then the command waits.",
)
@_url_option
@_api_key_option
def exec_(
    command: tuple[str, ...],
    agent: str | None,
    name: str | None,
    model: str | None,
    task_id: str | None,
    pty: bool,
    quiet: bool,
    wait: float,
    spool_mb: int,
    url: str,
    api_key: str | None,
) -> None:
    """Run COMMAND as a task: its output and its end, live in front of every watcher.

    The exit status is the command's own (128+n for a signal, 127 not found, 126 not executable; 125 if its
    output could not be kept). If the service is away, the output waits on disk and is sent later.
    """
    import trio

    from heliograph.client.exec import Job, Service, execute, new_task_id, visible
    from heliograph.client.invocation import command_line
    from heliograph.model.intake import parse_item

    metadata = {"host": os.uname().nodename, "cwd": visible(os.getcwd())}
    job = Job(task_id or new_task_id(command[0]), command, name, agent, model, metadata, pty=pty, url=url)
    try:
        parse_item(job.created(), 1024 * 1024)
    except ClientFault as error:
        raise click.UsageError(str(error)) from None
    if sys.stderr.isatty() and not quiet:
        _say(f"task {job.task_id}; watch it with: {command_line('tail', f'task:{job.task_id}')}")
    service = Service(url, api_key, spool_folder(), spool_mb * MEGABYTE, wait)
    try:
        status = trio.run(partial(execute, job, service, quiet=quiet))
    except* SettingsError as errors:
        _say(str(errors.exceptions[0]))
        status = WRONG
    except* OSError as errors:
        _say(f"the output can't be kept: {errors.exceptions[0]}")
        status = EXEC_FAILED
    sys.exit(status)


@main.command()
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--topic", help="Publish one event of this topic instead of reading FILE.")
@click.option("--channel", help="The event's channel; by default chosen by its topic and payload.")
@click.option("--payload", default="{}", help="The event's payload, a JSON object.")
@click.option("--key", help="The event's key; published again with the same key, it is kept once.")
@click.option("--sender", help="The event's sender.")
@click.option("--correlation-id", help="The event's correlation id.")
@click.option("--spooled", is_flag=True, help="Send the spooled items of earlier runs of exec instead.")
@click.option(
    "--wait",
    default=10.0,
    type=click.FloatRange(min=0),
    help="Seconds to try while the service is away.",
)
@_url_option
@_api_key_option
def publish(
    file: BinaryIO,
    topic: str | None,
    channel: str | None,
    payload: str,
    key: str | None,
    sender: str | None,
    correlation_id: str | None,
    spooled: bool,
    wait: float,
    url: str,
    api_key: str | None,
) -> None:
    """Publish events: NDJSON or JSON from FILE (by default stdin), or one event made of options.

    NDJSON is sent as it comes. Prints the cursor after the last event that is kept.
    """
    if spooled:
        _publish_spooled(url, api_key, wait)
    elif topic is not None:
        event = {"topic": topic, "channel": channel, "payload": _json_object(payload), "key": key}
        event |= {"sender": sender, "correlation_id": correlation_id}
        _publish_event(
            {name: value for name, value in event.items() if value is not None}, url, api_key, wait
        )
    else:
        _publish_file(file, url, api_key, wait)


def _json_object(text: str) -> dict[str, Any]:
    from heliograph.model.exact_json import parse_json

    try:
        payload = parse_json(text.encode(errors="surrogateescape"), "--payload")
    except ClientFault as error:
        raise click.UsageError(str(error)) from None
    if not isinstance(payload, dict):
        raise click.UsageError("--payload must be a JSON object, such as '{\"answer\": 42}'")
    return payload


def _publish_event(item: dict[str, Any], url: str, api_key: str | None, wait: float) -> None:
    from heliograph.client import Client, publish_items

    async def send() -> str:
        async with Client(url, api_key) as client:
            return (await publish_items(client, [item], wait)).cursor

    click.echo(_run(send))


def _publish_file(file: BinaryIO, url: str, api_key: str | None, wait: float) -> None:
    from heliograph.client import Accepted, Client, publish_stream

    receipts: list[Accepted] = []

    async def send() -> None:
        async with Client(url, api_key) as client:
            await publish_stream(client, file.fileno(), wait, receipts.append)

    try:
        _run(send)
    finally:
        if receipts:
            click.echo(receipts[-1].cursor)


def _publish_spooled(url: str, api_key: str | None, wait: float) -> None:
    from heliograph.client import Client
    from heliograph.client.leftovers import how_to_send, send_leftovers, services_waited_for

    async def send() -> tuple[int, int]:
        async with Client(url, api_key) as client:
            return await send_leftovers(spool_folder(), client.url, client, _say, wait)

    sent, stay = _run(send)
    _say(f"{sent} spools were sent, {stay} stay in {spool_folder()}")
    for other in sorted(services_waited_for(spool_folder()) - {url}):
        _say(f"some wait for {other} too; to send them: {how_to_send(other)}")
    if stay:
        sys.exit(UNREACHABLE)


@main.command()
@click.argument("channel")
@click.option("--after", help="Begin after this cursor; 0-0 for the oldest that is kept.")
@click.option(
    "--tail",
    "-n",
    type=click.IntRange(min=0),
    help="The number of the newest events to begin with; by default 100.",
)
@click.option("--topic", help="Only events of this topic, or of a pattern such as pipeline.*")
@click.option("--follow", "-f", is_flag=True, help="Go on after the task has ended.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--transport", type=click.Choice(["sse", "ws"]), default="sse", help="Event stream or WebSocket."
)
@_url_option
@_api_key_option
def tail(
    channel: str,
    after: str | None,
    tail: int | None,
    topic: str | None,
    follow: bool,
    as_json: bool,
    transport: str,
    url: str,
    api_key: str | None,
) -> None:
    """Show what happens on CHANNEL: task:ID, workflow:ID, …, or a pattern such as task:* or *.

    A task's output is shown as its program wrote it, and the command ends when the task does.
    """
    from heliograph.client import Client, Following
    from heliograph.client.tail import show_channel
    from heliograph.client.terminal import EventPrinter, JsonPrinter
    from heliograph.model.channels import is_pattern, parse_selector, parse_topic_pattern

    try:
        parse_selector(channel, "CHANNEL")
        if topic is not None:
            parse_topic_pattern(topic, "--topic")
    except ClientFault as error:
        raise click.UsageError(str(error)) from None
    printer = JsonPrinter() if as_json else EventPrinter(many=is_pattern(channel))
    if after is None and tail is None:
        tail = DEFAULT_TAIL
    following = Following(channel, topic, after, tail)

    async def show() -> None:
        async with Client(url, api_key) as client:
            await show_channel(client, following, transport, printer.show, _say, follow_on=follow)

    try:
        _run(show)
    finally:
        printer.finish()


@main.command()
@click.option("--demo", is_flag=True, help="With a small fleet of demo agents that run real little programs.")
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings; by default config.toml.")
@click.option("--host", help="The address to listen on; overrides server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on; overrides server.port.")
@_api_key_option
def serve(demo: bool, file: Path | None, host: str | None, port: int | None, api_key: str | None) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    import gc

    gc.disable()  # imported modules stay, so collections among them would only delay the start
    import attrs
    import trio

    from heliograph import logs, service

    gc.enable()

    settings = _settings(file)
    server = settings.server
    try:
        server = attrs.evolve(server, host=host or server.host, port=server.port if port is None else port)
    except ValueError as error:
        raise click.UsageError(f"--host: {error}") from None
    settings = attrs.evolve(settings, server=server)
    logs.configure(settings.log.level)

    async def serve_and_tell() -> tuple[str, ...]:
        async with trio.open_nursery() as nursery:

            async def run_service(*, task_status: trio.TaskStatus[str]) -> None:
                await service.run(settings, task_status=task_status)
                nursery.cancel_scope.cancel()

            try:
                url = await nursery.start(run_service)
            except SettingsError as error:
                return error.problems
            if demo or sys.stdout.isatty():
                click.echo(_greeting(url))
            if demo:
                nursery.start_soon(_run_demo, url, api_key, settings.storage.data / "demo")
        return ()

    if problems := trio.run(serve_and_tell):
        _refuse_settings(problems)


async def _run_demo(url: str, api_key: str | None, spools: Path) -> None:
    from heliograph.client.demo import run

    try:
        await run(url, api_key, spools=spools)
    except ClientFault as error:
        _say(f"the demo fleet may not publish: {error}; give it a key in HELIOGRAPH_API_KEY")


@main.command()
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings; by default config.toml.")
def config(file: Path | None) -> None:
    """Print the settings in force: defaults, then the file, then the environment."""
    from heliograph.config import as_toml_lines

    for line in as_toml_lines(_settings(file)):
        click.echo(line)


@main.command()
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings; by default config.toml.")
def migrate(file: Path | None) -> None:
    """Bring the database's schema up to date."""
    from heliograph import service

    try:
        click.echo(service.migrate(_settings(file)))
    except SettingsError as error:
        _refuse_settings(error.problems)
    except Unavailable as error:
        _say(str(error))
        sys.exit(UNREACHABLE)


_CONFIG = click.option(
    "--config", "file", type=click.Path(path_type=Path), help="Settings; by default config.toml."
)


@main.command()
@_CONFIG
def check(file: Path | None) -> None:
    """Check the data folder's database: its pages, and what is counted in it."""
    from heliograph.storage.embedded.upkeep import check

    problems = _of_folder(check, file)
    for problem in problems:
        _say(problem)
    if problems:
        sys.exit(REFUSED)
    click.echo("nothing is wrong with it")


@main.command()
@click.argument("target", type=click.Path(path_type=Path))
@_CONFIG
def backup(target: Path, file: Path | None) -> None:
    """Copy the data folder's database to TARGET, while it may be served."""
    from heliograph.storage.embedded.upkeep import backup

    _of_folder(lambda folder: backup(folder, target), file)
    click.echo(f"{target} is a copy")


@main.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@_CONFIG
def restore(source: Path, file: Path | None) -> None:
    """Make the data folder's database, which must not exist yet, from the copy SOURCE."""
    from heliograph.storage.embedded.upkeep import restore

    _of_folder(lambda folder: restore(source, folder), file)
    click.echo("restored")


def _of_folder(work: Callable[[Path], Result], file: Path | None) -> Result:
    """Run ``work`` on the data folder; with PostgreSQL its own tools must be used instead."""
    storage = _settings(file).storage
    if storage.database_url is not None:
        _refuse_settings(["the data is in PostgreSQL: use pg_amcheck, pg_dump and pg_restore"])
    try:
        return work(storage.data)
    except SettingsError as error:
        _refuse_settings(error.problems)


def _settings(file: Path | None) -> Settings:
    from heliograph.config import load

    try:
        return load(file)
    except SettingsError as error:
        _refuse_settings(error.problems)


def _refuse_settings(problems: Iterable[str]) -> NoReturn:
    for problem in problems:
        _say(problem)
    sys.exit(WRONG)


def _greeting(url: str) -> str:
    from heliograph.client.invocation import command_line

    lines = [
        command_line(
            "exec", "--agent", "me", "--", "sh", "-c", "for n in 1 2 3; do echo step $n; sleep 1; done"
        ),
        command_line("tail", "task:*"),
        shlex.join(["curl", f"{url}/api/v1/tasks"]),
        shlex.join(["curl", "-N", f"{url}/api/v1/events/stream?channel=task:*"]),
    ]
    if url != DEFAULT_URL:
        lines.insert(0, f"export HELIOGRAPH_URL={url}")
    head = f"Heliograph serves on {url} (Ctrl-C ends it). Open it in a browser, or in another terminal try:"
    return "\n".join(["", head, "", *(f"  {line}" for line in lines), ""])


def _say(sentence: str) -> None:
    click.echo(f"heliograph: {sentence}", err=True)


def _run(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run client work until it is done or Ctrl-C; an error becomes a message and an exit status."""
    import trio

    try:
        return trio.run(_until_interrupted, work)
    except Invalid as invalid:
        for error in invalid.errors:
            where = [] if error.index is None else [f"item {error.index}"]
            _say(": ".join([*where, *filter(None, [error.field]), error.detail]))
        sys.exit(REFUSED)
    except HeliographError as error:
        _say(str(error))
        sys.exit(UNREACHABLE if isinstance(error, Unavailable | TooMany) else REFUSED)


async def _until_interrupted(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run ``work``; cancel it at Ctrl-C, so that everything in it is closed in order.

    Raises:
        KeyboardInterrupt: The work was interrupted.
    """
    import trio

    result: list[Result] = []
    failure: Exception | None = None
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def cancel_at_signal() -> None:
                await anext(signals)
                nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_at_signal)
            try:
                result.append(await work())
            except Exception as error:  # raised again outside the nursery, which would wrap it in a group
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not result:
        raise KeyboardInterrupt
    return result[0]
