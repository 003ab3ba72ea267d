"""`faceq queues`: what waits where, and what to do about it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.stack import stack_here
from local import queues
from pipeline.errors import BadInput, TransientError

if TYPE_CHECKING:
    from botocore.client import BaseClient

_Answer = TypeVar("_Answer")

app = typer.Typer(
    help="Look into the queues, empty them, and try again what failed.",
    epilog="Start with: faceq queues list",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Name = Annotated[
    str, typer.Argument(metavar="QUEUE", help="Its name; `faceq queues list` shows them.", show_default=False)
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", epilog="Example: faceq queues list --json")
def list_queues(as_json: _Json = False) -> None:
    """List the queues and how full they are."""
    depths = told(queues.depths)
    if as_json:
        print(json.dumps([vars(depth) for depth in depths], indent=2))
        return
    table = Table("queue", "waiting", "in flight", "delayed", "failures go to")
    for depth in depths:
        table.add_row(
            depth.name, str(depth.visible), str(depth.in_flight), str(depth.delayed), depth.dead_letter_queue or ""
        )
    Console(highlight=False).print(table)


@app.command("peek", epilog="Example: faceq queues peek faceq-req-dlq")
def peek(
    name: _Name,
    most: Annotated[int, typer.Option(min=1, max=1000, help="How many messages.")] = 10,
    as_json: _Json = False,
) -> None:
    """Show messages and leave them there. SQS counts each look as a receive."""
    messages = told(lambda sqs: queues.peek(sqs, name, most))
    if as_json:
        print(json.dumps([vars(message) for message in messages], indent=2))
        return
    table = Table("sent", "received", "message id", "body")
    for message in messages:
        sent = datetime.fromtimestamp(message.sent_ms / 1e3, UTC).isoformat(" ", "seconds")
        table.add_row(sent, f"{message.receive_count}×", message.message_id, escape(message.body[:200]))
    Console(highlight=False).print(table if messages else f"{name} has no waiting message.")


@app.command("purge", epilog="Example: faceq queues purge faceq-resp-queue --yes")
def purge(
    name: _Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Throw away every message of a queue."""
    if not yes:
        typer.confirm(f"Throw away every message of {name}?", abort=True)
    told(lambda sqs: queues.purge(sqs, name))
    print(f"{name} is empty.")


@app.command("redrive", epilog="Example: faceq queues redrive faceq-req-dlq")
def redrive(
    name: _Name,
    most: Annotated[int | None, typer.Option(min=1, help="How many messages; all if not said.")] = None,
) -> None:
    """Send what lies on a dead-letter queue back to the queue it failed on."""
    moved = told(lambda sqs: queues.redrive(sqs, name, most))
    print(f"{moved} messages went back.")


def _sqs() -> "BaseClient":
    from adapters.queue_sqs import client

    stack = stack_here()
    return client(stack.region, stack.sqs_endpoint)


def told(action: Callable[["BaseClient"], _Answer]) -> _Answer:
    """Do something with the queues and say in one line why it cannot be done."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return action(_sqs())
    except queues.QueueError as error:
        raise BadInput("queue", str(error)) from None
    except (BotoCoreError, ClientError) as error:
        raise TransientError("queue_unavailable", f"The queues cannot be reached: {error}. See `faceq logs`.") from None
