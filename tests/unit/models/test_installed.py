"""What is installed, how it gets there, and what `auto` means; the files are small, the disk and the server real."""

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
from adapters.models.catalogue import AUTO, CATALOGUE, DLIB, STAND_IN, VGGFACE2
from adapters.models.install import install
from adapters.models.installed import (
    BUILDER,
    DETECTOR,
    FILES,
    MANIFEST,
    InstalledModel,
    installed_detector,
    installed_model,
    is_intact,
)
from adapters.models.published import Sources
from pipeline.embed import PREPROCESSINGS
from pipeline.errors import SetupError
from tests.file_server import ranged, serving, status, whole
from tests.small_models import LANDMARKS, RECOGNITION, SOURCES, cache, install_content, vggface2_from
from tests.unit.models.test_weights import view, zip_file

__all__ = ["cache"]

ROOT = Path(__file__).parents[3]


def get(name: str, cache: Path, sources: Sources = SOURCES) -> InstalledModel:
    return install(name, cache, sources=sources)


@pytest.fixture
def big_cache(cache: Path) -> Iterator[Path]:
    """A cache that is deleted after the test: pytest keeps the folders of its last runs, and the networks are large."""
    yield cache
    shutil.rmtree(cache)


def change(file: Path, how: Callable[[bytes], bytes]) -> None:
    file.write_bytes(how(file.read_bytes()))


def test_a_new_model_is_installed(cache: Path) -> None:
    """`installed_model` finds what `install` returned, from the manifest alone."""
    got = get(DLIB, cache)
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


def test_the_cache_can_be_moved(cache: Path) -> None:
    """For example into an image: the manifest contains no absolute path."""
    get(DLIB, cache)
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
def test_a_missing_model_is_named_with_the_command_that_installs_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        SetupError, match=f"The model '{name}' is not installed. Run: faceq models get {name}$"
    ) as caught:
        installed_model(name, tmp_path / "none")
    assert caught.value.code == "not_installed"


def test_a_missing_detector_is_installed_with_any_model(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"The model 'detector' is not installed\. Run: faceq models get$"):
        installed_detector(tmp_path)
    with pytest.raises(SetupError, match=r"No model is installed\. Run: faceq models get$"):
        installed_model(AUTO, tmp_path)


@pytest.mark.parametrize("name", ["vggface", "", "../dlib", "file-0123", DETECTOR])
def test_the_refusal_of_an_unknown_name_lists_the_known_names(cache: Path, name: str) -> None:
    for look in (installed_model, get):
        with pytest.raises(SetupError, match="Take one of vggface2, casia-webface, dlib, stand-in, or the path"):
            look(name, cache)


def test_a_missing_weight_file_is_named(cache: Path) -> None:
    with pytest.raises(SetupError, match=r"The weights none\.pt cannot be read: No such file"):
        get("none.pt", cache)


@pytest.mark.parametrize("how", [lambda data: data[:-1], lambda data: data + b"!", lambda data: b""])
def test_a_file_of_another_size_is_noticed_and_replaced(cache: Path, how: Callable[[bytes], bytes]) -> None:
    """`installed_model` compares sizes; `install` repairs the model."""
    get(DLIB, cache)
    change(cache / FILES / "landmarks.dat", how)
    with pytest.raises(SetupError, match=r"are damaged or missing\. Run: faceq models get dlib$") as caught:
        installed_model(DLIB, cache)
    assert caught.value.code == "broken_model"
    (cache / FILES / "landmarks.dat").write_bytes(LANDMARKS)
    assert get(DLIB, cache) == installed_model(DLIB, cache)


def test_only_a_check_of_every_byte_notices_a_changed_byte(cache: Path) -> None:
    """`faceq doctor` makes this check; a function that starts compares only sizes."""
    get(DLIB, cache)
    assert is_intact(DLIB, cache)
    change(cache / FILES / "recognition.dat", lambda content: content[:-1] + b"!")
    assert not is_intact(DLIB, cache)
    assert installed_model(DLIB, cache).id == DLIB


