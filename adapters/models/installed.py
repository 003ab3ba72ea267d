"""The models in the cache folder: which of them are installed, and where their files are.

Functions import this when they start, so it needs the standard library only; fetching and building are in `install`.

The folder holds `files/`, the published weights as they were fetched or brought, and a folder for each model with its
graphs and `manifest.json`, which is written last: a model without it is not installed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from adapters.models.catalogue import AUTO, DLIB, VGGFACE2, check_dlib, model_id
from pipeline.errors import SetupError

DETECTOR: Final = "detector"
FILES: Final = "files"
MANIFEST: Final = "manifest.json"
#: Raised with every change to the graphs, the manifest or the catalogue: `get` makes again what another one made.
BUILDER: Final = 2

_DLIB_NOTE = "dlib is used, for vggface2 is not installed; to change that, run: faceq models get vggface2"


@dataclass(frozen=True)
class InstalledModel:
    """A recogniser that is ready to load.

    Parameters
    ----------
    id : str
        `vggface2`, `casia-webface`, `dlib`, `stand-in`, or `file-` and 8 hex digits of the file's SHA-256.
    preprocessing, dimensions, threshold
        As `pipeline.ports.FaceEmbedder` says.
    licence, source : str
        Of the weights.
    sha256 : str
        Of the weights, 64 hex digits; of the graph where there is no weight file.
    files : Mapping of str to Path
        InceptionResnetV1: `onnx`, and `weights` (a .pt file; the stand-in has none). dlib: `recognition`, `landmarks`.
    note : str
        Why `auto` is not vggface2, and what to do about it, in one line; else empty.

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
    """MTCNN, ready to load: `files` holds the graphs `pnet`, `rnet` and `onet`, all in `folder`."""

    folder: Path
    files: Mapping[str, Path]


def installed_model(name: str, cache: Path) -> InstalledModel:
    """Find a model in the cache.

    Parameters
    ----------
    name : str
        An id, the path of a weight file that `get` was given, or `auto`: vggface2 if it is installed, else dlib.
    cache : Path

    Raises
    ------
    SetupError
        It is not installed, or not whole; the message names the command that mends it.

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
    """Find MTCNN in the cache. Raises SetupError if it is not installed or not whole."""
    return InstalledDetector(cache / DETECTOR, _paths(read_manifest(DETECTOR, cache), cache))


def read_manifest(model: str, cache: Path) -> dict[str, Any]:
    """Return a manifest whose files are there in their size. Raises SetupError if there is none."""
    try:
        manifest = json.loads((cache / model / MANIFEST).read_text("utf-8"))
        if manifest["builder"] != BUILDER:
            raise SetupError("older_model", f"The model '{model}' was made by another version. Run: {_command(model)}")
        if any((cache / file["path"]).stat().st_size != file["size"] for file in manifest["files"].values()):
            raise _broken(model)
    except FileNotFoundError:
        if (cache / model / MANIFEST).exists():
            raise _broken(model) from None
        raise SetupError("not_installed", f"The model '{model}' is not installed. Run: {_command(model)}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _broken(model) from error
    return manifest  # type: ignore[no-any-return]


def _paths(manifest: dict[str, Any], cache: Path) -> Mapping[str, Path]:
    return MappingProxyType({key: cache / file["path"] for key, file in manifest["files"].items()})


def _broken(model: str) -> SetupError:
    return SetupError("broken_model", f"The files of the model '{model}' are not whole. Run: {_command(model)}")


def _command(model: str) -> str:
    """Return what mends a model; each `get` also mends the detector."""
    return "faceq models get" if model == DETECTOR else f"faceq models get {model}"
