"""Faces cut from their frames and normalised, as the recognition networks saw them in training."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from pipeline.ports import Face, Image


@dataclass(frozen=True)
class Preprocessing:
    """How a crop is cut. Vectors of crops that were cut in different ways must not be compared.

    Parameters
    ----------
    id : str
        The name that galleries and messages record.
    size : int
        Width and height of a crop, pixels.
    square : bool
        If true, cut a square around the centre of the box, and repeat the edge of the frame where the square reaches
        outside. If false, cut the part of the box that is inside the frame, and stretch it to a square.
    margin : float
        Enlarges the square: its side is (1 + margin) times the longer side of the box. At least 0.

    """

    id: str
    size: int
    square: bool = False
    margin: float = 0.0


#: "facenet-160" is what facenet-pytorch's MTCNN(image_size=160, margin=0) cuts from a PIL picture.
#: "dlib-160" leaves room around the face, because dlib aligns it itself (`adapters/engine_dlib.py`).
PREPROCESSINGS: Mapping[str, Preprocessing] = MappingProxyType(
    {
        preprocessing.id: preprocessing
        for preprocessing in (
            Preprocessing("facenet-160", size=160),
            Preprocessing("dlib-160", size=160, square=True, margin=0.4),
        )
    }
)


def cut(image: Image, face: Face, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return the crop of `face`, (S, S, 3) uint8 RGB, where S is `preprocessing.size`.

    Works for any box: a crop shows at least one pixel of the frame, the one nearest to the box.
    """
    pixels = _square_around(image, face, preprocessing.margin) if preprocessing.square else _visible_box(image, face)
    size = (preprocessing.size, preprocessing.size)
    return np.array(Pillow.fromarray(pixels).resize(size, Pillow.Resampling.BILINEAR))


def standardise(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert crops (n, S, S, 3) uint8 to (n, 3, S, S) float32, (value - 127.5) / 128, from -0.996 to 0.996."""
    planes = np.ascontiguousarray(crops.transpose(0, 3, 1, 2), dtype=np.float32)
    planes -= np.float32(127.5)
    planes /= np.float32(128)
    return planes


def _visible_box(image: Image, face: Face) -> Image:
    """Return the pixels that facenet-pytorch's extract_face takes: it clamps the corners, then truncates them."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = face.box.tolist()
    left, top = (int(min(max(corner, 0), side - 1)) for corner, side in ((x1, width), (y1, height)))
    right, bottom = int(min(x2, width)), int(min(y2, height))
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def _square_around(image: Image, face: Face, margin: float) -> Image:
    """Return a square of (1 + margin) times the longer side of the box, with the frame's edge repeated outside it."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = face.box.tolist()
    side = max(1, round(max(x2 - x1, y2 - y1) * (1 + margin)))
    columns = round((x1 + x2 - side) / 2) + np.arange(side)
    rows = round((y1 + y2 - side) / 2) + np.arange(side)
    square: Image = image[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)]
    return square
