"""The promotion of an image that was tested on a laptop to AWS, and the way back.

    plan      look only: the image, the two stacks' change sets (made, read and thrown away), permissions, cost
    deploy    base stack (repository, bucket) -> push the image once -> gallery, if the bucket has none -> main stack by
              a change set, the image by its digest -> read the digest back -> smoke test -> record the release
    rollback  the same change set machinery with the template and the parameters of an earlier release
    destroy   both stacks; the bucket stays unless it is asked for

Each stage can be run again: a repository, a pushed image or a stack that is there already is found and left as it is,
so a command that was interrupted anywhere goes on when it is run again. What the deploy changed is undone by
CloudFormation where a resource fails, and by the change set of the release before where the smoke test fails. The cost
of this design: a rolled-back stack is rolled back resource by resource, which takes as long as the deploy did.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from botocore.exceptions import ClientError

from adapters import artifacts_s3
from adapters.artifacts_directory import DirectoryStore
from adapters.artifacts_s3 import S3Store
from adapters.aws_errors import translated_aws_errors
from client.deployed_stack import Account, Deployed, account, deployed
from client.gallery_transfer import copy
from deploy import registry, releases, resolve, review
from deploy.cloudformation import LOOK_SECONDS, Change, Drift, Event, Stack, StackFailedError, State
from deploy.function_image import Image, inspect
from deploy.prices import Estimate, configuration_of, estimate
from deploy.registry import Pushed
from deploy.releases import Release, Releases
from deploy.smoke import SmokeError
from deploy.tested_images import tested
from pipeline import gallery_storage
from pipeline.errors import BadInput, FaceqError, SetupError
from pipeline.gallery import Gallery

if TYPE_CHECKING:
    import boto3

HERE: Final = Path(__file__).parent
TEMPLATE: Final = HERE / "template.yaml"
BASE: Final = HERE / "base.yaml"

#: Lambda's words by Docker's.
_ARCHITECTURES: Final = {"linux/amd64": "x86_64", "linux/arm64": "arm64"}
#: What the base stack takes for its name, of which it makes the repository's and the bucket's.
_NAME: Final = "[a-z][a-z0-9-]{1,30}"
#: Parameters that a deploy sets by itself.
_OWN: Final = ("ImageUri", "Gallery", "Release", "Prefix")


class Watcher(Protocol):
    """What is told of a long work, for people."""

    def step(self, words: str) -> None:
        """Say what begins now."""
        ...

    def event(self, event: Event) -> None:
        """Say what happened to a resource."""
        ...

    def layer(self, layer: str, status: str, current: int, total: int) -> None:
        """Say how far a layer's push is, in bytes; a total of 0 is not known."""
        ...


@dataclass(frozen=True)
class Wish:
    """What a person asks for.

    Parameters
    ----------
    image : str
        Of the Docker engine.
    values : Mapping of str to str
        The template's parameters by name; what was set in an earlier deploy stays unless it is named here.
    gallery : Path
        This machine's gallery, for a bucket that has none.
    untested, drifted, stand_in : bool
        Go on with an image that has not passed the tests, with a stack changed by hand, with a model that recognises
        nobody.

    """

    image: str
    gallery: Path
    values: Mapping[str, str] = field(default_factory=dict)
    untested: bool = False
    drifted: bool = False
    stand_in: bool = False


@dataclass(frozen=True)
class Plan:
    """What a deploy would do.

    Parameters
    ----------
    digest : str or None
        Of the image in the repository; None before it was pushed.
    tested : str or None
        When the image passed the tests.
    base, main : sequence of Change
        Of the two stacks.
    values : sequence of (name, before, after)
        Parameters that change; before is None in a new stack.
    permissions, openness : sequence of str
        Who may do what; what is open to whom.
    refusals : sequence of str
        Why it is not done, each with what mends it.
    unproven : bool
        What runs has not passed its smoke test: the deploy was interrupted, or it failed and none ran before.

    """

    account: Account
    stack: str
    image: Image
    repository: str
    digest: str | None
    tested: str | None
    release: str
    base: Sequence[Change]
    main: Sequence[Change]
    values: Sequence[tuple[str, str | None, str]]
    permissions: Sequence[str]
    openness: Sequence[str]
    cost: Estimate
    gallery: str
    drift: Sequence[Drift]
    refusals: Sequence[str]
    parameters: Mapping[str, str]
    unproven: bool

    @property
    def is_change(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.base or self.main or self.unproven)

    @property
    def model(self) -> str:
        """The id of the image's model."""
        return self.image.labels.get("faceq.model", "")


