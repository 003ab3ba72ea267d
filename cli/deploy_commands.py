"""`faceq deploy`: the tested image and the template, made to run on AWS, and the way back."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Table

from adapters.models.fetch import ASTRONAUT, package_file
from adapters.models.installed import installed_model
from adapters.settings import ModelSettings, Paths
from cli import deploy_logs_command
from cli.target_options import Profile, Region, StackName
from client.deployed_stack import STACK, Deployed, session
from client.frames import Frame
from client.frames import frames as read_frames
from client.stack_connections import client_of_deployed_stack
from deploy.cloudformation import ResourceChange, StackEvent
from deploy.docker_engine import FUNCTION_IMAGE
from deploy.planning import DeployRequest, Plan
from deploy.planning import plan as make_plan
from deploy.promotion import DeployResult, Promotion
from deploy.service_stacks import TEMPLATE, ServiceStacks
from deploy.smoke import expected, smoke
from pipeline.errors import BadInput, SetupError

if TYPE_CHECKING:
    import boto3

#: Exit code of `plan --detailed-exitcode` where there is something to do, as Terraform's.
CHANGES = 2
#: What a change set says of a value that the change itself makes. (CloudFormation user guide, "View a change set")
_NOT_YET = "KNOWN_AFTER_APPLY"
#: Most characters of a property's value in a plan; --json has it whole.
_VALUE_CHARS = 40
#: How long the smoke test waits: a cold start of both functions, and a retry.
SMOKE_SECONDS = 120

app = typer.Typer(
    help="Promote the tested image and the template to AWS: show the plan, ask, push the image, change the stack, post "
    "a frame and check its answer, go back if it is wrong. With a command after it, do only that.",
    epilog="Start with: faceq deploy plan",
    invoke_without_command=True,
    rich_markup_mode=None,
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_Image = Annotated[str, typer.Option("--image", metavar="TAG", help="The function image, of the Docker engine.")]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the template; it stays set in later deploys."),
]
_Public = Annotated[
    bool, typer.Option("--public-url", help="Open the function URL to everybody: you pay for what they post.")
]
_Untested = Annotated[bool, typer.Option("--untested", help="Take an image that has not passed `make test-docker`.")]
_Drifted = Annotated[bool, typer.Option("--drifted", help="Go on though the stack was changed by hand.")]
_StandIn = Annotated[bool, typer.Option("--stand-in", help="Take the stand-in model, which recognises nobody.")]
_Frame = Annotated[
    Path | None, typer.Option("--frame", metavar="PHOTO", help="The smoke test's frame.  [default: a built-in one]")
]


@app.callback(epilog="Example: faceq deploy --set DetectionMemory=3008 --yes")
def deploy(
    context: typer.Context,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
    image: _Image = FUNCTION_IMAGE,
    set_: _Set = None,
    public_url: _Public = False,
    untested: _Untested = False,
    drifted: _Drifted = False,
    stand_in: _StandIn = False,
    frame: _Frame = None,
    yes: _Yes = False,
    as_json: _Json = False,
) -> None:
    """Deploy, if no command follows; print the variables that clients need."""
    if context.invoked_subcommand is not None:
        return
    made = session(region, profile)
    request = _request(image, set_, public_url, untested, drifted, stand_in)
    with _watching() as watcher:
        stacks = ServiceStacks(made, stack)
        plan = make_plan(stacks, request, watcher.event)
    if not as_json:
        _show(plan, whole=False)
    _refuse(plan)
    if not plan.is_change:
        print(f"Nothing to do: {stack} runs this image, template and parameters.", file=sys.stderr)
        _print_deployed(stacks.deployed(), as_json, None)
        return
    if not yes:
        typer.confirm(f"Deploy to account {plan.account.id} in {plan.account.region}?", abort=True, err=True)
    with _watching() as watcher:
        promotion = Promotion(ServiceStacks(made, stack), watcher)
        done = promotion.deploy(request, plan, _smoke(made, frame))
    _say_done(done)
    _print_deployed(done.deployed, as_json, done)


@app.command("plan", epilog="Example: faceq deploy plan --set RecognitionMemory=3008 --detailed-exitcode")
def plan(
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
    image: _Image = FUNCTION_IMAGE,
    set_: _Set = None,
    public_url: _Public = False,
    untested: _Untested = False,
    drifted: _Drifted = False,
    stand_in: _StandIn = False,
    as_json: _Json = False,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit code 0: nothing to do, 1: failed, 2: changes.")
    ] = False,
) -> None:
    """Show what a deploy would change, who may do what, what is open and what it costs; change nothing."""
    with _watching() as watcher:
        stacks = ServiceStacks(session(region, profile), stack)
        made = make_plan(stacks, _request(image, set_, public_url, untested, drifted, stand_in), watcher.event)
    if as_json:
        print(json.dumps(_plan_json(made), indent=2))
    else:
        _show(made, whole=True)
    _refuse(made)
    if detailed_exitcode and made.is_change:
        raise typer.Exit(CHANGES)


@app.command("rollback", epilog="Example: faceq deploy rollback --to 3")
def rollback(
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
    to: Annotated[
        int | None,
        typer.Option("--to", metavar="NUMBER", help="Of `faceq deploy history`.  [default: the one before]"),
    ] = None,
    frame: _Frame = None,
    yes: _Yes = False,
    as_json: _Json = False,
) -> None:
    """Go back to an earlier release: its image by digest, its template, its parameters."""
    made = session(region, profile)
    with _watching() as watcher:
        promotion = Promotion(ServiceStacks(made, stack), watcher)
        target = promotion.rollback_target(to)
    if not yes:
        typer.confirm(f"Go back to release {target.number} of {target.began} ({target.image})?", abort=True, err=True)
    with _watching() as watcher:
        promotion = Promotion(ServiceStacks(made, stack), watcher)
        done = promotion.rollback(target.number, _smoke(made, frame))
    _say_done(done)
    _print_deployed(done.deployed, as_json, done)


@app.command("status", epilog="Example: faceq deploy status --json")
def status(stack: StackName = STACK, region: Region = None, profile: Profile = None, as_json: _Json = False) -> None:
    """Show what runs: state, release, images, and where it is reached. Exit code 1 if it is not well."""
    stacks = ServiceStacks(session(region, profile), stack)
    state = stacks.main.describe()
    if state is None:
        raise BadInput("not_deployed", f"There is no stack {stack} in {stacks.account.region}. Deploy: faceq deploy")
    well = state.status in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
    images = stacks.function_images() if well else {}
    release = stacks.running_release()
    about: dict[str, Any] = {
        "stack": stack,
        "account": stacks.account.id,
        "region": stacks.account.region,
        "status": state.status,
        "reason": state.reason,
        "changed": state.changed,
        "release": None if release is None else release.number,
        "model": None if release is None else release.model,
        "images": images,
        "outputs": dict(state.outputs),
    }
    if as_json:
        print(json.dumps(about, indent=2))
    else:
        rows = {**about, "images": "", "outputs": "", **images, **state.outputs}
        for name, value in rows.items():
            if value not in ("", None):
                print(f"{name:20} {value}")
    if not well:
        raise typer.Exit(1)


@app.command("history", epilog="Example: faceq deploy history --json")
def history(stack: StackName = STACK, region: Region = None, profile: Profile = None, as_json: _Json = False) -> None:
    """List the releases: when, by whom, which image, what became of each."""
    stacks = ServiceStacks(session(region, profile), stack)
    found = stacks.releases.all()
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return
    if not found:
        print(f"{stack} has no releases in {stacks.account.region}.")
        return
    table = Table("release", "began, UTC", "image", "revision", "model", "outcome", "by")
    for one in found:
        table.add_row(
            str(one.number),
            one.began[:19].replace("T", " "),
            one.image.rpartition("@")[2][:19],
            one.revision[:12],
            one.model,
            one.outcome if one.again is None else f"{one.outcome} (back to {one.again})",
            one.by.rpartition("/")[2],
        )
    console = _console()
    console.print(table)
    for one in found:
        if one.reason:
            console.print(f"release {one.number}: {one.reason}", soft_wrap=True)


@app.command("destroy", epilog="Example: faceq deploy destroy --with-gallery")
def destroy(
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
    with_gallery: Annotated[
        bool, typer.Option("--with-gallery", help="Also the bucket: everybody's vectors, and the record of releases.")
    ] = False,
    yes: _Yes = False,
) -> None:
    """Remove the functions, the queues with their messages and the images; list them and ask first."""
    with _watching() as watcher:
        stacks = ServiceStacks(session(region, profile), stack)
        promotion = Promotion(stacks, watcher)
        going = promotion.resources_to_delete()
    if not going and not with_gallery:
        print(f"There is nothing of {stack} in {stacks.account.region}.")
        return
    table = Table("goes", "type", "name")
    for logical_id, kind, physical in going:
        table.add_row(logical_id, kind, physical)
    if with_gallery:
        table.add_row("Bucket", "AWS::S3::Bucket", f"{stacks.bucket}, with all in it")
    _console().print(table)
    if not with_gallery:
        print(f"The bucket {stacks.bucket} stays with the gallery and the releases (--with-gallery removes it).")
    if not yes:
        typer.confirm(f"Remove all this from account {stacks.account.id}?", abort=True, err=True)
    with _watching() as watcher:
        Promotion(ServiceStacks(session(region, profile), stack), watcher).destroy(with_bucket=with_gallery)
    print(f"{stack} is gone.")


@app.command("template", epilog="Example: faceq deploy template > packaged.yaml")
def template(
    image_uri: Annotated[
        str,
        typer.Option("--image-uri", metavar="URI", help="Becomes the default of ImageUri: repository@sha256:..."),
    ] = "",
) -> None:
    """Print the template for a pipeline of your own; docs/operations.md shows one."""
    text = TEMPLATE.read_text()
    if image_uri:
        if "@sha256:" not in image_uri:
            raise typer.BadParameter("name the image by its digest, repository@sha256:...", param_hint="--image-uri")
        text = text.replace(
            "  ImageUri:\n    Type: String\n", f"  ImageUri:\n    Type: String\n    Default: {image_uri}\n"
        )
    print(text, end="")


app.command("logs", epilog="Example: faceq deploy logs --report --since 24h")(deploy_logs_command.logs)


def _request(
    image: str, set_: list[str] | None, public_url: bool, untested: bool, drifted: bool, stand_in: bool
) -> DeployRequest:
    values = {}
    for text in set_ or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"'{text}' is not NAME=VALUE", param_hint="--set")
        values[name] = value
    if public_url:
        values["UrlAuthType"] = "NONE"
    gallery = Paths.from_environment(os.environ).gallery
    return DeployRequest(image, gallery, values, untested=untested, drifted=drifted, stand_in=stand_in)


# The smoke test


class _Smoke:
    """Posts one frame; what must be answered is what this machine's networks find with the deployed gallery."""

    def __init__(self, made: "boto3.Session", photo: Path | None) -> None:
        self._session = made
        self._photo = photo

    def __call__(self, deployed: Deployed, model: str) -> str:
        frame = self._frame()
        wanted = self._wanted(frame, deployed, model)
        outcome = smoke(client_of_deployed_stack(self._session, deployed), frame, wanted, SMOKE_SECONDS)
        checked = "as this machine says" if wanted is not None else f"{model} is not installed here to compare"
        return f"{frame.filename}: {outcome.result} in {outcome.milliseconds:.0f} ms, {checked}"

    def _frame(self) -> Frame:
        if self._photo is not None:
            frame = next(read_frames([self._photo]))
            if frame.problem is not None:
                raise BadInput("bad_frame", f"{self._photo}: {frame.problem}")
            return frame
        photo = package_file(ASTRONAUT, Paths.from_environment(os.environ).models)
        return Frame(photo.name, photo.read_bytes())

    def _wanted(self, frame: Frame, deployed: Deployed, model: str) -> str | None:
        from adapters import wiring
        from adapters.artifacts_s3 import PREFIX, S3Store, client
        from pipeline import gallery_storage

        settings = ModelSettings.from_environment({**os.environ, "FACEQ_MODEL": model})
        try:
            installed_model(model, settings.models)
        except SetupError:
            return None
        store = S3Store(client(self._session), deployed.gallery, PREFIX)
        return expected(frame, wiring.detector(settings), wiring.embedder(settings), gallery_storage.load(store))


