"""The models in the cache folder: which of them are installed, and where their files are.

Functions import this module when they start, so it needs the standard library only. `install` downloads and builds.

The folder contains `files/` with the published weights, which faceq downloaded or the user copied there, and a folder
for each model with its graphs and `manifest.json`. The manifest is written last: a model without one is not installed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Required, TypedDict

from adapters import atomic_file
from adapters.models.catalogue import AUTO, DLIB, VGGFACE2, KnownModel, check_dlib, model_id
from adapters.models.checksums import matches, sha256_of
from pipeline.errors import SetupError

#: The folder of MTCNN, the face detector that all recognisers share.
DETECTOR: Final = "detector"
FILES: Final = "files"
MANIFEST: Final = "manifest.json"
#: Version of what `install` builds. Increase it when the graphs, the manifest or the catalogue change: `install` then
#: rebuilds older models.
BUILDER: Final = 2
#: Permissions of the files in the folder: a container's user reads them too.
FILE_MODE: Final = 0o644

_DLIB_NOTE = "dlib is used because vggface2 is not installed; to install it, run: faceq models get vggface2"


class FileRecord(TypedDict):
    """One file of a model, as its manifest describes it; the path is relative to the cache."""

    path: str
    size: int
    sha256: str


class Manifest(TypedDict, total=False):
    """The content of a model's manifest. Only recognisers have preprocessing, dimensions, threshold and sha256."""

    builder: Required[int]
    id: Required[str]
    preprocessing: str
    dimensions: int
    threshold: float
    licence: str
    source: str
    sha256: str
    files: Required[dict[str, FileRecord]]


@dataclass(frozen=True)
class InstalledModel:
    """A recogniser that is ready to load.

    Parameters
    ----------
    id : str
        `vggface2`, `casia-webface`, `dlib`, `stand-in`, or `file-` and 8 hex digits of the weight file's SHA-256.
    preprocessing, dimensions, threshold
        As in `pipeline.ports.FaceEmbedder`.
    licence, source : str
        Of the weights.
    sha256 : str
        Of the weights, 64 hex digits; of the graph if the model has no weight file.
    files : Mapping of str to Path
        InceptionResnetV1: `onnx`, and `weights` (a .pt file; the stand-in has none). dlib: `recognition`, `landmarks`.
    note : str
        One line that says why `auto` did not choose vggface2 and what to do about it; empty if it did.

    """

    id: str
    preprocessing: str
    dimensions: int
    threshold: float
    licence: str
    source: str
    sha256: str
    files: Mapping[str, Path]
    note: str = ""


@dataclass(frozen=True)
class InstalledDetector:
    """MTCNN, ready to load.

    Parameters
    ----------
    folder : Path
    files : Mapping of str to Path
        The graphs `pnet`, `rnet` and `onet`, all in `folder`.

    """

    folder: Path
    files: Mapping[str, Path]


def installed_model(name: str, cache: Path) -> InstalledModel:
    """Find a model in the cache.

    Parameters
    ----------
    name : str
        An id, the path of a weight file that was installed, or `auto`: vggface2 if it is installed, otherwise dlib.
    cache : Path

    Raises
    ------
    SetupError
        The model is not installed or is damaged; the message names the command that repairs it.

    """
    if name == AUTO:
        for choice in (VGGFACE2, DLIB):
            if (cache / choice / MANIFEST).exists():
                return replace(installed_model(choice, cache), note="" if choice == VGGFACE2 else _DLIB_NOTE)
        raise SetupError("not_installed", "No model is installed. Run: faceq models get")
    model = model_id(name)
    if model == DLIB:
        check_dlib()
    manifest = read_manifest(model, cache)
    try:
        return InstalledModel(
            id=manifest["id"],
            preprocessing=manifest["preprocessing"],
            dimensions=manifest["dimensions"],
            threshold=manifest["threshold"],
            licence=manifest["licence"],
            source=manifest["source"],
            sha256=manifest["sha256"],
            files=_paths(manifest, cache),
        )
    except KeyError:
        raise _broken(model) from None


def installed_detector(cache: Path) -> InstalledDetector:
    """Find MTCNN in the cache. Raises SetupError if it is not installed or is damaged."""
    return InstalledDetector(cache / DETECTOR, _paths(read_manifest(DETECTOR, cache), cache))


def is_intact(model: str, cache: Path) -> bool:
    """Read every byte of an installed model, or of `DETECTOR`; return whether its files have the manifest's SHA-256.

    Raises SetupError if it is not installed.
    """
    try:
        files = read_manifest(model, cache)["files"].values()
        return all(matches(cache / file["path"], file["size"], file["sha256"]) for file in files)
    except KeyError:  # a manifest without hashes
        return False


def write_manifest(model: str, facts: Mapping[str, str | int | float], files: Mapping[str, Path], cache: Path) -> None:
    """Record a model as installed, after all its files.

    Parameters
    ----------
    model : str
        The model's id, or `DETECTOR`.
    facts : Mapping
        What the manifest says about the model; see `recogniser_facts`.
    files : Mapping of str to Path
        The files to load, all in `cache`.
    cache : Path

    """
    records = {
        key: {"path": path.relative_to(cache).as_posix(), "size": path.stat().st_size, "sha256": sha256_of(path)}
        for key, path in files.items()
    }
    manifest = {"builder": BUILDER, "id": model, **facts, "files": records}
    write_file(cache / model / MANIFEST, f"{json.dumps(manifest, indent=2)}\n".encode())


def recogniser_facts(known: KnownModel, weights: Path) -> dict[str, str | int | float]:
    """Return what a recogniser's manifest says about it."""
    return {
        "preprocessing": known.preprocessing,
        "dimensions": known.dimensions,
        "threshold": known.threshold,
        "licence": known.licence,
        "source": known.source,
        "sha256": sha256_of(weights),
    }


def write_file(path: Path, content: bytes) -> None:
    """Write a file of the cache atomically."""
    atomic_file.write(path, content, mode=FILE_MODE)


def read_manifest(model: str, cache: Path) -> Manifest:
    """Return the manifest of a model or of `DETECTOR` whose files exist and have the right size.

    Raises SetupError if there is none.
    """
    try:
        manifest: Manifest = json.loads((cache / model / MANIFEST).read_text("utf-8"))
        if manifest["builder"] != BUILDER:
            raise SetupError(
                "older_model", f"Another version of faceq built the model '{model}'. Run: {_command(model)}"
            )
        if any((cache / file["path"]).stat().st_size != file["size"] for file in manifest["files"].values()):
            raise _broken(model)
    except FileNotFoundError:
        if (cache / model / MANIFEST).exists():
            raise _broken(model) from None
        raise SetupError("not_installed", f"The model '{model}' is not installed. Run: {_command(model)}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _broken(model) from error
    return manifest


def _paths(manifest: Manifest, cache: Path) -> Mapping[str, Path]:
    return MappingProxyType({key: cache / file["path"] for key, file in manifest["files"].items()})


def _broken(model: str) -> SetupError:
    return SetupError("broken_model", f"Files of the model '{model}' are damaged or missing. Run: {_command(model)}")


def _command(model: str) -> str:
    """Return the command that repairs a model; installing any model also repairs the detector."""
    return "faceq models get" if model == DETECTOR else f"faceq models get {model}"
