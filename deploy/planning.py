"""The plan of a deploy: what it would change, who may do what, what is reachable, what it costs, and why it is refused.

A plan changes nothing that runs. It creates a change set for each stack, reads it, and deletes it again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from botocore.exceptions import ClientError

from adapters.artifacts_directory import DirectoryStore
from adapters.aws_errors import translated_aws_errors
from client.deployed_stack import Account
from deploy import preflight, registry
from deploy.cloudformation import ResourceChange, ResourceDrift, Stack, StackDescription, StackEvent
from deploy.function_image import Image, inspect
from deploy.prices import Estimate, estimate
from deploy.releases import DEPLOYED, Release
from deploy.service_stacks import BASE_TEMPLATE, TEMPLATE, ServiceStacks
from deploy.tested_images import tested
from pipeline import gallery_storage
from pipeline.errors import BadInput, SetupError
from pipeline.gallery import Gallery
from template import permissions
from template.parameters import Parameter, declared_parameters
from template.reader import read_service
from template.resources import Template
from template.values import as_text
from template.yaml_nodes import TemplateError

#: Lambda's name for a processor architecture, by Docker's name for the platform.
_ARCHITECTURES: Final = {"linux/amd64": "x86_64", "linux/arm64": "arm64"}
#: Parameters of the template that a deploy sets itself.
_SET_BY_DEPLOY: Final = ("ImageUri", "Gallery", "Release", "Prefix")


@dataclass(frozen=True)
class DeployRequest:
    """What the user asks `faceq deploy` for.

    Parameters
    ----------
    image : str
        Tag of the function image in the Docker engine.
    gallery : Path
        Folder of this machine's gallery, which is copied to a bucket that has none.
    parameters : Mapping of str to str
        Values for the template's parameters. A value from an earlier deploy is kept unless it is given here.
    untested : bool
        Accept an image that has not passed the tests.
    drifted : bool
        Accept a stack that was changed by hand.
    stand_in : bool
        Accept the stand-in model, which recognises no one.

    """

    image: str
    gallery: Path
    parameters: Mapping[str, str] = field(default_factory=dict)
    untested: bool = False
    drifted: bool = False
    stand_in: bool = False


@dataclass(frozen=True)
class Plan:
    """What a deploy would do.

    Parameters
    ----------
    account : Account
    stack : str
        Name of the main stack.
    image : Image
        The local image.
    repository : str
        URI of the repository in ECR that the image is pushed to.
    digest : str or None
        The image's digest in that repository; None before the image was pushed.
    tested : str or None
        When the image passed the tests (UTC, ISO 8601); None if it did not.
    release : str
        The new value of the template's parameter `Release`.
    base_changes, main_changes : sequence of ResourceChange
        Changes of the base stack and of the main stack.
    parameter_changes : sequence of (name, before, after)
        Parameters of the main stack that change; `before` is None if the stack is new.
    permissions, openness : sequence of str
        Sentences: which function may do what, and who can reach what.
    cost : Estimate
    gallery : str
        A sentence: what happens to the gallery.
    drift : sequence of ResourceDrift
        Resources of the main stack that someone changed by hand.
    refusals : sequence of str
        Why the deploy is refused, each with the way to put it right. Empty if it may go ahead.
    parameters : Mapping of str to str
        Parameters of the main stack, without `ImageUri`.
    is_unproven : bool
        Whether what runs now has not passed its smoke test, because its deploy was interrupted, or failed without an
        earlier release to go back to.

    """

    account: Account
    stack: str
    image: Image
    repository: str
    digest: str | None
    tested: str | None
    release: str
    base_changes: Sequence[ResourceChange]
    main_changes: Sequence[ResourceChange]
    parameter_changes: Sequence[tuple[str, str | None, str]]
    permissions: Sequence[str]
    openness: Sequence[str]
    cost: Estimate
    gallery: str
    drift: Sequence[ResourceDrift]
    refusals: Sequence[str]
    parameters: Mapping[str, str]
    is_unproven: bool

    @property
    def is_change(self) -> bool:
        """Whether a deploy would do anything."""
        return bool(self.base_changes or self.main_changes or self.is_unproven)

    @property
    def model(self) -> str:
        """The id of the image's model; empty if the image has no such label."""
        return self.image.labels.get("faceq.model", "")


