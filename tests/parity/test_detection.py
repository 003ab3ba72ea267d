"""ONNX Runtime with our cascade finds the same faces as facenet-pytorch's MTCNN(keep_all=True)."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from adapters import engine_onnx
from adapters.models.fetch import package_file
from adapters.models.installed import installed_detector
from adapters.models.published import ASTRONAUT, GRACE_HOPPER
from pipeline.images import decode
from pipeline.ports import Face, FaceDetector, Image

#: facenet-pytorch needs up to a few seconds for a large photograph.
pytestmark = [pytest.mark.reference, pytest.mark.timeout(900)]

BOX_PIXELS = LANDMARK_PIXELS = 1.0
SCORE = 1e-3


def detectors(models_folder: Path, min_face_size: int) -> tuple[FaceDetector, FaceDetector]:
    """Return our detector and the reference."""
    from adapters import engine_torch

    files = installed_detector(models_folder)
    return (
        engine_onnx.detector(files, min_face_size, threads=2),
        engine_torch.detector(files, min_face_size, threads=2),
    )


def assert_same_faces(ours: list[Face], theirs: list[Face]) -> None:
    assert len(theirs) == len(ours)
    for mine, other in zip(ours, theirs, strict=True):
        assert np.abs(mine.box - other.box).max() <= BOX_PIXELS
        assert np.abs(mine.landmarks - other.landmarks).max() <= LANDMARK_PIXELS
        assert abs(mine.score - other.score) <= SCORE


def photographs(models_folder: Path) -> list[Image]:
    return [decode(package_file(source, models_folder).read_bytes()) for source in (ASTRONAUT, GRACE_HOPPER)]


def generated(photos: list[Image]) -> Iterator[Image]:
    """Frames of many sizes: noise, and faces pasted in any size and place, also across edges and over each other."""
    for seed in range(24):
        random = np.random.default_rng(seed)
        height, width = (int(random.integers(30, 500)) for _ in range(2))
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if seed % 3:
            image = np.full_like(image, random.integers(0, 256, 3))
        for _ in range(seed % 5):
            photo = photos[int(random.integers(len(photos)))]
            side = int(random.integers(30, 400))
            part = np.array(Pillow.fromarray(photo).resize((side, side)))
            y, x = int(random.integers(-side // 2, height)), int(random.integers(-side // 2, width))
            part = part[max(-y, 0) : max(height - y, 0), max(-x, 0) : max(width - x, 0)]
            image[max(y, 0) : max(y, 0) + part.shape[0], max(x, 0) : max(x, 0) + part.shape[1]] = part
        yield image


@pytest.mark.parametrize("min_face_size", [20, 40])
def test_the_engines_find_the_same_faces_in_generated_frames(models_folder: Path, min_face_size: int) -> None:
    ours, theirs = detectors(models_folder, min_face_size)
    faces = 0
    for image in generated(photographs(models_folder)):
        detected = ours.detect(image)
        assert_same_faces(detected, theirs.detect(image))
        faces += len(detected)
    assert faces >= 10


@pytest.mark.fixtures
@pytest.mark.parametrize("folder", ["faces", "people"])
def test_the_engines_find_the_same_faces_in_photographs(models_folder: Path, fixtures: Path, folder: str) -> None:
    ours, theirs = detectors(models_folder, 20)
    files = sorted((fixtures / folder).rglob("*.jpg"))
    assert files
    for file in files:
        image = decode(file.read_bytes())
        assert_same_faces(ours.detect(image), theirs.detect(image))


@pytest.mark.fixtures
def test_the_engines_find_the_same_faces_in_a_video(models_folder: Path, fixtures: Path) -> None:
    """Every tenth frame and faces from 40 pixels on, as a camera would send them."""
    ours, theirs = detectors(models_folder, 40)
    video = cv2.VideoCapture(str(fixtures / "video" / "video.mp4"))
    frames = faces = 0
    while True:
        success, frame = video.read()
        if not success:
            break
        if frames % 10 == 0:
            image = np.ascontiguousarray(frame[..., ::-1])
            detected = ours.detect(image)
            assert_same_faces(detected, theirs.detect(image))
            faces += len(detected)
        frames += 1
    assert faces
