"""`faceq deploy`: promote the tested image and the template to AWS, and go back to an earlier release."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from adapters.settings import Paths
from cli import deploy_logs_command
from cli.deploy_view import (
    plan_as_json,
    progress_display,
    show_deployed,
    show_plan,
    show_releases,
    show_resources,
    show_result,
    stop_if_refused,
)
from cli.target_options import Profile, Region, StackName
from client.deployed_stack import STACK, session
from deploy.docker_engine import FUNCTION_IMAGE
from deploy.planning import DeployRequest
from deploy.planning import plan as make_plan
from deploy.promotion import Promotion
from deploy.service_stacks import TEMPLATE, ServiceStacks
from deploy.smoke import ServiceSmokeTest
from pipeline.errors import BadInput

#: Exit code of `plan --detailed-exitcode` if there is something to do, as Terraform has it.
CHANGES: Final = 2

app = typer.Typer(
    help="Promote the tested image and the template to AWS. Show the plan, ask, push the image, change the stack, post "
    "a frame, check its answer, and go back if it is wrong. With a command, do only what that command says.",
    epilog="Start with: faceq deploy plan",
    invoke_without_command=True,
    rich_markup_mode=None,
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
_Image = Annotated[
    str, typer.Option("--image", metavar="TAG", help="The function image, as the Docker engine on this machine has it.")
]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Set a parameter of the template, for later deploys too."),
]
_Public = Annotated[
    bool, typer.Option("--public-url", help="Open the function URL to everyone. You pay for what they post.")
]
_Untested = Annotated[bool, typer.Option("--untested", help="Accept an image that has not passed `make test-docker`.")]
_Drifted = Annotated[bool, typer.Option("--drifted", help="Continue even if the stack was changed by hand.")]
_StandIn = Annotated[bool, typer.Option("--stand-in", help="Accept the stand-in model, which does not know anyone.")]
_Frame = Annotated[
    Path | None,
    typer.Option("--frame", metavar="PHOTO", help="The photo that the smoke test posts.  [default: a built-in one]"),
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
    """Deploy, unless a command follows, and print the variables that clients need."""
    if context.invoked_subcommand is not None:
        return
    aws = session(region, profile)
    request = _request(image, set_, public_url, untested, drifted, stand_in)
    with progress_display() as display:
        stacks = ServiceStacks(aws, stack)
        plan = make_plan(stacks, request, display.event)
    if not as_json:
        show_plan(plan, in_full=False)
    stop_if_refused(plan)
    if not plan.is_change:
        print(f"Nothing to do: {stack} runs this image, template and parameters.", file=sys.stderr)
        show_deployed(stacks.deployed(), as_json)
        return
    if not yes:
        typer.confirm(f"Deploy to account {plan.account.id} in {plan.account.region}?", abort=True, err=True)
    with progress_display() as display:
        promotion = Promotion(ServiceStacks(aws, stack), display)
        result = promotion.deploy(request, plan, ServiceSmokeTest(aws, frame))
    show_result(result, as_json)


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
        bool,
        typer.Option("--detailed-exitcode", help="Exit with 0 if there is nothing to do, 1 on failure, 2 on changes."),
    ] = False,
) -> None:
    """Show what a deploy would change and cost. Change nothing.

    The plan also says who may do what, and who can reach what.
    """
    request = _request(image, set_, public_url, untested, drifted, stand_in)
    with progress_display() as display:
        planned = make_plan(ServiceStacks(session(region, profile), stack), request, display.event)
    if as_json:
        print(json.dumps(plan_as_json(planned), indent=2))
    else:
        show_plan(planned, in_full=True)
    stop_if_refused(planned)
    if detailed_exitcode and planned.is_change:
        raise typer.Exit(CHANGES)


@app.command("rollback", epilog="Example: faceq deploy rollback --to 3")
def rollback(
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
    to: Annotated[
        int | None,
        typer.Option(
            "--to", metavar="NUMBER", help="Release, as `faceq deploy history` lists it.  [default: the previous one]"
        ),
    ] = None,
    frame: _Frame = None,
    yes: _Yes = False,
    as_json: _Json = False,
) -> None:
    """Go back to an earlier release.

    That deploys its image by digest, with its template and its parameters.
    """
    aws = session(region, profile)
    with progress_display() as display:
        target = Promotion(ServiceStacks(aws, stack), display).rollback_target(to)
    if not yes:
        typer.confirm(f"Go back to release {target.number} of {target.began} ({target.image})?", abort=True, err=True)
    with progress_display() as display:
        promotion = Promotion(ServiceStacks(aws, stack), display)
        result = promotion.rollback(target.number, ServiceSmokeTest(aws, frame))
    show_result(result, as_json)


@app.command("status", epilog="Example: faceq deploy status --json")
def status(stack: StackName = STACK, region: Region = None, profile: Profile = None, as_json: _Json = False) -> None:
    """Show the stack's state, release, images and addresses.

    Exit code 1 if the stack is not complete.
    """
    stacks = ServiceStacks(session(region, profile), stack)
    description = stacks.main.describe()
    if description is None:
        raise BadInput(
            "not_deployed", f"There is no stack {stack} in {stacks.account.region}. Deploy it with: faceq deploy"
        )
    is_complete = description.status in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
    images = stacks.function_images() if is_complete else {}
    release = stacks.running_release()
    facts: dict[str, Any] = {
        "stack": stack,
        "account": stacks.account.id,
        "region": stacks.account.region,
        "status": description.status,
        "reason": description.reason,
        "changed": description.changed,
        "release": None if release is None else release.number,
        "model": None if release is None else release.model,
        "images": images,
        "outputs": dict(description.outputs),
    }
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        rows = {**facts, "images": "", "outputs": "", **images, **description.outputs}
        for name, value in rows.items():
            if value not in ("", None):
                print(f"{name:20} {value}")
    if not is_complete:
        raise typer.Exit(1)


@app.command("history", epilog="Example: faceq deploy history --json")
def history(stack: StackName = STACK, region: Region = None, profile: Profile = None, as_json: _Json = False) -> None:
    """List the releases.

    The list says when each was deployed, by whom, with which image, and how it ended.
    """
    stacks = ServiceStacks(session(region, profile), stack)
    releases = stacks.releases.all()
    if as_json:
        print(json.dumps([asdict(release) for release in releases], indent=2))
    elif releases:
        show_releases(releases)
    else:
        print(f"{stack} has no releases in {stacks.account.region}.")


@app.command("destroy", epilog="Example: faceq deploy destroy --with-gallery")
def destroy(
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
    with_gallery: Annotated[
        bool, typer.Option("--with-gallery", help="Also delete the bucket with the gallery and the record of releases.")
    ] = False,
    yes: _Yes = False,
) -> None:
    """Delete the functions, the queues and the images from AWS.

    faceq lists them and asks first. The messages on the queues are deleted too.
    """
    aws = session(region, profile)
    with progress_display() as display:
        stacks = ServiceStacks(aws, stack)
        resources = Promotion(stacks, display).resources_to_delete()
    if not resources and not with_gallery:
        print(f"There is nothing of {stack} in {stacks.account.region}.")
        return
    if with_gallery:
        resources.append(("Bucket", "AWS::S3::Bucket", f"{stacks.bucket}, with everything in it"))
    show_resources(resources)
    if not with_gallery:
        print(f"The bucket {stacks.bucket} is kept, with the gallery and the releases. --with-gallery deletes it too.")
    if not yes:
        typer.confirm(f"Delete all this from account {stacks.account.id}?", abort=True, err=True)
    with progress_display() as display:
        Promotion(ServiceStacks(aws, stack), display).destroy(with_bucket=with_gallery)
    print(f"{stack} is deleted.")


@app.command("template", epilog="Example: faceq deploy template > packaged.yaml")
def template(
    image_uri: Annotated[
        str,
        typer.Option("--image-uri", metavar="URI", help="Make this the default of ImageUri: repository@sha256:..."),
    ] = "",
) -> None:
    """Print the template, for a pipeline of your own.

    docs/operations.md shows such a pipeline.
    """
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
    parameters = {}
    for text in set_ or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"'{text}' is not NAME=VALUE", param_hint="--set")
        parameters[name] = value
    if public_url:
        parameters["UrlAuthType"] = "NONE"
    gallery = Paths.from_environment(os.environ).gallery
    return DeployRequest(image, gallery, parameters, untested=untested, drifted=drifted, stand_in=stand_in)
