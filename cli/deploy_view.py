"""What `faceq deploy` prints: the plan, the progress, the result."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Table

from client.deployed_stack import Deployed
from deploy.cloudformation import ResourceChange, StackEvent
from deploy.planning import Plan
from deploy.prices import Cost
from deploy.promotion import DeployResult, ProgressListener
from deploy.releases import Release

#: What a change set contains in place of a value that only the change itself creates. (CloudFormation user guide, "View
#: a change set")
_KNOWN_AFTER_APPLY: Final = "KNOWN_AFTER_APPLY"
#: Longer values of properties are shortened in a plan; `--json` has them in full.
_VALUE_CHARS: Final = 40
_ACTION_SIGNS: Final = {"Add": "+", "Modify": "~", "Remove": "-"}
_REPLACEMENTS: Final = {"True": "replaced", "Conditional": "perhaps replaced"}


class ProgressDisplay(ProgressListener):
    """Shows progress on standard error: a line for each step and each event, a bar for each layer of the image."""

    def __init__(self, console: Console, bars: Progress) -> None:
        self._console = console
        self._bars = bars
        self._layers: dict[str, TaskID] = {}

    def step(self, message: str) -> None:
        """Print the name of the stage that begins now."""
        self._console.print(f"[bold]{message}[/bold]", soft_wrap=True)

    def event(self, event: StackEvent) -> None:
        """Print a change of a resource's status."""
        style = "red" if event.is_failure else "green" if event.status.endswith("_COMPLETE") else ""
        self._console.print(
            f"  {event.time[11:19]}  {event.logical_id:28} {event.status} {event.reason}".rstrip(),
            style=style,
            soft_wrap=True,
            markup=False,
        )

    def layer(self, layer: str, status: str, current: int, total: int) -> None:
        """Move the bar of a layer."""
        if layer not in self._layers:
            self._layers[layer] = self._bars.add_task(layer, total=None)
        self._bars.update(
            self._layers[layer], description=f"  {layer} {status}", completed=current, total=total or None
        )


@contextmanager
def progress_display() -> Iterator[ProgressDisplay]:
    """Give a display of the progress. End the command with exit code 1 on Ctrl-C."""
    console = Console(stderr=True, highlight=False)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    try:
        with bars:
            yield ProgressDisplay(console, bars)
    except KeyboardInterrupt:
        print(
            "faceq: interrupted. CloudFormation finishes the change that it has begun. "
            "Run the same command again to continue.",
            file=sys.stderr,
        )
        raise typer.Exit(1) from None