def test_installing_again_checks_every_byte(cache: Path) -> None:
    """A file of the right size with another byte is fetched again; here that fails, which the message says."""
    get(DLIB, cache)
    change(cache / FILES / "landmarks.dat", lambda data: data[::-1])
    with pytest.raises(SetupError, match=r"pip cannot fetch none-such==1 .* copy .*landmarks\.dat"):
        get(DLIB, cache)
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
def test_a_damaged_manifest_is_noticed_and_replaced(cache: Path, how: Callable[[bytes], bytes]) -> None:
    got = get(DLIB, cache)
    change(cache / DLIB / MANIFEST, how)
    with pytest.raises(SetupError, match=r"faceq models get dlib$"):
        installed_model(DLIB, cache)
    assert get(DLIB, cache) == got == installed_model(DLIB, cache)


def test_a_manifest_without_hashes_is_replaced(cache: Path) -> None:
    got = get(DLIB, cache)
    manifest = json.loads((cache / DLIB / MANIFEST).read_text())
    del manifest["files"]["landmarks"]["sha256"]
    (cache / DLIB / MANIFEST).write_text(json.dumps(manifest))
    assert get(DLIB, cache) == got
    assert "sha256" in json.loads((cache / DLIB / MANIFEST).read_text())["files"]["landmarks"]


def test_a_model_that_another_version_built_is_built_again(cache: Path) -> None:
    got = get(DLIB, cache)
    change(cache / DLIB / MANIFEST, lambda data: data.replace(b'"builder": %d' % BUILDER, b'"builder": 0'))
    with pytest.raises(
        SetupError, match=r"Another version of faceq built the model \'dlib\'\. Run: faceq models get dlib$"
    ):
        installed_model(DLIB, cache)
    assert get(DLIB, cache) == got
    assert json.loads((cache / DLIB / MANIFEST).read_text())["builder"] == BUILDER


def test_a_model_without_its_manifest_is_not_installed(cache: Path) -> None:
    """The manifest is written last, so a killed installation leaves none."""
    get(DLIB, cache)
    (cache / DLIB / MANIFEST).unlink()
    with pytest.raises(SetupError, match="not installed"):
        installed_model(DLIB, cache)
    assert get(DLIB, cache).id == DLIB


def times(cache: Path) -> dict[Path, int]:
    """Return when each model's file was written; the lock records its last holder."""
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.name != ".lock"}


def test_an_installed_model_is_kept(cache: Path) -> None:
    """A second installation writes nothing."""
    get(DLIB, cache)
    before = times(cache)
    get(DLIB, cache)
    assert times(cache) == before


def test_auto_is_vggface2_if_it_is_installed(cache: Path) -> None:
    get(DLIB, cache)
    install_content(VGGFACE2, cache, onnx=b"graph")
    assert (installed_model(AUTO, cache).id, installed_model(AUTO, cache).note) == (VGGFACE2, "")
    assert get(AUTO, cache).id == VGGFACE2


def test_auto_is_dlib_if_only_dlib_is_installed_and_the_note_says_so(cache: Path) -> None:
    """No server is asked, so that the choice, which galleries depend on, stays."""
    get(DLIB, cache)
    for model in (installed_model(AUTO, cache), get(AUTO, cache)):
        assert model.id == DLIB
        assert model.note.endswith("run: faceq models get vggface2")


def test_auto_falls_back_to_dlib_and_the_note_gives_the_reason(cache: Path) -> None:
    """The note contains the file to copy, its size, the folder and the command."""
    with serving(status(404)) as server:
        sources = vggface2_from(server)
        model = get(AUTO, cache, sources)
    assert model.id == DLIB
    assert "127.0.0.1 answered 404" in model.note
    assert f"{server.url} (7 bytes) into {cache / FILES}, then run: faceq models get vggface2" in model.note
    assert "\n" not in model.note


def test_auto_falls_back_to_dlib_if_a_log_in_page_answers(cache: Path) -> None:
    with serving(whole(b"<html>")) as server:
        sources = vggface2_from(server)
        assert get(AUTO, cache, sources).id == DLIB


def test_auto_names_both_problems_if_neither_model_can_be_fetched(cache: Path) -> None:
    (cache / FILES / "landmarks.dat").unlink()
    with serving(status(404)) as server:
        sources = vggface2_from(server)
        with pytest.raises(SetupError, match=r"answered 404.*Or use dlib: pip cannot"):
            get(AUTO, cache, sources)