def _smoke(made: "boto3.Session", photo: Path | None) -> _Smoke:
    if photo is not None and not photo.is_file():
        raise BadInput("no_photo", f"There is no file {photo}.")
    return _Smoke(made, photo)


# What people see


class _Watcher:
    """Tells on standard error: a line for each step and each event, a bar for each layer."""

    def __init__(self, console: Console, progress: Progress | None = None) -> None:
        self._console = console
        self._progress = progress
        self._layers: dict[str, TaskID] = {}

    def step(self, words: str) -> None:
        self._console.print(f"[bold]{words}[/bold]", soft_wrap=True)

    def event(self, event: StackEvent) -> None:
        style = "red" if event.is_failure else "green" if event.status.endswith("_COMPLETE") else ""
        self._console.print(
            f"  {event.time[11:19]}  {event.logical_id:28} {event.status} {event.reason}".rstrip(),
            style=style,
            soft_wrap=True,
            markup=False,
        )

    def layer(self, layer: str, status: str, current: int, total: int) -> None:
        if self._progress is None:
            return
        if layer not in self._layers:
            self._layers[layer] = self._progress.add_task(layer, total=None)
        self._progress.update(
            self._layers[layer], description=f"  {layer} {status}", completed=current, total=total or None
        )


@contextmanager
def _watching() -> Iterator[_Watcher]:
    console = Console(stderr=True, highlight=False)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    try:
        with progress:
            yield _Watcher(console, progress)
    except KeyboardInterrupt:
        print(
            "faceq: interrupted. What CloudFormation has begun it finishes; run the same command again to go on.",
            file=sys.stderr,
        )
        raise typer.Exit(1) from None


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def _show(plan: Plan, *, whole: bool) -> None:
    """Print a plan; not whole, what stays the same from deploy to deploy is left out."""
    console = _console()
    image = plan.image
    about = {
        "account": f"{plan.account.id} in {plan.account.region}, as {plan.account.arn}",
        "stack": plan.stack,
        "image": f"{image.id}, {image.bytes / 1e6:.0f} MB, {image.platform}, model {plan.model or 'not labelled'}",
        "digest": f"{plan.repository}@{plan.digest}" if plan.digest else f"{plan.repository}, given by the push",
        "tested": f"passed make test-docker at {plan.tested}" if plan.tested else "NOT TESTED",
        "gallery": plan.gallery,
    }
    for name, value in about.items():
        console.print(f"{name:8} {value}", soft_wrap=True)
    for stack, changes in ((f"{plan.stack}-base", plan.base_changes), (plan.stack, plan.main_changes)):
        if changes:
            console.print(_changes(stack, changes))
        elif not plan.refusals:
            console.print(f"{stack}: nothing changes")
    values = [(name, before, after) for name, before, after in plan.parameter_changes if before is not None]
    if values:
        table = Table("parameter", "from", "to")
        for name, before, after in values:
            table.add_row(name, before or "", after)
        console.print(table)
    _say("What is open to whom", plan.openness, console)
    if whole:
        _say("Who may do what", plan.permissions, console)
        console.print("\nWhat a million frames cost", style="bold")
        console.print(_cost(plan))
        for note in plan.cost.notes:
            console.print(f"  {note}", soft_wrap=True)
        return
    console.print(
        f"\nA million frames cost about ${plan.cost.frames_dollars:.2f}, a month without any "
        f"${plan.cost.standing_dollars:.2f}; what that is made of, and who may do what: faceq deploy plan",
        soft_wrap=True,
    )


