"""Bringing a local image into ECR, once, and naming it by the digest under which it lies there.

The tag comes from the image's own id, so the same image never has to be pushed twice and a tag never has to move: the
repository is immutable. What then runs is named by the manifest's digest, and the manifest names the image's id.
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

#: What Lambda takes: one image, no index of several.
#: (Lambda developer guide, "Create a Lambda function using a container image")
PLAIN: Final = ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json")
_INDEXES: Final = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)
#: Seconds without a word from the engine after which a push has failed.
SILENCE_SECONDS: Final = 300
_OWNER: Final = re.compile(r"(\d{12})\.dkr\.ecr\.")
_NETWORK: Final = re.compile(
    r"dial tcp|connection re|timeout|timed out|EOF|no such host|broken pipe|network", re.IGNORECASE
)
_EXPIRED: Final = re.compile(r"token (has )?expired", re.IGNORECASE)
_REFUSED: Final = re.compile(r"denied|unauthorized|not authorized|no basic auth|forbidden", re.IGNORECASE)
_NO_REPOSITORY: Final = re.compile(r"name unknown|does not exist", re.IGNORECASE)


class Progress(Protocol):
    """Is told how far the push of a layer is."""

    def __call__(self, layer: str, status: str, current: int, total: int) -> None:
        """Take Docker's id and word for the layer, and bytes; a total of 0 is not known."""
        ...


@dataclass(frozen=True)
class Pushed:
    """Where an image lies in ECR.

    Parameters
    ----------
    repository : str
        The repository's URI, `<account>.dkr.ecr.<region>.amazonaws.com/<name>`.
    tag : str
        First 12 hex digits of the image's id.
    digest : str
        Of the manifest, `sha256:` and 64 hex digits.
    already_there : bool
        True if nothing was pushed.

    """

    repository: str
    tag: str
    digest: str
    already_there: bool

    @property
    def uri(self) -> str:
        """What a function's `ImageUri` is."""
        return f"{self.repository}@{self.digest}"


def known_digest(image: str, repository_uri: str, ecr: "BaseClient") -> str | None:
    """Return the digest under which a local image lies in the repository, None if it is not there.

    Raises
    ------
    SetupError
        There is no such local image, or no engine.
    FaceqError
        As `adapters.aws_errors.to_faceq_error` makes it.

    """
    with _engine() as client:
        return _digest_of(tag_of(str(_image(client, image).id)), repository_uri, ecr)


def push(image: str, repository_uri: str, ecr: "BaseClient", progress: Progress) -> Pushed:
    """Push a local image, unless it is there; prove that what is there is this image.

    Parameters
    ----------
    image : str
        Its name or id in the engine.
    repository_uri : str
        `Repository.RepositoryUri` of the base stack.
    ecr : botocore client
        Of the repository's account and region. The registry's password is asked of it, and is kept in memory only.
    progress : Progress
        Told each time that a layer has come further.

    Raises
    ------
    SetupError
        There is no such image or engine, the registry refuses, or what lies there is not this image.
    TransientError
        The registry cannot be reached. What has been pushed so far is not pushed again.

    """
    with _engine() as client:
        local = _image(client, image)
        tag = tag_of(str(local.id))
        digest = _digest_of(tag, repository_uri, ecr)
        already_there = digest is not None
        if digest is None:
            digest = _pushed(client, local, repository_uri, tag, ecr, progress)
        _prove(str(local.id), digest, repository_uri, ecr)
        return Pushed(repository_uri, tag, digest, already_there)


def tag_of(image_id: str) -> str:
    """Return the tag that an image has in the repository: the first 12 hex digits of its id."""
    return image_id.removeprefix("sha256:")[:12]


def _digest_of(tag: str, repository_uri: str, ecr: "BaseClient") -> str | None:
    from botocore.exceptions import ClientError

    with translated_aws_errors():
        try:
            found = ecr.describe_images(**_repository(repository_uri), imageIds=[{"imageTag": tag}])["imageDetails"]
        except ClientError as error:
            if error.response["Error"]["Code"] in ("ImageNotFoundException", "RepositoryNotFoundException"):
                return None
            raise
    return str(found[0]["imageDigest"])


def _repository(uri: str) -> dict[str, str]:
    """Return what ECR's calls name a repository by; with the account where the URI has one."""
    host, _, name = uri.partition("/")
    owner = _OWNER.match(host)
    return {"repositoryName": name, **({"registryId": owner[1]} if owner else {})}


