"""The frames of `faceq demo` with the answers that they must get, and a picture that shows the answers.

Both photographs are in the public domain: Eileen Collins by NASA (in scikit-image) and Grace Hopper by the U.S. Navy
(in matplotlib).
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from client.frames import Frame
from client.service_client import Outcome
from pipeline.images import decode
from pipeline.messages import NO_FACE, UNKNOWN

COLLINS: Final = "Eileen Collins"
HOPPER: Final = "Grace Hopper"

#: The EXIF tag for the orientation of the camera (Exif 2.32, section 4.6.4).
ORIENTATION: Final = 0x0112

_Picture = Image.Image


@dataclass(frozen=True)
class Expected:
    """A frame and the answer that it must get."""

    frame: Frame
    result: str


def portraits(name: str, photo: _Picture, result: str, most: int | None = None) -> list[Expected]:
    """Return frames of one person that differ in framing, light, size, quality, format and orientation."""
    width, height = photo.size
    variants: Mapping[str, Callable[[], bytes]] = {
        "darker.jpg": lambda: jpeg(ImageEnhance.Brightness(photo).enhance(0.5)),
        "mirrored.png": lambda: encoded(ImageOps.mirror(photo), "PNG"),
        "quality-25.jpg": lambda: jpeg(photo, quality=25),
        "closer.jpg": lambda: jpeg(photo.crop((width // 6, 0, width - width // 6, height * 2 // 3))),
        "farther.jpg": lambda: jpeg(on_canvas(photo, (1280, 720), 0.8)),
        "half-size.jpg": lambda: jpeg(photo.resize((width // 2, height // 2))),
        "exif-turned.jpg": lambda: held_sideways(photo),
        "brighter.webp": lambda: encoded(ImageEnhance.Brightness(photo).enhance(1.4), "WEBP"),
        "grey.jpg": lambda: jpeg(ImageOps.grayscale(photo)),
        "tilted.jpg": lambda: jpeg(photo.rotate(10, Image.Resampling.BICUBIC)),
    }
    return [Expected(Frame(f"{name}-{variant}", encode()), result) for variant, encode in list(variants.items())[:most]]


def empty_frames() -> list[Expected]:
    """Return frames without a face."""
    random = np.random.default_rng(7)
    slope = np.linspace(40, 220, 640, dtype=np.uint8)
    wall = Image.fromarray(np.broadcast_to(slope[None, :, None], (360, 640, 3)).copy())
    noise = Image.fromarray(random.integers(0, 256, (240, 320, 3), np.uint8))
    return [
        Expected(Frame("empty-wall.jpg", jpeg(wall)), NO_FACE),
        Expected(Frame("empty-noise.png", encoded(noise, "PNG")), NO_FACE),
    ]


def group_frames(collins: _Picture, hopper: _Picture) -> list[Expected]:
    """Return frames with both people; the larger face gives the result."""

    def frame(left: _Picture, left_size: int, right: _Picture, right_size: int) -> bytes:
        canvas = Image.new("RGB", (1280, 720), (96, 104, 112))
        canvas.paste(ImageOps.contain(left, (left_size, left_size)), (10, 10))
        canvas.paste(ImageOps.contain(right, (right_size, right_size)), (800, 100))
        return jpeg(canvas)

    # Hopper's face fills twice as much of her photograph, so at the same size hers is the larger face.
    return [
        Expected(Frame("both-collins-near.jpg", frame(collins, 700, hopper, 240)), COLLINS),
        Expected(Frame("both-hopper-near.jpg", frame(hopper, 600, collins, 420)), HOPPER),
    ]


def contact_sheet(answered: Sequence[tuple[Expected, Outcome]], columns: int = 7) -> _Picture:
    """Return one picture of all frames, turned upright, with the boxes and names from their answers."""
    cell = (240, 200)
    rows = -(-len(answered) // columns)
    page = Image.new("RGB", (columns * cell[0], rows * cell[1]), "white")
    font = ImageFont.load_default(13)
    for number, (expected, outcome) in enumerate(answered):
        upright = Image.fromarray(decode(outcome.frame.content))
        shown = ImageOps.contain(upright, (cell[0] - 8, cell[1] - 26))
        scale = shown.width / upright.width
        draw = ImageDraw.Draw(shown)
        for face in _faces(outcome):
            box = [float(side) * scale for side in face.box]
            known = face.name != UNKNOWN
            colour = "#17a34a" if known else "#d97706"
            draw.rectangle(box, outline=colour, width=2)
            label = face.name
            left, top, right, bottom = draw.textbbox((0, 0), label, font=font, anchor="lt")
            x = max(0, min(box[0], shown.width - right))
            y = max(0, box[1] - bottom)
            draw.rectangle((x + left - 1, y + top - 1, x + right + 1, y + bottom + 1), fill=colour)
            draw.text((x, y), label, "white", font, anchor="lt")
        x, y = number % columns * cell[0] + 4, number // columns * cell[1] + 4
        page.paste(shown, (x + (cell[0] - 8 - shown.width) // 2, y))
        right_answer = outcome.result == expected.result
        caption = f"{outcome.frame.filename}: {outcome.result}" + ("" if right_answer else f" (not {expected.result})")
        ImageDraw.Draw(page).text((x, y + cell[1] - 24), caption[:38], "black" if right_answer else "red", font)
    return page


def jpeg(picture: _Picture, quality: int = 90) -> bytes:
    """Encode as JPEG."""
    return encoded(picture, "JPEG", quality=quality)


def encoded(picture: _Picture, kind: str, **options: object) -> bytes:
    """Encode in a format that Pillow supports."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def on_canvas(picture: _Picture, size: tuple[int, int], share: float) -> _Picture:
    """Return a wider view, in which the picture fills `share` of the height."""
    canvas = Image.new("RGB", size, (120, 112, 104))
    small = ImageOps.contain(picture, (size[0], int(size[1] * share)))
    canvas.paste(small, (size[0] // 3, size[1] - small.height))
    return canvas


def held_sideways(picture: _Picture) -> bytes:
    """Return a photo as a phone held sideways saves it: turned pixels, and the tag that turns them back."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # shown turned by 90 degrees clockwise
    return encoded(picture.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=90, exif=exif)


@dataclass(frozen=True)
class _Named:
    box: tuple[float, ...]
    name: str


def _faces(outcome: Outcome) -> Iterable[_Named]:
    """Return the faces in an answer."""
    rows = (outcome.answer or {}).get("faces")
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and isinstance(box := row["box"], list):
            yield _Named(tuple(side for side in box if isinstance(side, int | float)), str(row["name"]))
