"""Every engine, and the fakes of unit tests, keep the contracts of FaceDetector and FaceEmbedder."""

import os
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from adapters.models.fetch import package_file
from adapters.models.installed import InstalledModel, installed_detector, installed_model
from adapters.models.published import ASTRONAUT, GRACE_HOPPER
from adapters.settings import Paths
from pipeline.embed import PREPROCESSINGS, cut
from pipeline.errors import SetupError
from pipeline.images import decode
from pipeline.ports import FaceDetector, FaceEmbedder, Image
from tests.fakes import ColourEmbedder, PatchDetector

MIN_FACE_SIZE = 20
RANDOM = np.random.default_rng(0)

REFERENCE = pytest.mark.reference
DETECTORS = ["fake", "onnx", pytest.param("torch", marks=REFERENCE)]
FACENETS = ("stand-in", "vggface2", "casia-webface")
EMBEDDERS = [
    "fake",
    *(f"onnx {model}" for model in FACENETS),
    "dlib dlib",
    *(pytest.param(f"torch {model}", marks=REFERENCE) for model in FACENETS),
]


def models_folder() -> Path:
    return Paths.from_environment(os.environ).models


def installed(name: str) -> InstalledModel:
    try:
        return installed_model(name, models_folder())
    except SetupError as error:
        pytest.skip(error.message)


@cache
def load_detector(engine: str) -> FaceDetector:
    if engine == "fake":
        return PatchDetector()
    try:
        files = installed_detector(models_folder())
    except SetupError as error:
        pytest.skip(error.message)
    detector: FaceDetector = import_module(f"adapters.engine_{engine}").detector(files, MIN_FACE_SIZE, threads=1)
    return detector


@cache
def load_embedder(name: str) -> FaceEmbedder:
    if name == "fake":
        return ColourEmbedder()
    engine, model = name.split()
    embedder: FaceEmbedder = import_module(f"adapters.engine_{engine}").embedder(installed(model), threads=1)
    return embedder


@pytest.fixture
def detector(request: pytest.FixtureRequest) -> FaceDetector:
    return load_detector(request.param)


@pytest.fixture
def embedder(request: pytest.FixtureRequest) -> FaceEmbedder:
    return load_embedder(request.param)


every_detector = pytest.mark.parametrize("detector", DETECTORS, indirect=True)
real_detectors = pytest.mark.parametrize("detector", DETECTORS[1:], indirect=True)
every_embedder = pytest.mark.parametrize("embedder", EMBEDDERS, indirect=True)
real_embedders = pytest.mark.parametrize("embedder", EMBEDDERS[1:], indirect=True)


@cache
def astronaut() -> Image:
    return decode(package_file(ASTRONAUT, models_folder()).read_bytes())


@cache
def grace_hopper() -> Image:
    return decode(package_file(GRACE_HOPPER, models_folder()).read_bytes())


def crops_for(embedder: FaceEmbedder, count: int) -> Image:
    """Different pictures; about half of them show a face."""
    size = PREPROCESSINGS[embedder.preprocessing].size
    face = Pillow.fromarray(astronaut()).crop((160, 30, 290, 220)).resize((size, size))
    faces = [
        np.array(face.point(lambda level, brightness=brightness: level * (brightness + 2) // 8))
        for brightness in range(count // 2)
    ]
    noise = RANDOM.integers(0, 256, (count - len(faces), size, size, 3), dtype=np.uint8)
    return np.concatenate([np.array(faces, np.uint8).reshape(-1, size, size, 3), noise])


@every_detector
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 40), (40, 1), (11, 11), (12, 500), (19, 19), (20, 20), (21, 33), (64, 48)]
)
def test_an_image_of_any_size_is_processed(detector: FaceDetector, shape: tuple[int, int]) -> None:
    for image in (
        np.zeros((*shape, 3), np.uint8),
        np.full((*shape, 3), 255, np.uint8),
        RANDOM.integers(0, 256, (*shape, 3), dtype=np.uint8),
    ):
        assert isinstance(detector.detect(image), list)


@every_detector
def test_a_blank_frame_has_no_face(detector: FaceDetector) -> None:
    assert detector.detect(np.zeros((480, 640, 3), np.uint8)) == []


@every_detector
def test_faces_have_the_shapes_and_the_order_of_the_contract(detector: FaceDetector) -> None:
    """The image shows two faces of different size."""
    small = np.array(Pillow.fromarray(astronaut()).resize((256, 256)))
    image = np.zeros((512, 900, 3), np.uint8)
    image[:, :512] = astronaut()
    image[200:456, 600:856] = small
    if isinstance(detector, PatchDetector):
        image[:] = 0
        image[50:200, 50:200] = image[300:350, 300:350] = 255
    faces = detector.detect(image)
    assert len(faces) >= 2
    assert [face.area for face in faces] == sorted((face.area for face in faces), reverse=True)
    for face in faces:
        assert (face.box.shape, face.box.dtype) == ((4,), np.float32)
        assert (face.landmarks.shape, face.landmarks.dtype) == ((5, 2), np.float32)
        assert (face.box[:2] < face.box[2:]).all()
        assert 0 <= face.score <= 1
        assert np.isfinite(face.landmarks).all()


@every_detector
def test_detection_works_on_a_read_only_image_and_does_not_change_it(detector: FaceDetector) -> None:
    image = astronaut().copy()
    image.flags.writeable = False
    first, second = detector.detect(image), detector.detect(image)
    assert np.array_equal(image, astronaut())
    assert [face.box.tolist() for face in first] == [face.box.tolist() for face in second]


