"""How faces are cut from their frames and normalised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from pipeline.embed import PREPROCESSINGS, cut, standardise
from pipeline.ports import Face, Image

FACENET = PREPROCESSINGS["facenet-160"]
DLIB = PREPROCESSINGS["dlib-160"]
NOISE = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)


def face(*box: float) -> Face:
    return Face(np.array(box, np.float32), 1.0, np.zeros((5, 2), np.float32))


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((30.9, 40.2, 100.7, 150.99), (30, 40, 100, 150)),
        ((-12.5, -3.0, 50.0, 60.0), (0, 0, 50, 60)),
        ((250.0, 100.0, 400.0, 300.0), (250, 100, 320, 240)),
    ],
)
def test_facenet_160_is_the_published_crop(box: tuple[float, ...], pixels: tuple[int, int, int, int]) -> None:
    """facenet_pytorch.extract_face with margin 0 on a PIL picture clamps, truncates, crops and stretches bilinearly."""
    expected = Pillow.fromarray(NOISE).crop(pixels).resize((160, 160), Pillow.Resampling.BILINEAR)
    assert np.array_equal(np.array(expected), cut(NOISE, face(*box), FACENET))


def test_dlib_160_is_a_square_around_the_box() -> None:
    """It is 40 % wider than the longer side: 84 instead of 60 pixels, around (100, 110)."""
    expected = Pillow.fromarray(NOISE[68:152, 58:142]).resize((160, 160), Pillow.Resampling.BILINEAR)
    assert np.array_equal(np.array(expected), cut(NOISE, face(80, 80, 120, 140), DLIB))


def test_dlib_160_repeats_the_edge_of_the_frame() -> None:
    """A face at the border has no black background, because dlib's landmarks were not trained on one."""
    image = np.full((100, 100, 3), 90, np.uint8)
    assert (cut(image, face(-30, -20, 60, 70), DLIB) == 90).all()


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(*[st.floats(-100, 100, width=32)] * 2),
    st.tuples(*[st.floats(0.125, 200, width=32)] * 2),
    st.sampled_from(sorted(PREPROCESSINGS)),
)
def test_any_box_can_be_cut(
    shape: tuple[int, int], corner: tuple[float, float], sides: tuple[float, float], preprocessing_id: str
) -> None:
    image: Image = np.zeros((*shape, 3), np.uint8)
    crop = cut(image, face(*corner, corner[0] + sides[0], corner[1] + sides[1]), PREPROCESSINGS[preprocessing_id])
    size = PREPROCESSINGS[preprocessing_id].size
    assert (crop.shape, crop.dtype) == ((size, size, 3), np.uint8)


def test_standardised_pixels_are_centred_on_zero() -> None:
    crops = np.zeros((2, 4, 4, 3), np.uint8)
    crops[0, 1, 2] = (255, 127, 0)
    planes = standardise(crops)
    assert (planes.shape, planes.dtype, planes.flags.c_contiguous) == ((2, 3, 4, 4), np.float32, True)
    assert planes[0, :, 1, 2].tolist() == [127.5 / 128, -0.5 / 128, -127.5 / 128]
    assert (planes[1] == np.float32(-127.5 / 128)).all()


def test_an_empty_batch_can_be_standardised() -> None:
    assert standardise(np.zeros((0, 160, 160, 3), np.uint8)).shape == (0, 3, 160, 160)
