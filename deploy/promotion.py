"""The promotion of an image that was tested on a laptop to AWS, and the way back.

A deploy passes these stages in this order:

1. plan (planning.py): inspect the image, both stacks and the gallery; create, read and delete a change set for each
   stack; list permissions, cost, and the reasons to refuse. Nothing that runs is changed.
2. base stack: create or change the repository for the image and the bucket for the gallery and the record of releases.
3. image: push it to the repository, once (registry.py). From here on it is named by its digest.
4. gallery: copy this machine's gallery to the bucket, if the bucket has none.
5. main stack: create the change set, record the release as started (releases.py), and execute the change set. If a
   resource fails, CloudFormation rolls the stack back.
6. digest: ask Lambda which image its functions run, and compare it with the image that was pushed.
7. smoke test: post a frame and check its answer (smoke.py). If it fails, the previous proven release is deployed again.
8. record: note whether the release was deployed or failed, and why.

`rollback` passes stages 5 to 8 with the template and the parameters of an earlier release. `destroy` deletes both
stacks; it keeps the bucket unless told otherwise.

Every stage can be run again: it finds what an earlier run has created and leaves it as it is. So a command that was
interrupted at any point continues when it is run again. The cost of this design is that CloudFormation rolls back a
stack resource by resource, which takes as long as the deploy did.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from botocore.exceptions import ClientError

from adapters.artifacts_directory import DirectoryStore
from adapters.aws_errors import translated_aws_errors
from client.deployed_stack import Deployed
from client.gallery_transfer import copy_gallery
from deploy import registry
from deploy.cloudformation import StackEvent, StackFailedError
from deploy.planning import DeployRequest, Plan, people_count
from deploy.releases import DEPLOYED, FAILED, STARTED, Release
from deploy.service_stacks import BASE_TEMPLATE, TEMPLATE, ServiceStacks
from deploy.smoke import SmokeError
from pipeline import gallery_storage
from pipeline.errors import BadInput, FaceqError, SetupError


class ProgressListener(Protocol):
    """Receives the progress of a command that takes minutes."""

    def step(self, message: str) -> None:
        """Take the name of the stage that begins now."""
        ...

    def event(self, event: StackEvent) -> None:
        """Take a change of a resource's status."""
        ...

    def layer(self, layer: str, status: str, current: int, total: int) -> None:
        """Take the progress of pushing a layer, as `registry.PushProgress` does."""
        ...


@dataclass(frozen=True)
class DeployResult:
    """A release that runs.

    Parameters
    ----------
    release : Release
    deployed : Deployed
        What it offers its clients.
    smoke : str
        The answer to the smoke test, as one line for the user.

    """

    release: Release
    deployed: Deployed
    smoke: str


class RolledBackError(SetupError):
    """A deploy failed, and the release that ran before it runs again."""


#: Runs the smoke test on a deployed stack, whose image has the model with this id. Returns the answer as one line for
#: the user; raises SmokeError.
SmokeTest = Callable[[Deployed, str], str]