def _pushed(
    client: "DockerClient", local: "Image", repository_uri: str, tag: str, ecr: "BaseClient",
    progress: Progress,
) -> str:  # fmt: skip
    """Push under a tag that is there for as long as the push takes; return the manifest's digest."""
    name = f"{repository_uri}:{tag}"
    others = [one for one in local.tags if one != name]
    user, password = _password(ecr)
    local.tag(repository_uri, tag)
    try:
        said = client.api.push(
            repository_uri, tag, stream=True, decode=True, auth_config={"username": user, "password": password}
        )
        digest = _digest_in(said, repository_uri, progress)
    finally:
        # Without another name the image would go with this one.
        if others:
            client.api.remove_image(name, noprune=True)
    return digest


def _password(ecr: "BaseClient") -> tuple[str, str]:
    with translated_aws_errors():
        token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    return user, password


def _digest_in(said: Iterable[Mapping[str, Any]], repository_uri: str, progress: Progress) -> str:
    """Follow what the engine says of a push; return the digest it ends with. Raises FaceqError if it fails."""
    digest = None
    for line in said:
        if "error" in line:
            raise _refusal(" ".join(str(line["error"]).split()), repository_uri)
        if "id" in line:
            bytes_done = line.get("progressDetail") or {}
            progress(line["id"], line["status"], bytes_done.get("current", 0), bytes_done.get("total", 0))
        digest = (line.get("aux") or {}).get("Digest", digest)
    if digest is None:
        raise SetupError("push", f"Docker pushed to {repository_uri} and named no digest. Update Docker.")
    return str(digest)


def _refusal(words: str, repository_uri: str) -> FaceqError:
    """Say what to do about an error of the engine or the registry."""
    if _EXPIRED.search(words):
        return SetupError("expired", f"The credentials expired while pushing ({words}). Sign in again: aws sso login")
    if _NO_REPOSITORY.search(words):
        return SetupError(
            "no_repository", f"There is no repository {repository_uri} ({words}). faceq deploy makes it: run it again."
        )
    if _REFUSED.search(words):
        return SetupError(
            "push_refused",
            f"{repository_uri} does not take the image ({words}). Ask who administers the account for the actions "
            "ecr:PutImage and those of layers; docs/operations.md lists them.",
        )
    if _NETWORK.search(words):
        return TransientError(
            "registry_unreachable",
            f"The registry cannot be reached ({words}). Check the network and run the same command again; layers that "
            "are there are not pushed again.",
        )
    return SetupError("push", f"Docker cannot push to {repository_uri}: {words}")


def _prove(image_id: str, digest: str, repository_uri: str, ecr: "BaseClient") -> None:
    """Read the manifest back from ECR: it must be a plain one, and name this image.

    An engine's image id is the digest of the image's configuration, which a plain manifest names; with Docker's
    containerd image store it is the manifest's own digest.
    """
    with translated_aws_errors():
        answer = ecr.batch_get_image(
            **_repository(repository_uri), imageIds=[{"imageDigest": digest}], acceptedMediaTypes=[*PLAIN, *_INDEXES]
        )
    if not answer["images"]:
        raise SetupError(
            "not_pushed", f"{repository_uri} has no image {digest} after the push. Run the same command again."
        )
    manifest = json.loads(answer["images"][0]["imageManifest"])
    kind = answer["images"][0].get("imageManifestMediaType") or manifest.get("mediaType", "")
    if kind not in PLAIN:
        raise SetupError(
            "not_plain",
            f"The image is an index of several ({kind}), which Lambda does not take. Build it again: faceq image build",
        )
    if image_id not in (manifest["config"]["digest"], digest):
        raise SetupError(
            "other_image",
            f"{repository_uri}@{digest} is {manifest['config']['digest'][:19]}, not the local image {image_id[:19]}. "
            "Somebody pushed another under its tag: remove that with aws ecr batch-delete-image, and deploy again.",
        )


@contextmanager
def _engine() -> "Iterator[DockerClient]":
    """Talk to the engine that the command `docker` talks to; turn what goes wrong into a FaceqError of one line."""
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
            "engine", f"The Docker engine stopped answering ({error}). Run the command again."
        ) from error
    except DockerException as error:
        raise SetupError("no_engine", f"The Docker engine does not run ({error}). Start Docker.") from error
    finally:
        if client is not None:
            client.close()


def _client() -> "DockerClient":
    """Return a client for the person's context. The SDK by itself knows DOCKER_HOST only."""
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
        raise SetupError("no_image", f"There is no image {name}. Build it: faceq image build") from None