def _say(title: str, lines: Sequence[str], console: Console) -> None:
    console.print(f"\n{title}", style="bold")
    for line in lines:
        console.print(f"  {line}", soft_wrap=True)


def _changes(stack: str, changes: Sequence[ResourceChange]) -> Table:
    table = Table(title=f"{stack}: {len(changes)} resources")
    for column in ("", "resource", "type", "what"):
        table.add_column(column, overflow="fold")
    signs = {"Add": "+", "Modify": "~", "Remove": "-"}
    replaced = {"True": "replaced", "Conditional": "perhaps replaced"}
    for change in changes:
        what = [f"{one.name}: {_short(one.before)} → {_short(one.after)}" for one in change.details]
        table.add_row(
            signs.get(change.action, change.action),
            change.logical_id,
            change.kind.removeprefix("AWS::"),
            "\n".join([*([replaced[change.replacement]] if change.replacement in replaced else []), *what]),
        )
    return table


def _short(value: str | None) -> str:
    if value is None or _NOT_YET in value:
        return "known afterwards"
    return value if len(value) <= _VALUE_CHARS else f"{value[: _VALUE_CHARS - 1]}…"


def _cost(plan: Plan) -> Table:
    table = Table("what", "how much", "dollars")
    table.columns[1].justify = table.columns[2].justify = "right"
    for title, costs, total in (
        ("a million frames", plan.cost.frames, plan.cost.frames_dollars),
        ("a month without any", plan.cost.standing, plan.cost.standing_dollars),
    ):
        for one in costs:
            quantity = f"{one.quantity:,.0f}" if one.quantity >= 100 else f"{one.quantity:.2g}"
            table.add_row(f"{one.what}\n  {one.assumed}" if one.assumed else one.what, quantity, f"{one.dollars:.2f}")
        table.add_row(title, "", f"{total:.2f}", end_section=True, style="bold")
    return table


