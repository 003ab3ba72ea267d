"""The models in the cache folder: what there is, and where its files are.

Functions import this when they start, so it needs the standard library only; fetching and building are in `install`.

The folder holds `files/`, the published weights as they were fetched or brought, and a folder for each model with its
graphs and `manifest.json`, which is written last: a model without it is not installed.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from pipeline.errors import SetupError

#: Called with a file's name, the bytes that are there, and the bytes that there will be.
Progress: TypeAlias = Callable[[str, int, int], None]

AUTO: Final = "auto"
VGGFACE2: Final = "vggface2"
CASIA_WEBFACE: Final = "casia-webface"
DLIB: Final = "dlib"
STAND_IN: Final = "stand-in"
DETECTOR: Final = "detector"
FILES: Final = "files"
MANIFEST: Final = "manifest.json"
#: Raised with every change to the graphs, the manifest or the catalogue: `get` makes again what another one made.
BUILDER: Final = 2

_DLIB_NOTE = "dlib is used, for vggface2 is not installed; to change that, run: faceq models get vggface2"
_FILE_ID = re.compile("file-[0-9a-f]{8}")


@dataclass(frozen=True)
class KnownModel:
    """What is known of a recogniser before it is fetched.

    Parameters
    ----------
    preprocessing : str
        A key of `pipeline.embed.PREPROCESSINGS`.
    dimensions : int
        Length of a vector.
    threshold : float
        Euclidean distance beyond which a face is nobody we know.
    download_bytes : int
        Size of what is fetched.

    """

    id: str
    preprocessing: str
    dimensions: int
    threshold: float
    licence: str
    source: str
    download_bytes: int
    description: str


_RELEASE = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9"

#: Thresholds, for one person against many, where a wrong name costs more than an `Unknown`:
#:
#: vggface2: of 50 photos of 8 people the same person's are at most 0.682 apart, other people's at least 0.718, and
#: strangers who look alike 0.78; the thresholds about 1.04 to 1.18 that other projects publish for these weights are
#: for one against one, and let 4 to 17 of 100 pairs of strangers pass.
#: casia-webface: the most alike strangers of facenet-pytorch's test table are 0.993 apart, for vggface2 0.886; raised
#: by less than that ratio, since its own accuracy is lower.
#: dlib: its author publishes 0.6 for one against one; against 14 photos of 6 people, 3 of 46 strangers' faces come
#: within that and 1 within 0.5. Own photos are at most 0.28 apart there.
#: stand-in: one crop at two JPEG qualities is at most 0.05 apart, moved by two pixels 0.06, another face 0.7.
CATALOGUE: Final[Mapping[str, KnownModel]] = MappingProxyType(
    {
        model.id: model
        for model in (
            KnownModel(
                id=VGGFACE2,
                preprocessing="facenet-160",
                dimensions=512,
                threshold=0.7,
                licence="MIT",
                source=f"{_RELEASE}/20180402-114759-vggface2.pt",
                download_bytes=111_898_327,
                description="FaceNet trained on VGGFace2",
            ),
            KnownModel(
                id=CASIA_WEBFACE,
                preprocessing="facenet-160",
                dimensions=512,
                threshold=0.75,
                licence="MIT",
                source=f"{_RELEASE}/20180408-102900-casia-webface.pt",
                download_bytes=115_887_415,
                description="FaceNet trained on CASIA-WebFace",
            ),
            KnownModel(
                id=DLIB,
                preprocessing="dlib-160",
                dimensions=128,
                threshold=0.5,
                licence="CC0-1.0",
                source="face-recognition-models 0.3.0 on the Python package index",
                download_bytes=100_149_358,
                description="dlib's ResNet; needs faceq[dlib]",
            ),
            KnownModel(
                id=STAND_IN,
                preprocessing="facenet-160",
                dimensions=512,
                threshold=0.1,
                licence="MIT",
                source="random numbers of a fixed seed",
                download_bytes=0,
                description="random weights, for tests only",
            ),
        )
    }
)


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


def installed(name: str, cache: Path) -> InstalledModel:
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
                return replace(installed(choice, cache), note="" if choice == VGGFACE2 else _DLIB_NOTE)
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


def get(
    name: str, cache: Path, progress: Progress | None = None, on_wait: Callable[[], None] | None = None
) -> InstalledModel:
    """Fetch, verify and build a model and the detector, as far as they are not in the cache.

    `auto` keeps the model that is installed; where there is none it is vggface2, or dlib if vggface2 cannot be
    fetched: `note` says why. Safe to call from several processes.

    Parameters
    ----------
    name : str
        An id, `auto`, or the path of a .pt or .pth file with the weights of facenet-pytorch's InceptionResnetV1.
    cache : Path
    progress : callable, optional
        Told how far a download is.
    on_wait : callable, optional
        Called once if another process gets into this folder, before waiting until it is done.

    Raises
    ------
    SetupError
        With what to do about it.

    """
    from adapters.models.install import install  # onnx, NumPy and requests are for set-up only

    return install(name, cache, progress, on_wait)


def model_id(name: str) -> str:
    """Return the id that a model's name or weight file stands for. Raises SetupError if there is none such."""
    if name in CATALOGUE or _FILE_ID.fullmatch(name):
        return name
    if not name.endswith((".pt", ".pth")):
        raise SetupError(
            "unknown_model",
            f"There is no model {name!r}. Take one of {', '.join(CATALOGUE)}, or the path of a .pt or .pth file.",
        )
    try:
        with Path(name).open("rb") as file:
            return f"file-{hashlib.file_digest(file, 'sha256').hexdigest()[:8]}"
    except OSError as error:
        raise SetupError("not_readable", f"The weights {name} cannot be read: {error.strerror}.") from error


def check_dlib() -> None:
    """Raise SetupError if the Python module that runs dlib's models is missing."""
    if find_spec("dlib") is None:
        raise SetupError("no_dlib", "The model 'dlib' needs a package. Run: pip install '.[dlib]'")


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
