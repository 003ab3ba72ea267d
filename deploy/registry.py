"""Pushing a local image to ECR, once, and naming it by its digest there.

The tag in the repository is made from the image's own id. So the same image is never pushed twice, and no tag ever has
to move, which an immutable repository would refuse. A deployed function names the image by the digest of its manifest,
and the manifest names the image's id.
"""

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from adapters.aws_errors import translated_aws_errors
from deploy.docker_engine import docker as docker_command
from pipeline.errors import FaceqError, SetupError, TransientError

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from docker import DockerClient
    from docker.models.images import Image

#: Media types of the manifests that Lambda takes: of a single image, not of an index of several.
#: (Lambda developer guide, "Create a Lambda function using a container image")
IMAGE_MANIFESTS: Final = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
_INDEXES: Final = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)
#: A push has failed after this many seconds without a message from the engine.
SILENCE_SECONDS: Final = 300
_OWNER: Final = re.compile(r"(\d{12})\.dkr\.ecr\.")
_NETWORK: Final = re.compile(
    r"dial tcp|connection re|timeout|timed out|EOF|no such host|broken pipe|network", re.IGNORECASE
)
_EXPIRED: Final = re.compile(r"token (has )?expired", re.IGNORECASE)
_REFUSED: Final = re.compile(r"denied|unauthorized|not authorized|no basic auth|forbidden", re.IGNORECASE)
_NO_REPOSITORY: Final = re.compile(r"name unknown|does not exist", re.IGNORECASE)


class PushProgress(Protocol):
    """Receives the progress of a push, layer by layer."""

    def __call__(self, layer: str, status: str, current: int, total: int) -> None:
        """Take the progress of one layer.

        Parameters
        ----------
        layer, status : str
            Docker's short id of the layer, and its status, such as `Pushing`.
        current, total : int
            Bytes; a total of 0 is unknown.

        """
        ...


@dataclass(frozen=True)
class PushedImage:
    """An image in ECR.

    Parameters
    ----------
    repository : str
        The repository's URI, `<account>.dkr.ecr.<region>.amazonaws.com/<name>`.
    digest : str
        Digest of the manifest, `sha256:` and 64 hex digits.

    """

    repository: str
    digest: str

    @property
    def uri(self) -> str:
        """The value of a function's `ImageUri`."""
        return f"{self.repository}@{self.digest}"


def known_digest(image: str, repository_uri: str, ecr: "BaseClient") -> str | None:
    """Return the digest of a local image in the repository; None if the repository does not have it.

    Raises
    ------
    SetupError
        There is no such local image, or no Docker engine.
    FaceqError
        AWS refuses the request.

    """
    with _engine() as client:
        return _digest_of(tag_of(str(_image(client, image).id)), repository_uri, ecr)


def push(image: str, repository_uri: str, ecr: "BaseClient", progress: PushProgress) -> PushedImage:
    """Push a local image unless the repository has it; verify that the image in the repository is this one.

    Parameters
    ----------
    image : str
        Its name or id in the Docker engine.
    repository_uri : str
        Output `RepositoryUri` of the base stack.
    ecr : botocore client
        For the repository's account and region. The registry's password comes from it and is kept in memory only.
    progress : PushProgress
        Called each time that a layer has made progress.

    Raises
    ------
    SetupError
        There is no such image or Docker engine, the registry refuses the image, or it has another image under the tag.
    TransientError
        The registry cannot be reached. Layers that it has by now are not pushed again.

    """
    with _engine() as client:
        local = _image(client, image)
        tag = tag_of(str(local.id))
        digest = _digest_of(tag, repository_uri, ecr)
        if digest is None:
            digest = _push(client, local, repository_uri, tag, ecr, progress)
        _verify(str(local.id), digest, repository_uri, ecr)
        return PushedImage(repository_uri, digest)


def tag_of(image_id: str) -> str:
    """Return the tag that an image has in the repository: the first 12 hex digits of its id."""
    return image_id.removeprefix("sha256:")[:12]


def _digest_of(tag: str, repository_uri: str, ecr: "BaseClient") -> str | None:
    from botocore.exceptions import ClientError

    with translated_aws_errors():
        try:
            response = ecr.describe_images(**_repository(repository_uri), imageIds=[{"imageTag": tag}])
        except ClientError as error:
            if error.response["Error"]["Code"] in ("ImageNotFoundException", "RepositoryNotFoundException"):
                return None
            raise
    return str(response["imageDetails"][0]["imageDigest"])


def _repository(uri: str) -> dict[str, str]:
    """Return the parameters with which ECR's calls name a repository, with the account if the URI has one."""
    host, _, name = uri.partition("/")
    owner = _OWNER.match(host)
    return {"repositoryName": name, **({"registryId": owner[1]} if owner else {})}


def _push(
    client: "DockerClient", local: "Image", repository_uri: str, tag: str, ecr: "BaseClient",
    progress: PushProgress,
) -> str:  # fmt: skip
    """Push under a local tag that exists only during the push; return the manifest's digest."""
    name = f"{repository_uri}:{tag}"
    other_names = [tag for tag in local.tags if tag != name]
    user, password = _password(ecr)
    local.tag(repository_uri, tag)
    try:
        messages = client.api.push(
            repository_uri, tag, stream=True, decode=True, auth_config={"username": user, "password": password}
        )
        digest = _digest_in(messages, repository_uri, progress)
    finally:
        # Removing its only name would delete the image.
        if other_names:
            client.api.remove_image(name, noprune=True)
    return digest