def _plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "account": asdict(plan.account),
        "stack": plan.stack,
        "image": {**asdict(plan.image), "digest": plan.digest, "repository": plan.repository, "tested": plan.tested},
        "release": plan.release,
        "changes": {
            f"{plan.stack}-base": [asdict(one) for one in plan.base_changes],
            plan.stack: [asdict(one) for one in plan.main_changes],
        },
        "parameters": [{"name": name, "from": before, "to": after} for name, before, after in plan.parameter_changes],
        "permissions": list(plan.permissions),
        "open": list(plan.openness),
        "cost": {
            "million_frames": [
                {"what": one.what, "quantity": one.quantity, "dollars": one.dollars, "assumed": one.assumed}
                for one in plan.cost.frames
            ],
            "month": [
                {"what": one.what, "quantity": one.quantity, "dollars": one.dollars, "assumed": one.assumed}
                for one in plan.cost.standing
            ],
            "notes": list(plan.cost.notes),
        },
        "gallery": plan.gallery,
        "drift": [asdict(one) for one in plan.drift],
        "refusals": list(plan.refusals),
        "is_change": plan.is_change,
    }


def _refuse(plan: Plan) -> None:
    for refusal in plan.refusals:
        print(f"faceq: refused: {refusal}", file=sys.stderr)
    if plan.refusals:
        raise typer.Exit(1)


def _say_done(done: DeployResult) -> None:
    print(f"smoke test: {done.smoke}", file=sys.stderr)
    print(f"release {done.release.number} runs {done.release.image}", file=sys.stderr)


def _print_deployed(deployed: Deployed, as_json: bool, done: DeployResult | None) -> None:
    if as_json:
        about = {} if done is None else {"release": asdict(done.release), "smoke": done.smoke}
        print(json.dumps({**about, "exports": deployed.exports()}, indent=2))
        return
    for name, value in deployed.exports().items():
        print(f"export {name}={value}")
