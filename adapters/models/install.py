"""Install a model into the cache: fetch the weights, verify them, build the graphs, and write the manifest last.

The builders of graphs import onnx and NumPy; each is imported only when it has something to build.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from adapters import file_lock
from adapters.models.catalogue import AUTO, CATALOGUE, DLIB, STAND_IN, VGGFACE2, check_dlib, model_id
from adapters.models.checksums import sha256_of
from adapters.models.fetch import Progress, difference, download, package_files
from adapters.models.installed import (
    DETECTOR,
    FILES,
    MANIFEST,
    InstalledModel,
    installed_detector,
    installed_model,
    is_intact,
    recogniser_facts,
    write_file,
    write_manifest,
)
from adapters.models.published import PUBLISHED, Sources
from pipeline.errors import SetupError

_LOCK: Final = ".lock"
#: MTCNN's networks, in the order of the files of `Sources.detector`.
_NETWORKS: Final[tuple[Literal["pnet", "rnet", "onet"], ...]] = ("pnet", "rnet", "onet")


def install(
    name: str,
    cache: Path,
    progress: Progress | None = None,
    on_wait: Callable[[], None] | None = None,
    sources: Sources = PUBLISHED,
) -> InstalledModel:
    """Fetch, verify and build a model and the detector, unless they are in the cache and intact.

    `auto` keeps the model that is installed. If there is none, it installs vggface2, or dlib if vggface2 cannot be
    fetched; `InstalledModel.note` then gives the reason. Several processes may call this at the same time.

    Parameters
    ----------
    name : str
        An id, `auto`, or the path of a .pt or .pth file with weights of facenet-pytorch's InceptionResnetV1.
    cache : Path
    progress : callable, optional
        Called while a download proceeds.
    on_wait : callable, optional
        Called once if another process is installing into this folder, before waiting for it.
    sources : Sources
        Where the published files come from.

    Raises
    ------
    SetupError
        With what to do about it.

    """
    installation = _Installation(cache, progress or (lambda _name, _done, _total: None), sources)
    try:
        with _exclusive(cache, on_wait):
            installation.ensure_detector()
            return installation.auto() if name == AUTO else installation.ensure(name)
    except OSError as error:
        raise SetupError(
            "not_writable", f"The models' folder {cache} cannot be written: {error.strerror or error}."
        ) from error


@dataclass(frozen=True)
class _Installation:
    cache: Path
    progress: Progress
    sources: Sources

    def auto(self) -> InstalledModel:
        """Keep the installed model, because a gallery fits only one; otherwise try vggface2, then dlib."""
        for choice in (VGGFACE2, DLIB):
            if (self.cache / choice / MANIFEST).exists():
                self.ensure(choice)
                return installed_model(AUTO, self.cache)
        try:
            return self.ensure(VGGFACE2)
        except SetupError as error:
            if error.code not in ("cannot_download", "wrong_file"):
                raise
            problem = error
        try:
            return replace(self.ensure(DLIB), note=f"dlib is used because vggface2 cannot be fetched: {problem}")
        except SetupError as error:
            raise SetupError(error.code, f"{problem} Or use dlib: {error}") from error

    def ensure(self, name: str) -> InstalledModel:
        """Install a recogniser, unless it is in the cache and intact."""
        model = model_id(name)
        if model == DLIB:
            check_dlib()
            self._build_unless_intact(model, self._build_dlib)
        elif model == STAND_IN:
            self._build_unless_intact(model, self._build_stand_in)
        elif model in self.sources.releases:
            self._build_unless_intact(model, lambda: self._build_facenet(model, self._fetch_release(model)))
        else:
            self._build_unless_intact(model, lambda: self._build_from_file(model, name))
        return installed_model(model, self.cache)

    def ensure_detector(self) -> None:
        """Install the detector, unless it is in the cache and intact."""
        self._build_unless_intact(DETECTOR, self._build_detector)

    def _build_unless_intact(self, model: str, build: Callable[[], None]) -> None:
        try:
            _ = installed_detector(self.cache) if model == DETECTOR else installed_model(model, self.cache)
            if is_intact(model, self.cache):
                return
        except SetupError:  # not installed
            pass
        (self.cache / model / MANIFEST).unlink(missing_ok=True)
        build()

    def _build_detector(self) -> None:
        from adapters.models import mtcnn_graph
        from adapters.models.weights import read_state_dict

        package = self.sources.detector
        graphs: dict[str, Path] = {}
        for network, path in zip(_NETWORKS, package_files(package, self.cache), strict=True):
            graphs[network] = self.cache / DETECTOR / f"{network}.onnx"
            write_file(graphs[network], mtcnn_graph.build(network, read_state_dict(path)).SerializeToString())
        facts = {"source": f"{package.name} {package.version}", "licence": "MIT"}
        write_manifest(DETECTOR, facts, graphs, self.cache)

    def _build_facenet(self, model: str, weights: Path, source: str | None = None) -> None:
        from adapters.models import facenet_graph
        from adapters.models.weights import read_state_dict

        graph = self.cache / model / "embedder.onnx"
        write_file(graph, facenet_graph.build(read_state_dict(weights)).SerializeToString())
        known = CATALOGUE.get(model) or replace(CATALOGUE[VGGFACE2], id=model, licence="unknown", source=source or "")
        write_manifest(model, recogniser_facts(known, weights), {"onnx": graph, "weights": weights}, self.cache)

    def _build_from_file(self, model: str, name: str) -> None:
        weights = self.cache / FILES / f"{model}.pt"
        if name != model:
            write_file(weights, Path(name).read_bytes())
        elif not weights.exists():
            raise SetupError(
                "not_installed", f"The weights of {model} are no longer in the cache. Run: faceq models get FILE.pt"
            )
        self._build_facenet(model, weights, source=Path(name).name)

    def _build_stand_in(self) -> None:
        from adapters.models import facenet_graph

        graph = self.cache / STAND_IN / "embedder.onnx"
        write_file(graph, facenet_graph.build(facenet_graph.stand_in_weights()).SerializeToString())
        write_manifest(STAND_IN, recogniser_facts(CATALOGUE[STAND_IN], graph), {"onnx": graph}, self.cache)

    def _build_dlib(self) -> None:
        recognition, landmarks = package_files(self.sources.dlib, self.cache)
        files = {"recognition": recognition, "landmarks": landmarks}
        write_manifest(DLIB, recogniser_facts(CATALOGUE[DLIB], recognition), files, self.cache)

    def _fetch_release(self, model: str) -> Path:
        file = self.sources.releases[model]
        target = self.cache / FILES / file.name
        try:
            download(file, target, self.progress)
        except SetupError as error:
            existing = ""
            if target.exists():
                how = difference(target.stat().st_size, sha256_of(target), file)
                existing = f" (the file there is a different one: {how})"
            raise SetupError(
                error.code,
                f"{error}. Copy {file.path} ({file.size:,} bytes) into {target.parent}{existing}, "
                f"then run: faceq models get {model}",
            ) from error
        return target


@contextmanager
def _exclusive(cache: Path, on_wait: Callable[[], None] | None) -> Iterator[None]:
    """Keep other processes from installing into this folder until the block ends; wait for one that does.

    A folder that cannot be written has no lock and needs none, because `install` then only reads it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    try:
        lock = file_lock.acquire(cache / _LOCK, wait_seconds=math.inf, on_wait=on_wait)
    except OSError:
        yield
        return
    with lock:
        yield