def plan(stacks: ServiceStacks, request: DeployRequest, on_event: Callable[[StackEvent], None]) -> Plan:
    """Find out what a deploy would do.

    Parameters
    ----------
    stacks : ServiceStacks
    request : DeployRequest
    on_event : callable
        Called with each event of a change that is in progress already, which the plan waits for.

    Raises
    ------
    FaceqError
        There is no such image or parameter, AWS refuses a request, or a stack is in a state that AWS cannot change.

    """
    image = inspect(request.image)
    base = stacks.base.wait_until_stable(on_event)
    main = stacks.main.wait_until_stable(on_event)
    repository = base.outputs["RepositoryUri"] if base is not None else _future_repository(stacks)
    digest = registry.known_digest(request.image, repository, stacks.ecr) if base is not None else None
    template = TEMPLATE.read_text()
    running = stacks.running_release()
    declared = declared_parameters(template)
    parameters = _parameters(stacks, request, image, template, declared, running)
    image_uri = f"{repository}@{digest}" if digest else f"{repository}:{registry.tag_of(image.id)}"
    drift = stacks.main.detect_drift() if main is not None else []
    main_parameters = {**parameters, "ImageUri": image_uri}
    base_parameters = stacks.base_parameters(base)
    try:
        main_template = Template(template, main_parameters)
        service = read_service(main_template)
    except TemplateError as error:
        raise BadInput(error.code, f"deploy/{TEMPLATE.name}, {error.message}") from None
    base_template = Template(BASE_TEMPLATE.read_text(), base_parameters)
    gallery_outcome, future_gallery = _gallery(stacks, request.gallery, base)
    refusals = [
        *preflight.template_refusals(main_template, service),
        *preflight.image_refusals(service, image, stand_in=request.stand_in),
        *_refusals(request, image, drift),
        *_gallery_mismatches(image, future_gallery),
    ]
    return Plan(
        account=stacks.account,
        stack=stacks.name,
        image=image,
        repository=repository,
        digest=digest,
        tested=tested(image.id),
        release=parameters["Release"],
        base_changes=_changes(stacks.base, BASE_TEMPLATE.read_text(), base_parameters),
        main_changes=[] if refusals else _changes(stacks.main, template, main_parameters),
        parameter_changes=_differences(
            main.parameters if main is not None else None, {**_defaults(declared), **main_parameters}
        ),
        permissions=[statement.words for statement in permissions.statements(main_template)],
        openness=[*permissions.openness(main_template), *permissions.openness(base_template)],
        cost=estimate(main_template, service, image.bytes, stacks.account.region),
        gallery=gallery_outcome,
        drift=drift,
        refusals=refusals,
        parameters=parameters,
        is_unproven=main is not None and (running is None or running.outcome != DEPLOYED),
    )


def people_count(current: Gallery) -> str:
    """Return how many people are enrolled, such as `2 people`."""
    return "1 person" if len(current.people) == 1 else f"{len(current.people)} people"


def _future_repository(stacks: ServiceStacks) -> str:
    """Return the URI of the repository that the base stack will create.

    Raises BadInput if a repository of that name exists already, which faceq then did not create.
    """
    with translated_aws_errors():
        try:
            existing = stacks.ecr.describe_repositories(repositoryNames=[stacks.name])["repositories"][0]
        except ClientError as error:
            if error.response["Error"]["Code"] != "RepositoryNotFoundException":
                raise
            return f"{stacks.account.id}.dkr.ecr.{stacks.account.region}.amazonaws.com/{stacks.name}"
    raise BadInput(
        "other_owner",
        f"The repository {existing['repositoryUri']} exists already and faceq did not create it. Choose another name "
        "with --stack.",
    )


