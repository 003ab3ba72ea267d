"""The preprocessing facenet-160 cuts and normalises as facenet-pytorch does."""

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline.embed import PREPROCESSINGS, cut, standardise
from pipeline.ports import Face

pytestmark = pytest.mark.reference


def test_crops_equal_extract_face() -> None:
    from adapters.engine_torch import facenet_pytorch

    random = np.random.default_rng(0)
    image = random.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    for _ in range(50):
        corner = random.uniform(-40, 200, 2)
        box = np.concatenate([corner, corner + random.uniform(45, 150, 2)]).astype(np.float32)
        expected = facenet_pytorch.fixed_image_standardization(
            facenet_pytorch.extract_face(Pillow.fromarray(image), box, image_size=160)
        )
        crop = cut(image, Face(box, 1.0, np.zeros((5, 2), np.float32)), PREPROCESSINGS["facenet-160"])
        assert np.array_equal(expected.numpy(), standardise(crop[np.newaxis])[0])