def test_the_refusal_describes_a_release_file_that_cannot_be_fetched(cache: Path) -> None:
    """A model that was asked for by name has no substitute."""
    with serving(status(404)) as server:
        sources = vggface2_from(server)
        with pytest.raises(SetupError, match=r"answered 404\. Copy http") as caught:
            get(VGGFACE2, cache, sources)
        (cache / FILES / "weights.pt").write_bytes(b"half")
        with pytest.raises(SetupError, match="the file there is a different one: 4 bytes instead of 7"):
            get(VGGFACE2, cache, sources)
    assert "faceq models get vggface2" in str(caught.value)


def test_a_weight_file_without_weights_is_refused(cache: Path) -> None:
    """Its hash is right, but it is not a PyTorch file: nothing is installed."""
    with serving(whole(b"weights")) as server:
        sources = vggface2_from(server)
        for name in (VGGFACE2, AUTO):
            with pytest.raises(SetupError):
                get(name, cache, sources)
    with pytest.raises(SetupError, match="not installed"):
        installed_model(VGGFACE2, cache)


def test_processes_that_install_at_the_same_time_take_turns(cache: Path) -> None:
    """The first asks the server and installs dlib; the others find dlib installed."""
    barrier = threading.Barrier(4)

    def get_when_all_are_ready(sources: Sources) -> str:
        barrier.wait(10)
        return get(AUTO, cache, sources).id

    with serving(status(404)) as server, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(get_when_all_are_ready, [vggface2_from(server)] * 4)) == [DLIB] * 4
        assert server.starts == [0]


def test_an_installed_model_needs_no_folder_that_can_be_written(cache: Path) -> None:
    """No lock can be created there, not even by the super-user, and none is needed."""
    got = get(DLIB, cache)
    (cache / ".lock").unlink()
    (cache / ".lock").symlink_to("no such folder/lock")
    assert get(DLIB, cache) == got
    assert get(AUTO, cache).id == DLIB


def test_a_folder_that_cannot_be_created_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(SetupError, match="cannot be written") as caught:
        get(STAND_IN, tmp_path / "models")
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


def test_the_stand_in_is_built_without_a_download(big_cache: Path) -> None:
    model = get(STAND_IN, big_cache)
    assert model == installed_model(STAND_IN, big_cache)
    assert embeds(model)


def test_auto_fetches_vggface2_if_it_can(big_cache: Path, published: bytes) -> None:
    """Despite an interruption; afterwards no server is needed."""
    with serving(ranged(50_000_000, published), ranged(None, published)) as server:
        sources = vggface2_from(server, published)
        model = get(AUTO, big_cache, sources)
        assert len(server.starts) == 2
        assert get(AUTO, big_cache, sources) == model == installed_model(AUTO, big_cache)
        assert len(server.starts) == 2
    assert (model.id, model.note) == (VGGFACE2, "")
    assert model.sha256 == hashlib.sha256(published).hexdigest()
    assert model.files["weights"].read_bytes() == published
    assert embeds(model)


def test_the_users_own_weights_are_named_by_their_content(big_cache: Path, published: bytes) -> None:
    """The path finds them while the file exists, with either suffix; the id always, because faceq keeps a copy."""
    own = big_cache / "own.pt"
    own.write_bytes(published)
    model = get(str(own), big_cache)
    assert model.id == f"file-{hashlib.sha256(published).hexdigest()[:8]}"
    assert installed_model(str(own), big_cache) == model
    assert installed_model(str(own.rename(big_cache / "own.pth")), big_cache) == model
    (big_cache / "own.pth").unlink()
    assert installed_model(model.id, big_cache) == model == get(model.id, big_cache)
    assert model.files["weights"].read_bytes() == published
    assert embeds(model)


def test_every_known_model_has_an_existing_preprocessing_and_a_threshold_below_2() -> None:
    for model in CATALOGUE.values():
        assert model.preprocessing in PREPROCESSINGS
        assert 0 < model.threshold < 2


def test_functions_start_without_the_packages_that_installing_needs(cache: Path) -> None:
    """Finding an installed model imports only the standard library."""
    get(DLIB, cache)
    code = (
        "import sys; from pathlib import Path;"
        "from adapters.models.installed import installed_detector, installed_model;"
        f"cache = Path({str(cache)!r}); installed_model('auto', cache); installed_detector(cache);"
        "print(*(name for name in ('onnx', 'requests', 'numpy', 'dlib', 'PIL', 'onnxruntime') if name in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == ""