def _password(ecr: "BaseClient") -> tuple[str, str]:
    with translated_aws_errors():
        token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    return user, password


def _digest_in(messages: Iterable[Mapping[str, Any]], repository_uri: str, progress: PushProgress) -> str:
    """Follow the engine's messages about a push; return the digest in the last ones. Raises FaceqError if it fails."""
    digest = None
    for message in messages:
        if "error" in message:
            raise _push_error(" ".join(str(message["error"]).split()), repository_uri)
        if "id" in message:
            detail = message.get("progressDetail") or {}
            progress(message["id"], message["status"], detail.get("current", 0), detail.get("total", 0))
        digest = (message.get("aux") or {}).get("Digest", digest)
    if digest is None:
        raise SetupError("push", f"Docker pushed to {repository_uri} but reported no digest. Update Docker.")
    return str(digest)


def _push_error(reason: str, repository_uri: str) -> FaceqError:
    """Return the error for a reason that the engine or the registry gave, with what to do about it."""
    if _EXPIRED.search(reason):
        return SetupError("expired", f"The credentials expired while pushing ({reason}). Sign in again: aws sso login")
    if _NO_REPOSITORY.search(reason):
        return SetupError(
            "no_repository",
            f"There is no repository {repository_uri} ({reason}). Create it by running this again: faceq deploy",
        )
    if _REFUSED.search(reason):
        # Amazon ECR user guide, "Required IAM permissions for pushing an image"
        return SetupError(
            "push_refused",
            f"{repository_uri} does not accept the image ({reason}). Ask the administrator of the account for the "
            "permissions ecr:PutImage, ecr:InitiateLayerUpload, ecr:UploadLayerPart, ecr:CompleteLayerUpload and "
            "ecr:BatchCheckLayerAvailability.",
        )
    if _NETWORK.search(reason):
        return TransientError(
            "registry_unreachable",
            f"The registry cannot be reached ({reason}). Check the network and run the same command again; it does not "
            "push the finished layers again.",
        )
    return SetupError("push", f"Docker cannot push to {repository_uri}: {reason}")


def _verify(image_id: str, digest: str, repository_uri: str, ecr: "BaseClient") -> None:
    """Read the manifest from ECR: it must be the manifest of a single image, and name this image.

    An image's id in the engine is the digest of the image's configuration, which the manifest names. With Docker's
    containerd image store, the id is the digest of the manifest itself.
    """
    with translated_aws_errors():
        answer = ecr.batch_get_image(
            **_repository(repository_uri),
            imageIds=[{"imageDigest": digest}],
            acceptedMediaTypes=[*IMAGE_MANIFESTS, *_INDEXES],
        )
    if not answer["images"]:
        raise SetupError(
            "not_pushed", f"{repository_uri} has no image {digest} after the push. Run the same command again."
        )
    manifest = json.loads(answer["images"][0]["imageManifest"])
    kind = answer["images"][0].get("imageManifestMediaType") or manifest.get("mediaType", "")
    if kind not in IMAGE_MANIFESTS:
        raise SetupError(
            "not_plain",
            f"The image is an index of several images ({kind}), which Lambda does not take. Build it again: "
            "faceq image build",
        )
    if image_id not in (manifest["config"]["digest"], digest):
        raise SetupError(
            "other_image",
            f"{repository_uri}@{digest} is {manifest['config']['digest'][:19]}, not the local image {image_id[:19]}. "
            "Another image has its tag: delete that one with aws ecr batch-delete-image, and deploy again.",
        )


@contextmanager
def _engine() -> "Iterator[DockerClient]":
    """Connect to the engine that the command `docker` uses; turn errors into a FaceqError of one line."""
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    client = None
    try:
        client = _client()
        yield client
    except APIError as error:
        raise SetupError("engine", f"Docker says: {' '.join(str(error.explanation or error).split())}") from error
    except RequestException as error:
        raise TransientError(
            "engine", f"The Docker engine stopped answering ({error}). Run the same command again."
        ) from error
    except DockerException as error:
        raise SetupError("no_engine", f"The Docker engine is not running ({error}). Start Docker.") from error
    finally:
        if client is not None:
            client.close()


def _client() -> "DockerClient":
    """Return a client for the user's Docker context. The SDK by itself knows DOCKER_HOST only."""
    import docker

    host = ""
    if "DOCKER_HOST" not in os.environ:
        host = docker_command("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").stdout.strip()
    if not host:
        return docker.from_env(timeout=SILENCE_SECONDS)
    return docker.DockerClient(base_url=host, timeout=SILENCE_SECONDS, use_ssh_client=host.startswith("ssh:"))


def _image(client: "DockerClient", name: str) -> "Image":
    from docker.errors import ImageNotFound

    try:
        return client.images.get(name)
    except ImageNotFound:
        raise SetupError("no_image", f"There is no image {name}. Build it with: faceq image build") from None
