"""`faceq queues`: what waits where, and what to do about it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adapters.aws_errors import translated_aws_errors
from cli.stack_commands import stack_here
from cli.target_options import Profile, Region, StackName, Target, Where, aws
from client import queue_operations
from client.deployed_stack import STACK
from pipeline.errors import BadInput, TransientError

if TYPE_CHECKING:
    from botocore.client import BaseClient

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
def list_queues(
    as_json: _Json = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """List the queues and how full they are."""
    with reached(target, stack, region, profile) as there:
        depths = queue_operations.depths(there.sqs, there.urls)
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
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Show messages and leave them there. SQS counts each look as a receive."""
    with reached(target, stack, region, profile, name) as there:
        messages = queue_operations.peek(there.sqs, name, most)
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
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Throw away every message of a queue."""
    if not yes:
        on_aws = f" on AWS, in stack {stack}" if target is Where.AWS else ""
        typer.confirm(f"Throw away every message of {name}{on_aws}?", abort=True)
    with reached(target, stack, region, profile, name) as there:
        queue_operations.purge(there.sqs, name)
    print(f"AWS empties {name} within a minute." if target is Where.AWS else f"{name} is empty.")


@app.command("redrive", epilog="Example: faceq queues redrive faceq-req-dlq")
def redrive(
    name: _Name,
    most: Annotated[int | None, typer.Option(min=1, help="How many messages; all if not said.")] = None,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Send what lies on a dead-letter queue back to the queue it failed on."""
    with reached(target, stack, region, profile, name) as there:
        moved = queue_operations.redrive(there.sqs, name, most, there.urls)
    print(f"{moved} messages went back.")


@dataclass(frozen=True)
class Reached:
    """An SQS client, and the queues that the commands are about; None for all that the client reaches."""

    sqs: "BaseClient"
    urls: Sequence[str] | None


@contextmanager
def reached(
    target: Where = Where.LOCAL,
    stack: str = STACK,
    region: str | None = None,
    profile: str | None = None,
    name: str | None = None,
) -> Iterator[Reached]:
    """Reach the queues of a stack; what fails inside is said in one line. Raises BadInput if `name` is none of them."""
    if target is Where.AWS:
        session, deployed = aws(stack, region, profile)
        # An account may hold other queues, which are none of ours.
        urls = [deployed.request_queue_url, deployed.response_queue_url, deployed.dead_letter_queue_url]
        names = [url.rsplit("/", 1)[-1] for url in urls]
        if name is not None and name not in names:
            raise BadInput("queue", f"The stack {stack} has no queue {name}. It has: {', '.join(names)}.")
        with _saying(), translated_aws_errors():
            yield Reached(session.client("sqs"), urls)
        return
    from botocore.exceptions import BotoCoreError, ClientError

    from adapters.queue_sqs import client

    here = stack_here()
    try:
        with _saying():
            yield Reached(client(here.region, here.sqs_endpoint), None)
    except (BotoCoreError, ClientError) as error:
        raise TransientError("queue_unavailable", f"The queues cannot be reached: {error}. See `faceq logs`.") from None


@contextmanager
def _saying() -> Iterator[None]:
    try:
        yield
    except queue_operations.QueueError as error:
        raise BadInput("queue", str(error)) from None
