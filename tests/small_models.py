"""A cache of models for tests that never run a network: the detector and dlib are files of a few bytes."""

import hashlib
from pathlib import Path

import pytest

from adapters.models.catalogue import CATALOGUE, VGGFACE2
from adapters.models.installed import DETECTOR, FILES, recogniser_facts, write_manifest
from adapters.models.published import Package, PinnedFile, Sources
from tests.file_server import FileServer

RECOGNITION, LANDMARKS = b"recognition", b"landmarks"


def pinned(path: str, content: bytes) -> PinnedFile:
    """Return a published file with this content."""
    return PinnedFile(path, len(content), hashlib.sha256(content).hexdigest())


#: dlib's files are small, in a package that no index has, so that they must be in the cache already.
SOURCES = Sources(
    dlib=Package(
        "none-such", "1", "0" * 64, (pinned("recognition.dat", RECOGNITION), pinned("landmarks.dat", LANDMARKS))
    )
)


def vggface2_from(server: FileServer, content: bytes = b"weights") -> Sources:
    """Return sources of which vggface2 has this content and is published by this server."""
    return Sources(dlib=SOURCES.dlib, releases={**SOURCES.releases, VGGFACE2: pinned(server.url, content)})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with an installed detector and the files of dlib; pip has no index."""
    folder = tmp_path / "models"
    (folder / FILES).mkdir(parents=True)
    (folder / FILES / "recognition.dat").write_bytes(RECOGNITION)
    (folder / FILES / "landmarks.dat").write_bytes(LANDMARKS)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    install_content(DETECTOR, folder, pnet=b"p", rnet=b"r", onet=b"o")
    return folder


def install_content(model: str, cache: Path, **files: bytes) -> None:
    """Install a model that consists of files with any content."""
    (cache / model).mkdir()
    paths = {key: cache / model / f"{key}.onnx" for key in files}
    for key, path in paths.items():
        path.write_bytes(files[key])
    known = CATALOGUE.get(model)
    facts = recogniser_facts(known, next(iter(paths.values()))) if known else {"licence": "MIT", "source": "a test"}
    write_manifest(model, facts, paths, cache)