class Promotion:
    """Deploys, rolls back and deletes the stacks of one service.

    Parameters
    ----------
    stacks : ServiceStacks
    listener : ProgressListener

    """

    def __init__(self, stacks: ServiceStacks, listener: ProgressListener) -> None:
        self._stacks = stacks
        self._listener = listener

    def deploy(self, request: DeployRequest, plan: Plan, smoke_test: SmokeTest) -> DeployResult:
        """Do what a plan says.

        Parameters
        ----------
        request : DeployRequest
            The request that the plan was made for.
        plan : Plan
        smoke_test : SmokeTest

        Raises
        ------
        RolledBackError
            The deploy failed, and the release that ran before it runs again.
        FaceqError
            The deploy failed before it changed anything that runs, or the rollback failed too.

        """
        if plan.refusals:
            raise BadInput("refused", plan.refusals[0])
        repository = self._deploy_base_stack()
        self._listener.step("push the image")
        image = registry.push(request.image, repository, self._stacks.ecr, self._listener.layer)
        self._copy_gallery(request.gallery)
        parameters = {**plan.parameters, "ImageUri": image.uri}
        release = Release(
            number=0,
            id=plan.release,
            began=_now(),
            by=self._stacks.account.arn,
            image=image.uri,
            image_id=plan.image.id,
            revision=plan.image.labels.get("org.opencontainers.image.revision", ""),
            model=plan.model,
            parameters=parameters,
            template=TEMPLATE.read_text(),
        )
        return self._deploy_release(release, image.digest, smoke_test)

    def rollback(self, number: int | None, smoke_test: SmokeTest) -> DeployResult:
        """Deploy an earlier release again.

        Parameters
        ----------
        number : int or None
            The release's number; None for the last proven one before the release that runs.
        smoke_test : SmokeTest

        Raises
        ------
        BadInput
            There is no such release, or its image is no longer in the repository.
        RolledBackError, FaceqError
            As `deploy` does.

        """
        target = self.rollback_target(number)
        repository, _, digest = target.image.partition("@")
        self._stacks.main.wait_until_stable(self._listener.event)
        with translated_aws_errors():
            try:
                self._stacks.ecr.describe_images(
                    repositoryName=repository.rpartition("/")[2], imageIds=[{"imageDigest": digest}]
                )
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("ImageNotFoundException", "RepositoryNotFoundException"):
                    raise
                raise BadInput(
                    "image_gone",
                    f"The image of release {target.number} is no longer in the repository ({target.image}). Choose "
                    "another release from `faceq deploy history` with --to, or deploy a new one: faceq deploy",
                ) from None
        release = replace(
            target, began=_now(), by=self._stacks.account.arn, outcome=STARTED, reason="", again=target.number
        )
        return self._deploy_release(release, digest, smoke_test)

    def rollback_target(self, number: int | None) -> Release:
        """Return the release that `rollback` would deploy. Raises BadInput if there is none."""
        if number is not None:
            return self._stacks.releases.get(number)
        description = self._stacks.main.describe()
        running = description.parameters.get("Release") if description is not None else None
        target = next((release for release in self._stacks.proven_releases() if release.id != running), None)
        if target is None:
            raise BadInput("no_release", "There is no earlier release to go back to. See: faceq deploy history")
        return target

    def destroy(self, *, with_bucket: bool) -> None:
        """Delete both stacks.

        Parameters
        ----------
        with_bucket : bool
            Delete the bucket too, with every version of every object in it.

        Raises
        ------
        FaceqError
            A resource could not be deleted, or AWS refuses a request.

        """
        for stack in (self._stacks.main, self._stacks.base):
            if stack.exists():
                self._listener.step(f"delete the stack {stack.name}")
                stack.delete(self._listener.event)
        if with_bucket:
            self._listener.step(f"empty and delete the bucket {self._stacks.bucket}")
            self._delete_bucket()

    def resources_to_delete(self) -> list[tuple[str, str, str]]:
        """Return (logical id, type, physical id) of each resource that `destroy` deletes, without the bucket.

        Raises FaceqError.
        """
        return [
            resource
            for stack in (self._stacks.main, self._stacks.base)
            if stack.exists()
            for resource in stack.resources()
            if resource[1] != "AWS::S3::Bucket"
        ]

    # Stages of a deploy

    def _deploy_base_stack(self) -> str:
        """Create or change the base stack; return the repository's URI."""
        stack = self._stacks.base
        description = stack.wait_until_stable(self._listener.event)
        change_set = stack.create_change_set(BASE_TEMPLATE.read_text(), self._stacks.base_parameters(description))
        if change_set is not None:
            self._listener.step(f"change the stack {stack.name}")
            description = stack.execute_change_set(change_set, self._listener.event)
        assert description is not None  # noqa: S101 - only an existing stack can have no changes
        return description.outputs["RepositoryUri"]

    def _copy_gallery(self, folder: Path) -> None:
        """Copy the gallery of a folder to the bucket, if the folder has one and the bucket has none."""
        store = self._stacks.gallery_store()
        source = DirectoryStore(folder)
        local = gallery_storage.load(source)
        if local is not None and gallery_storage.load(store) is None:
            self._listener.step(f"copy the gallery of {people_count(local)} to the bucket")
            copy_gallery(source, local, store, None)

    def _deploy_release(self, release: Release, digest: str, smoke_test: SmokeTest) -> DeployResult:
        """Change the main stack to a release, and test it."""
        stack, releases = self._stacks.main, self._stacks.releases
        earlier = self._release_to_restore()
        change_set = stack.create_change_set(release.template, release.parameters)
        release = releases.start(release)
        try:
            if change_set is not None:
                self._listener.step(f"release {release.number}: change the stack {stack.name}")
                stack.execute_change_set(change_set, self._listener.event)
            self._listener.step("check the digest of the running image")
            self._check_digest(digest)
            self._listener.step("smoke test")
            answer = smoke_test(self._stacks.deployed(), release.model)
        except StackFailedError as error:
            releases.finish(release, FAILED, error.message)
            running = self._stacks.running_release() if error.status == "UPDATE_ROLLBACK_COMPLETE" else None
            outcome = f" {_after_failure(running)}" if running is not None else ""
            raise RolledBackError("rolled_back", f"{error.message}{outcome}") from error
        except SmokeError as error:
            releases.finish(release, FAILED, error.message)
            raise self._restore(earlier, error) from error
        except BaseException as error:
            reason = error.message if isinstance(error, FaceqError) else "interrupted"
            releases.finish(release, FAILED, reason)
            raise
        return DeployResult(releases.finish(release, DEPLOYED), self._stacks.deployed(), answer)

    def _release_to_restore(self) -> Release | None:
        """Return the release to restore if the next one fails: the running one, if it has passed its smoke test.

        After an interrupted deploy an unproven release may run. Then it is the last release that has passed.
        """
        running = self._stacks.running_release()
        if running is None or running.outcome == DEPLOYED:
            return running
        return next(self._stacks.proven_releases(), None)

    def _check_digest(self, digest: str) -> None:
        for function, image in self._stacks.function_images().items():
            if image.partition("@")[2] != digest:
                raise SmokeError(
                    "other_image", f"{function} runs {image}, but the image that was pushed has the digest {digest}."
                )

    def _restore(self, earlier: Release | None, error: SmokeError) -> SetupError:
        """Deploy an earlier release after a failed smoke test; return the error to raise."""
        if earlier is None:
            return SetupError(error.code, f"{error.message} {_after_failure(None)}")
        self._listener.step(f"go back to release {earlier.number}")
        change_set = self._stacks.main.create_change_set(earlier.template, earlier.parameters)
        if change_set is not None:
            self._stacks.main.execute_change_set(change_set, self._listener.event)
        return RolledBackError("rolled_back", f"{error.message} {_after_failure(earlier)}")

    # Deleting

    def _delete_bucket(self) -> None:
        s3, bucket = self._stacks.s3, self._stacks.bucket
        with translated_aws_errors():
            try:
                pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket)
                for page in pages:
                    objects = [
                        {"Key": version["Key"], "VersionId": version["VersionId"]}
                        for version in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
                    ]
                    if objects:
                        s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
                s3.delete_bucket(Bucket=bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] != "NoSuchBucket":
                    raise


def _after_failure(running: Release | None) -> str:
    """Return which release runs after a failed deploy."""
    if running is None:
        return (
            "No release ran before this one, so it stays deployed. See: faceq deploy logs; or delete it: "
            "faceq deploy destroy"
        )
    return f"Release {running.number} runs again."


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
