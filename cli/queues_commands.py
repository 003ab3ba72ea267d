"""`faceq queues`: show the queues and their messages, empty a queue, send failed messages back."""

import json
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from cli.printable_text import printable
from cli.target_options import Profile, Region, StackName, Target, Where, queues
from client import queue_operations
from client.deployed_stack import STACK

#: `peek` shows at most this many characters of a message's body; `--json` has all of them.
MOST_BODY_CHARS: Final = 200

app = typer.Typer(
    help="Look into the queues, empty them, and retry failed messages.",
    epilog="Start with: faceq queues list",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Name = Annotated[
    str,
    typer.Argument(metavar="QUEUE", help="Name of the queue, as `faceq queues list` shows it.", show_default=False),
]
_DeadLetterQueue = Annotated[
    str, typer.Argument(metavar="QUEUE", help="Name of a dead-letter queue.", show_default=False)
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
    """List the queues and how many messages are on each."""
    with queues(target, stack, region, profile) as stack_queues:
        depths = queue_operations.depths(stack_queues.sqs, stack_queues.urls)
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
    most: Annotated[int, typer.Option(min=1, max=1000, help="Show at most this many messages.")] = 10,
    as_json: _Json = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Show messages and leave them on the queue. SQS counts each peek as a receive."""
    with queues(target, stack, region, profile, name) as stack_queues:
        messages = queue_operations.peek(stack_queues.sqs, name, most)
    if as_json:
        print(json.dumps([vars(message) for message in messages], indent=2))
        return
    for message in messages:
        sent = datetime.fromtimestamp(message.sent_ms / 1e3, UTC).isoformat(" ", "seconds")
        print(f"{sent}  received {message.receive_count}×  {printable(message.message_id)}")
        print(f"    {printable(message.body, MOST_BODY_CHARS)}")
    if not messages:
        print(f"No message is waiting on {printable(name)}.")


@app.command("purge", epilog="Example: faceq queues purge faceq-resp-queue --yes")
def purge(
    name: _Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Delete every message of a queue."""
    if not yes:
        on_aws = f" on AWS, in stack {stack}" if target is Where.AWS else ""
        typer.confirm(f"Delete every message of {name}{on_aws}?", abort=True)
    with queues(target, stack, region, profile, name) as stack_queues:
        queue_operations.purge(stack_queues.sqs, name)
    print(f"AWS empties {name} within a minute." if target is Where.AWS else f"{name} is empty.")


@app.command("redrive", epilog="Example: faceq queues redrive faceq-req-dlq")
def redrive(
    name: _DeadLetterQueue,
    most: Annotated[
        int | None, typer.Option(min=1, help="Send back at most this many messages.  [default: all]")
    ] = None,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Send failed messages back to the queue where they failed."""
    with queues(target, stack, region, profile, name) as stack_queues:
        moved = queue_operations.redrive(stack_queues.sqs, name, most, stack_queues.urls)
    print(f"Sent {moved} message{'' if moved == 1 else 's'} back.")
