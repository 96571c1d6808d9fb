"""``heliograph event``, ``cost`` and ``ask``, for shell scripts that run in a task.

``heliograph exec`` passes the task's id to its child in ``HELIOGRAPH_TASK_ID``. Items that the service does
not take within ``--wait`` seconds stay in a spool, and the next command sends them: a script never fails
because of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import orjson

from heliograph.client import environment
from heliograph.client.agent import courier
from heliograph.client.agent.configure import configure
from heliograph.client.agent.record import TaskRecord
from heliograph.client.agent.task import Task
from heliograph.model.channels import NAME_HELP, TOPIC_HELP, is_name, is_topic
from heliograph.model.errors import HeliographError

F = TypeVar("F", bound=Callable[..., Any])

REFUSED = 1
NO_ANSWER = 4


def _options(command: F) -> F:
    for option in (
        click.option(
            "--api-key", envvar=environment.API_KEY, show_envvar=True, help="The key to publish with."
        ),
        click.option(
            "--url",
            envvar=environment.URL,
            show_envvar=True,
            default=environment.DEFAULT_URL,
            help="The service's URL.",
        ),
        click.option(
            "--wait",
            default=2.0,
            type=click.FloatRange(min=0),
            help="Seconds to wait for the service; what is unsent then is sent later.",
        ),
        click.option(
            "--task-id",
            envvar=environment.TASK_ID,
            show_envvar=True,
            required=True,
            callback=_check_id,
            help="The task; within heliograph exec it is known.",
        ),
    ):
        command = option(command)
    return command


def _check_id(ctx: click.Context, param: click.Parameter, task_id: str) -> str:
    if not is_name(task_id):
        raise click.BadParameter(f"must be {NAME_HELP}")
    return task_id


@click.command("event")
@click.argument("topic")
@click.argument("payload", default="{}")
@_options
def event_command(topic: str, payload: str, task_id: str, wait: float, url: str, api_key: str | None) -> None:
    """Publish an event of the task that this runs in.

    TOPIC is the kind of event, such as tool.call; PAYLOAD is a JSON object.
    """
    if not is_topic(topic):
        raise click.UsageError(f"TOPIC must be {TOPIC_HELP}")
    try:
        said = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"PAYLOAD is not JSON: {error}") from None
    if not isinstance(said, dict):
        raise click.UsageError('PAYLOAD must be a JSON object, such as \'{"tool": "grep"}\'')
    _task(task_id, url, api_key).event(topic, said)
    courier.close(wait)


@click.command("cost")
@click.option("--usd", default="0", help="Dollars.")
@click.option("--input-tokens", default=0, type=click.IntRange(min=0), help="Tokens that went into a model.")
@click.option("--output-tokens", default=0, type=click.IntRange(min=0), help="Tokens that came out of it.")
@click.option("--cached-tokens", default=0, type=click.IntRange(min=0), help="Input that came from a cache.")
@_options
def cost_command(
    usd: str,
    input_tokens: int,
    output_tokens: int,
    cached_tokens: int,
    task_id: str,
    wait: float,
    url: str,
    api_key: str | None,
) -> None:
    """Add to the cost of the task that this runs in."""
    try:
        _task(task_id, url, api_key).cost(
            usd, input_tokens=input_tokens, output_tokens=output_tokens, cached_tokens=cached_tokens
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    courier.close(wait)


@click.command("ask")
@click.argument("question")
@click.option("--choice", "choices", multiple=True, help="An answer to choose from; may be repeated.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), help="Seconds to wait for the answer; by default: on."
)
@_options
def ask_command(
    question: str,
    choices: tuple[str, ...],
    timeout: float | None,
    task_id: str,
    wait: float,
    url: str,
    api_key: str | None,
) -> None:
    """Ask the watchers of the task that this runs in, and print the answer.

    The exit status is 4 if nobody has answered in time.
    """
    status = 0
    try:
        answer = _task(task_id, url, api_key).ask(question, choices=choices, timeout=timeout)
        click.echo(answer if isinstance(answer, str) else orjson.dumps(answer))
    except TimeoutError:
        click.echo("heliograph: nobody has answered in time", err=True)
        status = NO_ANSWER
    except HeliographError as error:
        click.echo(f"heliograph: {error}", err=True)
        status = REFUSED
    courier.close(wait)
    raise SystemExit(status)


def _task(task_id: str, url: str, api_key: str | None) -> Task:
    configure(url=url, api_key=api_key)
    return Task(TaskRecord(task_id))