@dataclass(frozen=True)
class Done:
    """A release that runs."""

    release: Release
    deployed: Deployed
    smoke: str


class RolledBackError(SetupError):
    """A deploy failed and the stack is as it was before."""


#: Runs the smoke test on what is deployed; returns what was answered, in words. Raises SmokeError.
Smoke = Callable[[Deployed, str], str]


class Promotion:
    """The stacks of one name in one account and region.

    Parameters
    ----------
    session : boto3.Session
    stack : str
    watcher : Watcher
    look_seconds : float
        Time between two looks at a stack.

    """

    def __init__(
        self, session: "boto3.Session", stack: str, watcher: Watcher, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._session = session
        self._watcher = watcher
        if not re.fullmatch(_NAME, stack):
            raise BadInput(
                "bad_name", f"A stack cannot be called {stack} here. Take --stack with a name of this form: {_NAME}"
            )
        self.name = stack
        self.account = account(session)
        cloudformation = session.client("cloudformation")
        self._base = Stack(cloudformation, f"{stack}-base", look_seconds)
        self._main = Stack(cloudformation, stack, look_seconds)
        self._ecr = session.client("ecr")
        self._s3 = session.client("s3")
        self.bucket = f"{stack}-{self.account.id}-{self.account.region}"
        self.releases = Releases(self._s3, self.bucket)

    # Looking

    def plan(self, wish: Wish) -> Plan:
        """Find out what `deploy` would do, and change nothing. Raises FaceqError."""
        image = inspect(wish.image)
        base = self._settled(self._base)
        main = self._settled(self._main)
        repository = base.outputs["RepositoryUri"] if base is not None else self._repository()
        digest = registry.known_digest(wish.image, repository, self._ecr) if base is not None else None
        template = TEMPLATE.read_text()
        running = self.running()
        parameters = self._parameters(wish, image, template, running)
        reference = f"{repository}@{digest}" if digest else f"{repository}:{registry.tag_of(image.id)}"
        drift = self._main.drift() if main is not None else []
        given = {**parameters, "ImageUri": reference}
        read = resolve.read(template, given)
        people, enrolled = self._gallery_plan(wish.gallery, base)
        refusals = [
            *(f"{one.reason} {one.mend}" for one in review.refusals(read, image, stand_in=wish.stand_in)),
            *_refusals(wish, image, drift),
            *_misfits(image, enrolled),
        ]
        return Plan(
            account=self.account,
            stack=self.name,
            image=image,
            repository=repository,
            digest=digest,
            tested=tested(image.id),
            release=parameters["Release"],
            base=self._changes(self._base, BASE.read_text(), self._base_parameters(base)),
            main=[] if refusals else self._changes(self._main, template, given),
            values=_differences(main.parameters if main is not None else None, {**_defaults(template), **given}),
            permissions=[one.words for one in review.statements(read)],
            openness=[
                *review.openness(read),
                *review.openness(resolve.read(BASE.read_text(), self._base_parameters(base))),
            ],
            cost=estimate(configuration_of(read, image.bytes), self.account.region),
            gallery=people,
            drift=drift,
            refusals=refusals,
            parameters=parameters,
            unproven=main is not None and (running is None or running.outcome != releases.DEPLOYED),
        )

    def state(self) -> State | None:
        """Return what the main stack is. Raises FaceqError."""
        return self._main.state()

    def deployed(self) -> Deployed:
        """Return what the main stack offers. Raises FaceqError."""
        return deployed(self._session, self.name)

    def images(self) -> dict[str, str]:
        """Return each deployed function's image, `repository@sha256:...`, as Lambda tells it. Raises FaceqError."""
        functions = [physical for _, kind, physical in self._main.resources() if kind == "AWS::Lambda::Function"]
        client = self._session.client("lambda")
        found: dict[str, str] = {}
        with translated_aws_errors():
            for function in functions:
                code = client.get_function(FunctionName=function, Qualifier="live")["Code"]
                found[function] = code.get("ResolvedImageUri") or code["ImageUri"]
        return found

    # Changing

    def deploy(self, wish: Wish, plan: Plan, smoke: Smoke) -> Done:
        """Do what a plan says.

        Parameters
        ----------
        smoke : Smoke
            Run on what is deployed.

        Raises
        ------
        RolledBackError
            It failed, and what ran before runs again.
        FaceqError
            It failed before anything that runs was changed, or going back failed too.

        """
        if plan.refusals:
            raise BadInput("refused", plan.refusals[0])
        repository = self._bring_up_base()
        self._watcher.step("push the image")
        pushed = registry.push(wish.image, repository, self._ecr, self._watcher.layer)
        self._bring_gallery(wish.gallery)
        parameters = {**plan.parameters, "ImageUri": pushed.uri}
        release = Release(
            number=0,
            id=plan.release,
            began=_now(),
            by=self.account.arn,
            image=parameters["ImageUri"],
            image_id=plan.image.id,
            revision=plan.image.labels.get("org.opencontainers.image.revision", ""),
            model=plan.model,
            parameters=parameters,
            template=TEMPLATE.read_text(),
        )
        return self._release(release, pushed, smoke)

    def rollback(self, to: int | None, smoke: Smoke) -> Done:
        """Go back to an earlier release: the one before what runs, or number `to`. Raises as `deploy` does."""
        target = self.target(to)
        repository, _, digest = target.image.partition("@")
        self._settled(self._main)
        with translated_aws_errors():
            try:
                self._ecr.describe_images(
                    repositoryName=repository.rpartition("/")[2], imageIds=[{"imageDigest": digest}]
                )
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("ImageNotFoundException", "RepositoryNotFoundException"):
                    raise
                raise BadInput(
                    "image_gone",
                    f"The image of release {target.number} is not in the repository any more ({target.image}). "
                    "Take another of faceq deploy history with --to, or deploy anew: faceq deploy",
                ) from None
        again = replace(
            target, began=_now(), by=self.account.arn, outcome=releases.STARTED, reason="", again=target.number
        )
        return self._release(again, Pushed(repository, "", digest, already_there=True), smoke)

    def target(self, to: int | None) -> Release:
        """Return the release that a rollback goes to. Raises BadInput if there is none."""
        if to is not None:
            return self.releases.get(to)
        state = self.state()
        runs = state.parameters.get("Release") if state is not None else None
        earlier = next((one for one in self._good() if one.id != runs), None)
        if earlier is None:
            raise BadInput("no_release", "There is no earlier release to go back to. See: faceq deploy history")
        return earlier

    def destroy(self, *, with_bucket: bool) -> None:
        """Delete both stacks, and the bucket with all versions of what is in it if told to. Raises FaceqError."""
        for stack in (self._main, self._base):
            if stack.exists():
                self._watcher.step(f"delete the stack {stack.name}")
                stack.delete(self._watcher.event)
        if with_bucket:
            self._watcher.step(f"empty and delete the bucket {self.bucket}")
            self._delete_bucket()

    def remains(self) -> list[tuple[str, str, str]]:
        """Return logical id, type and physical id of all that `destroy` removes. Raises FaceqError."""
        return [
            resource
            for stack in (self._main, self._base)
            if stack.exists()
            for resource in stack.resources()
            if resource[1] != "AWS::S3::Bucket"
        ]

    # One release

    def _release(self, release: Release, pushed: Pushed, smoke: Smoke) -> Done:
        before = self._proven()
        change_set = self._main.prepare(release.template, release.parameters)
        release = self.releases.start(release)
        try:
            if change_set is not None:
                self._watcher.step(f"release {release.number}: change the stack {self.name}")
                self._main.execute(change_set, self._watcher.event)
            self._watcher.step("read back the digest that runs")
            self._check_digest(pushed)
            self._watcher.step("smoke test")
            answered = smoke(self.deployed(), release.model)
        except StackFailedError as error:
            self.releases.finish(release, releases.FAILED, error.message)
            runs = self.running() if error.status == "UPDATE_ROLLBACK_COMPLETE" else None
            words = f" {_where(runs)}" if runs is not None else ""
            raise RolledBackError("rolled_back", f"{error.message}{words}") from error
        except SmokeError as error:
            self.releases.finish(release, releases.FAILED, error.message)
            raise self._gone_back(error, before) from error
        except BaseException as error:
            reason = error.message if isinstance(error, FaceqError) else "interrupted"
            self.releases.finish(release, releases.FAILED, reason)
            raise
        return Done(self.releases.finish(release, releases.DEPLOYED), self.deployed(), answered)

    def _gone_back(self, error: FaceqError, before: Release | None) -> SetupError:
        if before is None:
            return SetupError(error.code, f"{error.message} {_where(None)}")
        self._watcher.step(f"go back to release {before.number}")
        change_set = self._main.prepare(before.template, before.parameters)
        if change_set is not None:
            self._main.execute(change_set, self._watcher.event)
        return RolledBackError("rolled_back", f"{error.message} {_where(before)}")

    def running(self) -> Release | None:
        """Return the last release of what the stack runs now, None if there is none, or no record of it."""
        state = self.state()
        if state is None:
            return None
        runs = state.parameters.get("Release")
        return next((one for one in self.releases.newest_first() if one.id == runs), None)

    def _good(self) -> Iterator[Release]:
        """Yield the releases that have passed their smoke test, the last one first."""
        return (one for one in self.releases.newest_first() if one.outcome == releases.DEPLOYED)

    def _proven(self) -> Release | None:
        """Return the release to go back to if the next one fails: the one that runs, if it has passed its smoke test.

        A deploy that was interrupted may have left another running; then it is the last one that has passed.
        """
        running = self.running()
        if running is None or running.outcome == releases.DEPLOYED:
            return running
        return next(self._good(), None)

    def _check_digest(self, pushed: Pushed) -> None:
        for function, image in self.images().items():
            if image.partition("@")[2] != pushed.digest:
                raise SmokeError("other_image", f"{function} runs {image}, not the {pushed.digest} that was pushed.")

    # The base stack, the gallery

    def _bring_up_base(self) -> str:
        """Make or change the base stack; return the repository's URI."""
        state = self._settled(self._base)
        change_set = self._base.prepare(BASE.read_text(), self._base_parameters(state))
        if change_set is not None:
            self._watcher.step(f"change the stack {self._base.name}")
            state = self._base.execute(change_set, self._watcher.event)
        assert state is not None  # noqa: S101 - a stack without a change set is there
        return state.outputs["RepositoryUri"]

    def _base_parameters(self, state: State | None) -> dict[str, str]:
        if state is not None:
            return dict(state.parameters)
        return {"Name": self.name, "BucketIsThere": str(self._has_bucket()).lower()}

    def _has_bucket(self) -> bool:
        """Tell whether the bucket is there, left by an earlier stack. Raises BadInput if it is somebody else's."""
        with translated_aws_errors():
            try:
                self._s3.head_bucket(Bucket=self.bucket, ExpectedBucketOwner=self.account.id)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in ("404", "NoSuchBucket"):
                    return False
                if code == "403":
                    raise BadInput(
                        "other_owner",
                        f"The bucket {self.bucket} belongs to another account, or you may not see it. Take another "
                        "name with --stack.",
                    ) from None
                raise
        return True

    def _repository(self) -> str:
        """Return where the repository will be. Raises BadInput if there is one that the base stack did not make."""
        with translated_aws_errors():
            try:
                found = self._ecr.describe_repositories(repositoryNames=[self.name])["repositories"][0]
            except ClientError as error:
                if error.response["Error"]["Code"] != "RepositoryNotFoundException":
                    raise
                return f"{self.account.id}.dkr.ecr.{self.account.region}.amazonaws.com/{self.name}"
        raise BadInput(
            "other_owner",
            f"There is a repository {found['repositoryUri']} that faceq did not make. Take another name with --stack.",
        )

    def _gallery_plan(self, folder: Path, base: State | None) -> tuple[str, Gallery | None]:
        """Return what happens to the gallery, in words, and the gallery that the functions will have."""
        there = gallery_storage.load(self._gallery_store()) if base is not None or self._has_bucket() else None
        if there is not None:
            return f"{_people(there)} in {self.bucket}: nothing is brought (compare: faceq people diff)", there
        here = gallery_storage.load(DirectoryStore(folder))
        if here is None:
            words = "nobody is enrolled; every face will be Unknown until: faceq people add NAME PHOTO... --target aws"
            return words, None
        return f"{_people(here)} of {folder}: brought to {self.bucket}", here

    def _bring_gallery(self, folder: Path) -> None:
        store = self._gallery_store()
        source = DirectoryStore(folder)
        here = gallery_storage.load(source)
        if here is not None and gallery_storage.load(store) is None:
            self._watcher.step(f"bring the gallery of {_people(here)}")
            copy(source, here, store, None)

    def _gallery_store(self) -> S3Store:
        return S3Store(artifacts_s3.client(self._session), self.bucket, artifacts_s3.PREFIX)

    def _delete_bucket(self) -> None:
        with translated_aws_errors():
            try:
                pages = self._s3.get_paginator("list_object_versions").paginate(Bucket=self.bucket)
                for page in pages:
                    objects = [
                        {"Key": one["Key"], "VersionId": one["VersionId"]}
                        for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
                    ]
                    if objects:
                        self._s3.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
                self._s3.delete_bucket(Bucket=self.bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] != "NoSuchBucket":
                    raise

    # Parts of a plan

    def _settled(self, stack: Stack) -> State | None:
        return stack.settled(self._watcher.event)

    def _changes(self, stack: Stack, template: str, parameters: Mapping[str, str]) -> Sequence[Change]:
        change_set = stack.prepare(template, parameters)
        if change_set is None:
            return []
        stack.discard(change_set)
        return change_set.changes

    def _parameters(self, wish: Wish, image: Image, template: str, running: Release | None) -> dict[str, str]:
        """Return what is given for parameters, but ImageUri; `Release` stands for them, the template and the image.

        What nobody has set is not given: it takes the template's default, which may change.
        """
        known = resolve.load(template)["Parameters"]
        for name in wish.values:
            if name not in known or name in _OWN:
                settable = ", ".join(one for one in known if one not in _OWN)
                raise BadInput("no_parameter", f"There is no parameter {name} to set. There are: {settable}")
        before = running.parameters if running is not None else {}
        parameters = {
            name: value for name, value in before.items() if name in known and name not in ("ImageUri", "Release")
        }
        # What an image is for decides in a first deploy only: later one for another architecture may be a mistake.
        parameters = {"Architecture": _ARCHITECTURES.get(image.platform, "x86_64"), **parameters}
        parameters |= {"Prefix": self.name, "Gallery": self.bucket, **wish.values}
        stands_for = json.dumps([template, sorted(parameters.items()), image.id])
        return {**parameters, "Release": hashlib.sha256(stands_for.encode()).hexdigest()[:12]}


def _refusals(wish: Wish, image: Image, drift: Sequence[Drift]) -> list[str]:
    refusals = []
    if not wish.untested and tested(image.id) is None:
        refusals.append(
            f"The image {wish.image} has not passed the tests on this machine. Run `make test-docker`, or go on "
            "with --untested."
        )
    if drift and not wish.drifted:
        words = "; ".join(f"{one.logical_id} {one.status.lower()} ({', '.join(one.differences)})" for one in drift)
        refusals.append(
            f"The stack was changed by hand: {words}. Put that back, or go on with --drifted, which sets back only "
            "what the template changes."
        )
    return refusals


def _defaults(template: str) -> dict[str, str]:
    declared = resolve.load(template)["Parameters"]
    return {name: resolve.as_text(one["Default"]) for name, one in declared.items() if "Default" in one}


def _differences(before: Mapping[str, str] | None, after: Mapping[str, str]) -> list[tuple[str, str | None, str]]:
    return [
        (name, None if before is None else before.get(name), value)
        for name, value in after.items()
        if before is None or before.get(name) != value
    ]


def _misfits(image: Image, enrolled: Gallery | None) -> list[str]:
    """Return why the functions could not use the gallery: they would answer `Error` to every face."""
    model, preprocessing = (image.labels.get(f"faceq.{what}", "") for what in ("model", "preprocessing"))
    if enrolled is None or not model:
        return []
    try:
        enrolled.check_compatible(model, preprocessing)
    except SetupError as error:
        return [f"{error.message} Or build the image with it: faceq image build --model {enrolled.model}"]
    return []


def _people(current: Gallery) -> str:
    return "1 person" if len(current.people) == 1 else f"{len(current.people)} people"


def _where(before: Release | None) -> str:
    if before is None:
        return "No release ran before this one. See: faceq deploy logs; remove it all: faceq deploy destroy"
    return f"Release {before.number} runs again."


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
