"""Putting a model into the cache: fetch, verify, build the graphs, write the manifest last."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, Literal

from adapters import atomic_file, file_lock
from adapters.models.catalogue import (
    AUTO,
    CASIA_WEBFACE,
    CATALOGUE,
    DLIB,
    STAND_IN,
    VGGFACE2,
    KnownModel,
    check_dlib,
    model_id,
)
from adapters.models.fetch import (
    FACE_RECOGNITION_MODELS,
    FACENET_PYTORCH,
    FILE_MODE,
    PinnedFile,
    Progress,
    difference,
    digest,
    download,
    is_whole,
    package_files,
)
from adapters.models.installed import (
    BUILDER,
    DETECTOR,
    FILES,
    MANIFEST,
    InstalledModel,
    installed_detector,
    installed_model,
    read_manifest,
)
from pipeline.errors import SetupError

_LOCK: Final = ".lock"
#: The detector's, in the order of the package's files.
_NETWORKS: Final[tuple[Literal["pnet", "rnet", "onet"], ...]] = ("pnet", "rnet", "onet")
#: facenet-pytorch publishes no checksums. These, and the sizes, are what other projects found and pin for the same
#: release files (the first in eight repositories, the second in one, whose size is right to the byte for the first
#: file's with 10,575 people instead of 8,631); a file that differs is refused.
RELEASE_FILES: Final = {
    VGGFACE2: PinnedFile(
        CATALOGUE[VGGFACE2].source,
        CATALOGUE[VGGFACE2].download_bytes,
        "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
    ),
    CASIA_WEBFACE: PinnedFile(
        CATALOGUE[CASIA_WEBFACE].source,
        CATALOGUE[CASIA_WEBFACE].download_bytes,
        "7a67afdbbc995fce5e10128675e318799a70698c2f433ba75dd7eb9a2f096e7d",
    ),
}


def install(
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
    report = progress or (lambda _name, _done, _total: None)
    try:
        with _alone(cache, on_wait):
            _ensure(DETECTOR, cache, lambda: _make_detector(cache))
            return _auto(cache, report) if name == AUTO else _model(name, cache, report)
    except OSError as error:
        raise SetupError(
            "not_writable", f"The models' folder {cache} cannot be written: {error.strerror or error}."
        ) from error


def _auto(cache: Path, progress: Progress) -> InstalledModel:
    """Keep what is there, for a gallery fits one model only; else vggface2 if it can be fetched, else dlib."""
    for choice in (VGGFACE2, DLIB):
        if (cache / choice / MANIFEST).exists():
            _model(choice, cache, progress)
            return installed_model(AUTO, cache)
    try:
        return _model(VGGFACE2, cache, progress)
    except SetupError as error:
        if error.code not in ("cannot_download", "wrong_file"):
            raise
        unreachable = error
    try:
        return replace(_model(DLIB, cache, progress), note=f"dlib is used, for vggface2 is out of reach: {unreachable}")
    except SetupError as error:
        raise SetupError(error.code, f"{unreachable} Or take dlib: {error}") from error


def _model(name: str, cache: Path, progress: Progress) -> InstalledModel:
    model = model_id(name)
    if model == DLIB:
        check_dlib()
        _ensure(model, cache, lambda: _make_dlib(cache))
    elif model == STAND_IN:
        _ensure(model, cache, lambda: _make_stand_in(cache))
    elif model in RELEASE_FILES:
        _ensure(model, cache, lambda: _make_facenet(model, _fetch_release(model, cache, progress), cache))
    else:
        _ensure(model, cache, lambda: _make_from_file(model, name, cache))
    return installed_model(model, cache)


def _ensure(model: str, cache: Path, make: Callable[[], None]) -> None:
    """Make a model unless it is there, of this version, and every byte of it right."""
    try:
        _ = installed_detector(cache) if model == DETECTOR else installed_model(model, cache)
        if is_right(model, cache):
            return
    except SetupError:  # not installed
        pass
    (cache / model / MANIFEST).unlink(missing_ok=True)
    make()


def bundle(name: str, cache: Path, engine: str, folder: Path) -> InstalledModel:
    """Copy what a function needs of a model and of the detector into `folder`, which then serves as a cache.

    Parameters
    ----------
    name : str
        An installed model, as `adapters.models.installed` takes it.
    cache : Path
    engine : str
        `onnx` leaves out the published weights, `torch` the graph that was made of them.
    folder : Path
        Made if it is not there.

    Raises
    ------
    SetupError
        The model is not installed, or the engine has no weights of it to load.

    """
    model = installed_model(name, cache)
    installed_detector(cache)
    unused = {"onnx": "weights", "torch": "onnx"}[engine]
    if model.files.keys() == {unused}:
        raise SetupError("no_weights", f"The engine {engine} cannot load the model '{model.id}': take another one.")
    for kept in (DETECTOR, model.id):
        manifest = read_manifest(kept, cache)
        manifest["files"].pop(unused, None)
        for file in manifest["files"].values():
            _write(folder / file["path"], (cache / file["path"]).read_bytes())
        _write(folder / kept / MANIFEST, f"{json.dumps(manifest, indent=2)}\n".encode())
    return installed_model(model.id, folder)


def is_right(model: str, cache: Path) -> bool:
    """Return whether each file of an installed model, or of `DETECTOR`, has the SHA-256 that its manifest tells.

    Raises SetupError if it is not installed.
    """
    try:
        files = read_manifest(model, cache)["files"].values()
        return all(is_whole(cache / file["path"], file["size"], file["sha256"]) for file in files)
    except KeyError:  # a manifest without hashes
        return False


def _make_detector(cache: Path) -> None:
    from adapters.models import mtcnn_graph
    from adapters.models.weights import read

    weights = package_files(FACENET_PYTORCH, cache)
    graphs: dict[str, Path] = {}
    for network, path in zip(_NETWORKS, weights, strict=True):
        graphs[network] = cache / DETECTOR / f"{network}.onnx"
        _write(graphs[network], mtcnn_graph.build(network, read(path)).SerializeToString())
    about = {"source": f"{FACENET_PYTORCH.name} {FACENET_PYTORCH.version}", "licence": "MIT"}
    _write_manifest(DETECTOR, about, graphs, cache)


def _make_facenet(model: str, weights: Path, cache: Path, source: str | None = None) -> None:
    from adapters.models import facenet_graph
    from adapters.models.weights import read

    graph = cache / model / "embedder.onnx"
    _write(graph, facenet_graph.build(read(weights)).SerializeToString())
    known = CATALOGUE.get(model) or replace(CATALOGUE[VGGFACE2], id=model, licence="unknown", source=source or "")
    _write_manifest(model, _about(known, weights), {"onnx": graph, "weights": weights}, cache)


def _make_from_file(model: str, name: str, cache: Path) -> None:
    weights = cache / FILES / f"{model}.pt"
    if name != model:
        _write(weights, Path(name).read_bytes())
    elif not weights.exists():
        raise SetupError("not_installed", f"The weights of {model} are gone. Run: faceq models get FILE.pt")
    _make_facenet(model, weights, cache, source=Path(name).name)


def _make_stand_in(cache: Path) -> None:
    from adapters.models import facenet_graph

    graph = cache / STAND_IN / "embedder.onnx"
    _write(graph, facenet_graph.build(facenet_graph.stand_in_weights()).SerializeToString())
    _write_manifest(STAND_IN, _about(CATALOGUE[STAND_IN], graph), {"onnx": graph}, cache)


def _make_dlib(cache: Path) -> None:
    recognition, landmarks = package_files(FACE_RECOGNITION_MODELS, cache)
    files = {"recognition": recognition, "landmarks": landmarks}
    _write_manifest(DLIB, _about(CATALOGUE[DLIB], recognition), files, cache)


def _fetch_release(model: str, cache: Path, progress: Progress) -> Path:
    file = RELEASE_FILES[model]
    target = cache / FILES / file.name
    try:
        download(file, target, progress)
    except SetupError as error:
        there = ""
        if target.exists():
            how = difference(target.stat().st_size, digest(target), file)
            there = f" (the file that lies there is another one: {how})"
        raise SetupError(
            error.code,
            f"{error}. Bring {file.path} ({file.size:,} bytes) into {cache / FILES}{there}, "
            f"then run: faceq models get {model}",
        ) from error
    return target


def _about(known: KnownModel, weights: Path) -> dict[str, str | int | float]:
    fields = asdict(known)
    del fields["download_bytes"], fields["description"]
    return fields | {"sha256": digest(weights)}


def _write_manifest(model: str, about: Mapping[str, str | int | float], files: Mapping[str, Path], cache: Path) -> None:
    records = {
        key: {"path": path.relative_to(cache).as_posix(), "size": path.stat().st_size, "sha256": digest(path)}
        for key, path in files.items()
    }
    manifest = {"builder": BUILDER, "id": model, **about, "files": records}
    _write(cache / model / MANIFEST, f"{json.dumps(manifest, indent=2)}\n".encode())


@contextmanager
def _alone(cache: Path, on_wait: Callable[[], None] | None) -> Iterator[None]:
    """Wait until no other process fetches into this folder, and keep others waiting until the block ends.

    A folder that cannot be written has no lock and needs none: faceq only reads what is installed there.
    """
    cache.mkdir(parents=True, exist_ok=True)
    try:
        lock = file_lock.acquire(cache / _LOCK, wait_seconds=math.inf, on_wait=on_wait)
    except OSError:
        yield
        return
    with lock:
        yield


def _write(path: Path, content: bytes) -> None:
    atomic_file.write(path, content, mode=FILE_MODE)