@real_detectors
def test_the_face_of_a_photograph_is_found(detector: FaceDetector) -> None:
    """scikit-image's astronaut has one face. Left and right are the viewer's."""
    face = max(detector.detect(astronaut()), key=lambda face: face.score)
    assert face.score > 0.99
    assert np.abs(face.box - [181, 62, 268, 172]).max() < 4
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


@real_detectors
@pytest.mark.parametrize("seed", range(4))
def test_crowded_and_noisy_frames_are_processed(detector: FaceDetector, seed: int) -> None:
    """Faces across the edges and proposals outside the image, for which facenet-pytorch itself raises."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (90 + 13 * seed, 120 - 17 * seed, 3), dtype=np.uint8)
    tile = np.array(Pillow.fromarray(astronaut()).crop((170, 55, 275, 195)).resize((40, 52)))
    for _ in range(6):
        y, x = (int(random.integers(-20, side - 5)) for side in image.shape[:2])
        part = tile[max(-y, 0) : image.shape[0] - y, max(-x, 0) : image.shape[1] - x]
        image[max(y, 0) : max(y, 0) + part.shape[0], max(x, 0) : max(x, 0) + part.shape[1]] = part
    for face in detector.detect(image):
        assert np.isfinite(face.box).all()


@every_embedder
def test_an_embedder_states_its_model_its_preprocessing_and_its_threshold(embedder: FaceEmbedder) -> None:
    assert embedder.model
    assert embedder.preprocessing in PREPROCESSINGS
    assert embedder.threshold > 0


@every_embedder
def test_an_empty_batch_gives_no_vectors(embedder: FaceEmbedder) -> None:
    vectors = embedder.embed(crops_for(embedder, 0))
    assert (vectors.shape, vectors.dtype) == ((0, embedder.dimensions), np.float32)


@every_embedder
def test_vectors_have_the_shape_of_the_contract(embedder: FaceEmbedder) -> None:
    vectors = embedder.embed(crops_for(embedder, 3))
    assert (vectors.shape, vectors.dtype) == ((3, embedder.dimensions), np.float32)
    assert np.isfinite(vectors).all()
    if embedder.preprocessing.startswith("facenet"):
        assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5


@every_embedder
def test_a_vector_does_not_depend_on_the_rest_of_its_batch(embedder: FaceEmbedder) -> None:
    crops = crops_for(embedder, 11)
    alone = np.concatenate([embedder.embed(crop[np.newaxis]) for crop in crops])
    assert np.abs(embedder.embed(crops) - alone).max() <= 1e-5
    assert np.abs(embedder.embed(crops[::-1])[::-1] - alone).max() <= 1e-5


@every_embedder
def test_the_same_crops_give_the_same_vectors_and_are_not_changed(embedder: FaceEmbedder) -> None:
    crops = crops_for(embedder, 4)
    before = crops.copy()
    assert np.array_equal(embedder.embed(crops), embedder.embed(crops))
    assert np.array_equal(before, crops)


@real_embedders
def test_different_pictures_give_different_vectors(embedder: FaceEmbedder) -> None:
    vectors = embedder.embed(crops_for(embedder, 4))
    assert min(np.linalg.norm(vectors[i] - vectors[j]) for i in range(4) for j in range(i)) > 1e-3


@pytest.mark.parametrize("embedder", [name for name in EMBEDDERS[1:] if "stand-in" not in str(name)], indirect=True)
@pytest.mark.parametrize("change", ["smaller", "darker", "fewer colours", "mirrored", "cropped"])
def test_a_person_is_recognised_in_a_changed_photograph(embedder: FaceEmbedder, change: str) -> None:
    """Two women's photographs. Each changed one is within the threshold of its original and beyond it of the other."""
    changes = {
        "smaller": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
        "darker": lambda picture: picture.point(lambda level: level // 2),
        "fewer colours": lambda picture: picture.quantize(48).convert("RGB"),
        "mirrored": lambda picture: picture.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT),
        "cropped": lambda picture: picture.crop(
            (picture.width // 10, 10, picture.width * 4 // 5, picture.height * 9 // 10)
        ),
    }
    detector = load_detector("onnx")

    def vector(image: Image) -> Image:
        return embedder.embed(
            cut(image, detector.detect(image)[0], PREPROCESSINGS[embedder.preprocessing])[np.newaxis]
        )[0]

    photos = [astronaut(), grace_hopper()]
    enrolled = [vector(photo) for photo in photos]
    for own, photo in enumerate(photos):
        changed = vector(np.array(changes[change](Pillow.fromarray(photo))))
        assert np.linalg.norm(changed - enrolled[own]) < embedder.threshold - 0.1
        assert np.linalg.norm(changed - enrolled[1 - own]) > embedder.threshold


@pytest.mark.parametrize("name", ["onnx stand-in", "dlib dlib", pytest.param("torch vggface2", marks=REFERENCE)])
def test_a_broken_model_file_is_a_setup_error_that_names_the_command_to_get_it_again(name: str, tmp_path: Path) -> None:
    engine, model = name.split()
    intact = installed(model)
    broken = {key: tmp_path / key for key in intact.files}
    for path in broken.values():
        path.write_bytes(b"not a model")
    fields = {name: getattr(intact, name) for name in intact.__dataclass_fields__}
    with pytest.raises(SetupError, match="faceq models get"):
        import_module(f"adapters.engine_{engine}").embedder(InstalledModel(**{**fields, "files": broken}), 1)
