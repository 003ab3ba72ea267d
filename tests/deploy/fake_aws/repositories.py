"""ECR, whose repositories are those of a real registry."""

import json
import shutil
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ecr.models import ECRBackend, Image, Repository
from moto.ecr.responses import ECRResponse

from tests.deploy.fake_aws.controls import CONTROLS

#: Media types of the manifests that a push may create: of an image, or of an index of several.
MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.index.v1+json"
)


def _registry(method: str, path: str) -> tuple[int, Mapping[str, str], bytes]:
    connection = HTTPConnection(CONTROLS.storage, timeout=30)
    try:
        connection.request(method, path, headers={"Accept": MANIFESTS})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def sync(repository: Repository) -> None:
    """Add the images that were pushed to the registry to a repository of moto's."""
    if not CONTROLS.storage:
        return
    status, _, body = _registry("GET", f"/v2/{repository.name}/tags/list")
    tags = json.loads(body).get("tags") or [] if status == 200 else []
    known = {tag for image in repository.images for tag in image.image_tags}
    for tag in set(tags) - known:
        status, headers, manifest = _registry("GET", f"/v2/{repository.name}/manifests/{tag}")
        if status == 200:
            media_type = {name.lower(): value for name, value in headers.items()}["content-type"]
            digest = {name.lower(): value for name, value in headers.items()}["docker-content-digest"]
            image = Image(repository.account_id, tag, manifest.decode(), repository.name, media_type, digest)
            repository.images.append(image)


def forget(repository: str) -> None:
    """Delete the pushed images of a repository, or of all (""). The registry keeps nothing in memory."""
    if CONTROLS.folder:
        shutil.rmtree(Path(CONTROLS.folder) / "docker/registry/v2/repositories" / repository, ignore_errors=True)


def _image_bytes(image: Image) -> int:
    """Return the size that ECR reports: that of the compressed layers."""
    manifest = json.loads(image.image_manifest)
    return sum(layer.get("size", 0) for layer in manifest.get("layers", []))


def _get_authorization_token(self: ECRResponse) -> ActionResult:
    return ActionResult(
        {
            "authorizationData": [
                {
                    "authorizationToken": CONTROLS.token,
                    "expiresAt": utcnow(),
                    "proxyEndpoint": f"https://{CONTROLS.registry}"
                    if CONTROLS.registry
                    else f"https://{self.current_account}.dkr.ecr.{self.region}.amazonaws.com",
                }
            ]
        }
    )


def install() -> None:
    """Replace moto's functions with those of this module."""
    ECRResponse.get_authorization_token = _get_authorization_token
    Image.get_image_size_in_bytes = _image_bytes
    get_repository, batch_get_image, list_images = (
        ECRBackend._get_repository, ECRBackend.batch_get_image, ECRBackend.list_images,
    )  # fmt: skip
    initialise = Repository.__init__

    def initialise_with_uri(self: Repository, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        self.empty_on_delete = False
        if CONTROLS.registry:
            self.uri = f"{CONTROLS.registry}/{self.name}"

    def get_synchronised_repository(self: ECRBackend, *args: Any, **kwargs: Any) -> Repository:
        repository = get_repository(self, *args, **kwargs)
        sync(repository)
        return repository

    def batch_get_synchronised_images(self: ECRBackend, repository_name: str, *args: Any, **kwargs: Any) -> Any:
        _sync_all(self)
        return batch_get_image(self, repository_name, *args, **kwargs)

    def list_synchronised_images(self: ECRBackend, repository_name: str, *args: Any, **kwargs: Any) -> Any:
        _sync_all(self)
        return list_images(self, repository_name, *args, **kwargs)

    Repository.__init__ = initialise_with_uri
    ECRBackend._get_repository = get_synchronised_repository
    ECRBackend.batch_get_image = batch_get_synchronised_images
    ECRBackend.list_images = list_synchronised_images


def _sync_all(backend: ECRBackend) -> None:
    for repository in backend.repositories.values():
        sync(repository)
