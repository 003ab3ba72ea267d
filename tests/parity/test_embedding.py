"""ONNX Runtime gives the same vectors as facenet-pytorch's InceptionResnetV1."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from adapters import engine_onnx
from adapters.models import facenet_graph, weights
from adapters.models.installed import InstalledModel, installed_model
from pipeline.errors import SetupError
from pipeline.ports import FaceEmbedder

pytestmark = pytest.mark.timeout(600)

ALIGNED = ("angelina_jolie", "bradley_cooper", "kate_siegel", "paul_rudd", "shea_whigham")

#: Distances between the aligned faces, upper triangle by rows, from facenet-pytorch's tests/travis_test.py. That test
#: allows a Frobenius error of 0.01.
PUBLISHED = {
    "vggface2": [1.482895, 0.886342, 1.438450, 1.437583, 1.345686, 1.029880, 1.061939, 1.363125, 1.338803, 1.066040],
    "casia-webface": [
        1.430769,
        0.992931,
        1.414197,
        1.329544,
        1.253911,
        1.144899,
        1.079755,
        1.358875,
        1.337322,
        1.204118,
    ],
}
PUBLISHED_ERROR = 1e-2


@pytest.fixture(scope="module")
def random_network(tmp_path_factory: pytest.TempPathFactory) -> InstalledModel:
    """A model like the published ones (legacy format, with its classifier, 111 MB) with random weights."""
    import torch

    from adapters.engine_torch import facenet_pytorch

    torch.manual_seed(1)
    network = facenet_pytorch.InceptionResnetV1(classify=True, num_classes=8631)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.3, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
        elif isinstance(module, torch.nn.Conv2d):  # otherwise all pictures give nearly the same vector
            torch.nn.init.kaiming_normal_(module.weight)
    folder = tmp_path_factory.mktemp("random")
    torch.save(network.state_dict(), folder / "weights.pt", _use_new_zipfile_serialization=False)
    onnx.save(facenet_graph.build(weights.read_state_dict(folder / "weights.pt")), folder / "model.onnx")
    return InstalledModel(
        id="file-00000000",
        preprocessing="facenet-160",
        dimensions=512,
        threshold=0.7,
        licence="",
        source="",
        sha256="",
        files={"weights": folder / "weights.pt", "onnx": folder / "model.onnx"},
    )


def engines(model: InstalledModel) -> tuple[FaceEmbedder, FaceEmbedder]:
    from adapters import engine_torch

    return engine_onnx.embedder(model, threads=2), engine_torch.embedder(model, threads=2)


def pictures(count: int) -> NDArray[np.uint8]:
    """Pictures of noise, from coarse to fine, which drive every layer differently."""
    random = np.random.default_rng(2)
    grains = [random.integers(0, 256, (2 + row * row, 2 + row * row, 3), dtype=np.uint8) for row in range(count)]
    return np.stack([np.array(Pillow.fromarray(grain).resize((160, 160))) for grain in grains])


@pytest.mark.reference
def test_a_file_like_the_published_ones_can_be_read(random_network: InstalledModel) -> None:
    assert 111e6 < random_network.files["weights"].stat().st_size < 113e6


@pytest.mark.reference
def test_the_engines_give_the_same_vectors_for_random_weights(random_network: InstalledModel) -> None:
    ours, theirs = engines(random_network)
    crops = pictures(12)
    vectors = theirs.embed(crops)
    assert np.abs(vectors[:, np.newaxis] - vectors).max(axis=2)[~np.eye(12, dtype=bool)].min() > 1e-3
    assert np.abs(ours.embed(crops) - vectors).max() <= 1e-5


@pytest.mark.reference
@pytest.mark.parametrize("name", ["stand-in", "vggface2", "casia-webface"])
def test_the_engines_give_the_same_vectors_for_installed_weights(models_folder: Path, name: str) -> None:
    ours, theirs = engines(installed(name, models_folder))
    crops = pictures(8)
    assert np.abs(ours.embed(crops) - theirs.embed(crops)).max() <= 1e-5


@pytest.mark.fixtures
@pytest.mark.parametrize("engine", ["onnx", pytest.param("torch", marks=pytest.mark.reference)])
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_the_distances_of_five_faces_are_the_published_ones(
    models_folder: Path, fixtures: Path, name: str, engine: str
) -> None:
    model = installed(name, models_folder)
    embedder = engine_onnx.embedder(model, threads=2) if engine == "onnx" else engines(model)[1]
    crops = [np.array(Pillow.open(fixtures / "aligned" / f"{person}.png").convert("RGB")) for person in ALIGNED]
    vectors = embedder.embed(np.stack(crops))
    distances = np.linalg.norm(vectors[:, np.newaxis] - vectors, axis=2)
    error = distances[np.triu_indices(5, 1)] - PUBLISHED[name]
    assert np.sqrt(2) * np.linalg.norm(error) < PUBLISHED_ERROR


def installed(name: str, folder: Path) -> InstalledModel:
    try:
        return installed_model(name, folder)
    except SetupError as error:
        pytest.skip(f"{error.message} (the weights are a release file that may be out of reach of this machine)")
