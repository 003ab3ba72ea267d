"""`faceq doctor`: check that everything a frame needs is in place, and name the command that fixes what is not."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cli.target_options import Profile, Region, StackName, Target, Where
from client.deployed_stack import STACK


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", epilog="Example: faceq doctor --json")(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Check what a frame needs, and show how to fix each problem.

    Exit code 1 if there is a problem.
    """
    if target is Where.AWS:
        from client import deployed_stack_checks

        checks = list(deployed_stack_checks.checks(stack, region, profile))
    else:
        from cli import machine_checks

        checks = list(machine_checks.checks())
    if as_json:
        rows = [{"name": check.name, "well": check.passed, "found": check.finding} for check in checks]
        print(json.dumps(rows, indent=2))
    else:
        console = Console(highlight=False)
        signs = {True: "[green]ok  [/green]", False: "[red]bad [/red]", None: "    "}
        for check in checks:
            console.print(f"{signs[check.passed]} {check.name:14} {escape(check.finding)}", soft_wrap=True)
    if any(check.passed is False for check in checks):
        raise typer.Exit(1)