def show_plan(plan: Plan, *, in_full: bool) -> None:
    """Print a plan. Unless `in_full`, leave out permissions and costs, which hardly change from deploy to deploy."""
    console = _console()
    image = plan.image
    facts = {
        "account": f"{plan.account.id} in {plan.account.region}, as {plan.account.arn}",
        "stack": plan.stack,
        "image": f"{image.id}, {image.bytes / 1e6:.0f} MB, {image.platform}, model {plan.model or 'not labelled'}",
        "digest": f"{plan.repository}@{plan.digest}" if plan.digest else f"{plan.repository}, known after the push",
        "tested": f"passed make test-docker at {plan.tested}" if plan.tested else "NOT TESTED",
        "gallery": plan.gallery,
    }
    for name, value in facts.items():
        console.print(f"{name:8} {value}", soft_wrap=True)
    for stack, changes in ((f"{plan.stack}-base", plan.base_changes), (plan.stack, plan.main_changes)):
        if changes:
            console.print(_changes_table(stack, changes))
        elif not plan.refusals:
            console.print(f"{stack}: no changes")
    parameters = [(name, before, after) for name, before, after in plan.parameter_changes if before is not None]
    if parameters:
        table = Table("parameter", "from", "to")
        for name, before, after in parameters:
            table.add_row(name, before or "", after)
        console.print(table)
    _show_section("Who can reach what", plan.openness, console)
    if in_full:
        _show_section("Who may do what", plan.permissions, console)
        console.print("\nWhat a million frames cost", style="bold")
        console.print(_cost_table(plan))
        for note in plan.cost.notes:
            console.print(f"  {note}", soft_wrap=True)
        return
    console.print(
        f"\nA million frames cost about ${plan.cost.frames_dollars:.2f}, a month without frames "
        f"${plan.cost.standing_dollars:.2f}. See the parts of this cost, and who may do what, with: faceq deploy plan",
        soft_wrap=True,
    )


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as `--json` prints it."""
    return {
        "account": asdict(plan.account),
        "stack": plan.stack,
        "image": {**asdict(plan.image), "digest": plan.digest, "repository": plan.repository, "tested": plan.tested},
        "release": plan.release,
        "changes": {
            f"{plan.stack}-base": [asdict(change) for change in plan.base_changes],
            plan.stack: [asdict(change) for change in plan.main_changes],
        },
        "parameters": [{"name": name, "from": before, "to": after} for name, before, after in plan.parameter_changes],
        "permissions": list(plan.permissions),
        "open": list(plan.openness),
        "cost": {
            "million_frames": [_cost_as_json(cost) for cost in plan.cost.frames],
            "month": [_cost_as_json(cost) for cost in plan.cost.standing],
            "notes": list(plan.cost.notes),
        },
        "gallery": plan.gallery,
        "drift": [asdict(resource) for resource in plan.drift],
        "refusals": list(plan.refusals),
        "is_change": plan.is_change,
    }


def stop_if_refused(plan: Plan) -> None:
    """Print why a deploy is refused and end the command with exit code 1; return if it may go ahead."""
    for refusal in plan.refusals:
        print(f"faceq: refused: {refusal}", file=sys.stderr)
    if plan.refusals:
        raise typer.Exit(1)


def show_result(result: DeployResult, as_json: bool) -> None:
    """Print a release that has just been deployed, and the variables that clients need."""
    print(f"smoke test: {result.smoke}", file=sys.stderr)
    print(f"release {result.release.number} runs {result.release.image}", file=sys.stderr)
    if as_json:
        facts = {"release": asdict(result.release), "smoke": result.smoke, "exports": result.deployed.exports()}
        print(json.dumps(facts, indent=2))
    else:
        show_deployed(result.deployed, as_json=False)


def show_deployed(deployed: Deployed, as_json: bool) -> None:
    """Print the variables that clients of a deployed stack need."""
    if as_json:
        print(json.dumps({"exports": deployed.exports()}, indent=2))
        return
    for name, value in deployed.exports().items():
        print(f"export {name}={value}")


def show_releases(releases: Sequence[Release]) -> None:
    """Print a table of releases, and below it why some of them failed."""
    console = _console()
    table = Table("release", "began, UTC", "image", "revision", "model", "outcome", "by")
    for release in releases:
        table.add_row(
            str(release.number),
            release.began[:19].replace("T", " "),
            release.image.rpartition("@")[2][:19],
            release.revision[:12],
            release.model,
            release.outcome if release.again is None else f"{release.outcome} (back to {release.again})",
            release.by.rpartition("/")[2],
        )
    console.print(table)
    for release in releases:
        if release.reason:
            console.print(f"release {release.number}: {release.reason}", soft_wrap=True)


def show_resources(resources: Sequence[tuple[str, str, str]]) -> None:
    """Print a table of the resources that are going to be deleted, each as (logical id, type, name)."""
    table = Table("deleted", "type", "name")
    for logical_id, kind, name in resources:
        table.add_row(logical_id, kind, name)
    _console().print(table)


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def _show_section(title: str, lines: Sequence[str], console: Console) -> None:
    console.print(f"\n{title}", style="bold")
    for line in lines:
        console.print(f"  {line}", soft_wrap=True)


def _changes_table(stack: str, changes: Sequence[ResourceChange]) -> Table:
    table = Table(title=f"{stack}: {len(changes)} resources")
    for column in ("", "resource", "type", "what"):
        table.add_column(column, overflow="fold")
    for change in changes:
        lines = [_REPLACEMENTS[change.replacement]] if change.replacement in _REPLACEMENTS else []
        lines += [
            f"{property_.name}: {_shortened(property_.before)} → {_shortened(property_.after)}"
            for property_ in change.details
        ]
        table.add_row(
            _ACTION_SIGNS.get(change.action, change.action),
            change.logical_id,
            change.kind.removeprefix("AWS::"),
            "\n".join(lines),
        )
    return table


def _shortened(value: str | None) -> str:
    if value is None or _KNOWN_AFTER_APPLY in value:
        return "known afterwards"
    return value if len(value) <= _VALUE_CHARS else f"{value[: _VALUE_CHARS - 1]}…"


def _cost_table(plan: Plan) -> Table:
    table = Table("what", "how much", "dollars")
    table.columns[1].justify = table.columns[2].justify = "right"
    for title, costs, total in (
        ("a million frames", plan.cost.frames, plan.cost.frames_dollars),
        ("a month without any", plan.cost.standing, plan.cost.standing_dollars),
    ):
        for cost in costs:
            name = f"{cost.what}\n  {cost.assumed}" if cost.assumed else cost.what
            quantity = f"{cost.quantity:,.0f}" if cost.quantity >= 100 else f"{cost.quantity:.2g}"
            table.add_row(name, quantity, f"{cost.dollars:.2f}")
        table.add_row(title, "", f"{total:.2f}", end_section=True, style="bold")
    return table


def _cost_as_json(cost: Cost) -> dict[str, Any]:
    return {"what": cost.what, "quantity": cost.quantity, "dollars": cost.dollars, "assumed": cost.assumed}