def _parameters(
    stacks: ServiceStacks,
    request: DeployRequest,
    image: Image,
    template: str,
    declared: Mapping[str, Parameter],
    running: Release | None,
) -> dict[str, str]:
    """Return the parameters of the main stack, without ImageUri.

    The value of `Release` is a hash of the other parameters, the template and the image. A parameter that was never set
    is left out, so that it takes the template's default, which may change.
    """
    for name in request.parameters:
        if name not in declared or name in _SET_BY_DEPLOY:
            settable = ", ".join(other for other in declared if other not in _SET_BY_DEPLOY)
            raise BadInput("no_parameter", f"The template has no parameter {name} to set. Take one of: {settable}")
    earlier = running.parameters if running is not None else {}
    parameters = {
        name: value for name, value in earlier.items() if name in declared and name not in ("ImageUri", "Release")
    }
    # Only the first deploy takes the architecture from the image: a later image for another one may be a mistake.
    parameters = {"Architecture": _ARCHITECTURES.get(image.platform, "x86_64"), **parameters}
    parameters |= {"Prefix": stacks.name, "Gallery": stacks.bucket, **request.parameters}
    hashed = json.dumps([template, sorted(parameters.items()), image.id])
    return {**parameters, "Release": hashlib.sha256(hashed.encode()).hexdigest()[:12]}


def _gallery(stacks: ServiceStacks, folder: Path, base: StackDescription | None) -> tuple[str, Gallery | None]:
    """Return a sentence that says what happens to the gallery, and the gallery that the functions will use."""
    in_bucket = gallery_storage.load(stacks.gallery_store()) if base is not None or stacks.bucket_exists() else None
    if in_bucket is not None:
        return f"{people_count(in_bucket)} in {stacks.bucket}: stays as it is (compare: faceq people diff)", in_bucket
    local = gallery_storage.load(DirectoryStore(folder))
    if local is None:
        return (
            "empty, so every face will be Unknown until you run: faceq people add NAME PHOTO... --target aws",
            None,
        )
    return f"{people_count(local)} of {folder}: copied to {stacks.bucket}", local


def _changes(stack: Stack, template: str, parameters: Mapping[str, str]) -> Sequence[ResourceChange]:
    change_set = stack.create_change_set(template, parameters)
    if change_set is None:
        return []
    stack.delete_change_set(change_set)
    return change_set.changes


def _refusals(request: DeployRequest, image: Image, drift: Sequence[ResourceDrift]) -> list[str]:
    refusals = []
    if not request.untested and tested(image.id) is None:
        refusals.append(
            f"The image {request.image} has not passed the tests on this machine. Run `make test-docker`, or deploy it "
            "all the same with --untested."
        )
    if drift and not request.drifted:
        resources = "; ".join(
            f"{resource.logical_id} {resource.status.lower()} ({', '.join(resource.differences)})" for resource in drift
        )
        refusals.append(
            f"The stack was changed by hand: {resources}. Undo that, or deploy with --drifted, which resets only what "
            "the template changes."
        )
    return refusals


def _gallery_mismatches(image: Image, future_gallery: Gallery | None) -> list[str]:
    """Return why the functions could not use the gallery, in which case they would answer `Error` to every face."""
    model, preprocessing = (image.labels.get(f"faceq.{name}", "") for name in ("model", "preprocessing"))
    if future_gallery is None or not model:
        return []
    try:
        future_gallery.check_compatible(model, preprocessing)
    except SetupError as error:
        return [
            f"{error.message} Or build the image with the gallery's model: "
            f"faceq image build --model {future_gallery.model}"
        ]
    return []


def _defaults(declared: Mapping[str, Parameter]) -> dict[str, str]:
    return {name: as_text(parameter.default) for name, parameter in declared.items() if parameter.default is not None}


def _differences(before: Mapping[str, str] | None, after: Mapping[str, str]) -> list[tuple[str, str | None, str]]:
    return [
        (name, None if before is None else before.get(name), value)
        for name, value in after.items()
        if before is None or before.get(name) != value
    ]
