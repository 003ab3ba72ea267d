"""The frames to send: two photographs from Python packages, on canvases of two common sizes."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from PIL import Image, ImageOps

from adapters.models.fetch import package_file
from adapters.models.published import ASTRONAUT, GRACE_HOPPER
from client.frames import Frame

ONE_FACE: Final = "640x480, 1 face"
TWO_FACES: Final = "1280x720, 2 faces"
NO_FACE: Final = "640x480, no face"


def photographs(models: Path) -> Mapping[str, Path]:
    """Return the photographs of the people in the frames, by name."""
    return {
        "Eileen Collins": package_file(ASTRONAUT, models),
        "Grace Hopper": package_file(GRACE_HOPPER, models),
    }


def pictures(models: Path) -> Mapping[str, Image.Image]:
    """Return one picture of each kind."""
    collins, hopper = (Image.open(path).convert("RGB") for path in photographs(models).values())
    return {ONE_FACE: _canvas((640, 480), collins), TWO_FACES: _canvas((1280, 720), collins, hopper)}


def picture_without_face(models: Path) -> Image.Image:
    """Return the part of a photograph below the face: a picture with much detail and, in every turn, no face."""
    hopper = Image.open(photographs(models)["Grace Hopper"]).convert("RGB")
    return ImageOps.fit(hopper.crop((0, hopper.height // 2, hopper.width, hopper.height)), (640, 480))


def frame(kind: str, picture: Image.Image) -> Frame:
    """Return the picture as a camera would send it: a JPEG of quality 90."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return Frame(f"{kind}.jpg", stream.getvalue())


def _canvas(size: tuple[int, int], *photos: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", size, (96, 104, 112))
    width = size[0] // len(photos)
    for number, photo in enumerate(photos):
        canvas.paste(ImageOps.contain(photo, (width, size[1])), (number * width, 0))
    return canvas
