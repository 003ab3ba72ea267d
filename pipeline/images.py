"""Decodes pictures to upright RGB arrays, and encodes them as JPEG."""

import io
import warnings

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from pipeline.errors import BadInput
from pipeline.ports import Image

#: Width times height of the largest picture that is decoded: a little more than a 24-megapixel photo. Decoding and
#: detection take about 22 bytes of memory per pixel.
MAX_PIXELS = 25_000_000

#: The only decoders of Pillow that see bytes from outside. Cameras and browsers write these formats, and their
#: decoders neither run another program (EPS would run Ghostscript) nor read another file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
#: Major brands of the HEIF family (ISO 23008-12), which phones save as .heic: bytes 8 to 12 of the file.
HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})

#: EXIF 2.32, tag 0x0112: how the stored picture must be turned to be upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}


def decode(content: bytes, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode a JPEG, PNG, WebP, GIF or BMP into an upright RGB picture, (H, W, 3) uint8.

    EXIF orientation is applied. Of an animation, only the first frame is decoded. Transparent parts become white, as
    viewers show them. 16-bit grey is scaled to 8 bits, not clipped.

    Parameters
    ----------
    content : bytes
        The whole file.
    max_pixels : int
        Largest width times height. It is checked in the header, before any pixel is decoded.

    Raises
    ------
    BadInput
        `not_an_image` if the content is not a complete picture in one of the formats; `too_many_pixels` (status 413) if
        the picture is larger than `max_pixels`.

    """
    try:
        picture = _open(content)
        width, height = picture.size
        if width * height > max_pixels:
            raise _too_many_pixels(f"The picture has {width} × {height} pixels, {width * height:,} in all", max_pixels)
        picture.load()
        return _upright_rgb(picture)
    except BadInput:
        raise
    except Pillow.DecompressionBombError as error:
        raise _too_many_pixels("The picture has far too many pixels", max_pixels) from error
    except UnidentifiedImageError as error:
        if content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS:
            raise BadInput("not_an_image", "HEIC pictures cannot be read. Send the photo as JPEG.") from error
        raise BadInput(
            "not_an_image", f"This is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture. Send the photo as JPEG."
        ) from error
    except Exception as error:  # broken bytes can raise any exception inside Pillow's decoders
        raise BadInput(
            "not_an_image",
            f"The picture is damaged or cut short ({str(error) or type(error).__name__}). Send it again.",
        ) from error


def encode_jpeg(image: Image, quality: int = 95) -> bytes:
    """Encode a picture, (H, W, 3) uint8 RGB, as JPEG with colour in full resolution (4:4:4).

    Parameters
    ----------
    quality : int
        1 to 95, libjpeg's scale.

    """
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling="4:4:4")
    return buffer.getvalue()


def _open(content: bytes) -> Pillow.Image:
    """Read the header. Pillow's own warning about large pictures is silenced because `max_pixels` decides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
        return Pillow.open(io.BytesIO(content), formats=FORMATS)


def _too_many_pixels(problem: str, max_pixels: int) -> BadInput:
    message = f"{problem}; at most {max_pixels:,} are accepted. Send a smaller picture."
    return BadInput("too_many_pixels", message, status=413)


def _upright_rgb(picture: Pillow.Image) -> Image:
    upright = _UPRIGHT.get(_orientation(picture))
    rgb = _rgb(picture)
    if upright is not None:
        rgb = rgb.transpose(upright)
    return np.array(rgb)


def _orientation(picture: Pillow.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a damaged EXIF block does not make a good picture unreadable
        return 1


def _rgb(picture: Pillow.Image) -> Pillow.Image:
    if picture.mode.startswith("I"):
        # 16-bit greyscale. convert() would clip at 255.
        levels = np.asarray(picture).astype(np.int64)
        return Pillow.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        white = Pillow.new("RGBA", rgba.size, "white")
        return Pillow.alpha_composite(white, rgba).convert("RGB")
    return picture.convert("RGB")
