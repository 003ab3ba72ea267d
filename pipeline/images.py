"""Encoded pictures to upright RGB arrays and back."""

import io
import warnings

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from pipeline.errors import BadInput
from pipeline.ports import Image

#: The largest picture that is decoded, width times height: a 24-megapixel photo with room to spare. Decoding and
#: detection take about 22 bytes of memory a pixel.
MAX_PIXELS = 25_000_000

#: The only decoders that a stranger's bytes may reach. Each is a picture format cameras and browsers write; none runs
#: another program (as EPS would run Ghostscript) or reads another file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
#: Major brands of the HEIF family (ISO 23008-12), bytes 8 to 12 of the file: what phones save as .heic.
HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})

#: EXIF 2.32, tag 0x0112: how to turn what is stored into what the photographer saw.
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

    EXIF orientation is applied. An animation gives its first frame. Transparent parts become white, as viewers show
    them. 16-bit grey is scaled to 8 bits, not clipped.

    Parameters
    ----------
    content : bytes
        The whole file.
    max_pixels : int
        Largest width times height; read from the header, before anything is decoded.

    Raises
    ------
    BadInput
        `not_an_image` for anything that is not a whole picture in one of the formats, `too_many_pixels` (status 413).

    """
    try:
        picture = _open(content)
        width, height = picture.size
        if width * height > max_pixels:
            raise _too_many(f"The picture has {width} × {height} pixels, {width * height:,} in all", max_pixels)
        picture.load()
        return _upright_rgb(picture)
    except BadInput:
        raise
    except Pillow.DecompressionBombError as error:
        raise _too_many("The picture has far too many pixels", max_pixels) from error
    except UnidentifiedImageError as error:
        if content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS:
            raise BadInput("not_an_image", "HEIC pictures cannot be read. Send the photo as JPEG.") from error
        raise BadInput("not_an_image", f"This is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture.") from error
    except Exception as error:  # Pillow's decoders let through whatever broken bytes lead to
        raise BadInput(
            "not_an_image",
            f"The picture is damaged or cut short ({str(error) or type(error).__name__}). Send it again.",
        ) from error


def encode_jpeg(image: Image, quality: int = 95) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG, colour in full resolution (4:4:4).

    Parameters
    ----------
    quality : int
        1 to 95, libjpeg's scale.

    """
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling="4:4:4")
    return buffer.getvalue()


def _open(content: bytes) -> Pillow.Image:
    """Read the header. Pillow's own pixel warning is silenced: `max_pixels` decides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
        return Pillow.open(io.BytesIO(content), formats=FORMATS)


def _too_many(what: str, max_pixels: int) -> BadInput:
    return BadInput("too_many_pixels", f"{what}; at most {max_pixels:,} are taken. Send it smaller.", status=413)


def _upright_rgb(picture: Pillow.Image) -> Image:
    upright = _UPRIGHT.get(_orientation(picture))
    rgb = _rgb(picture)
    if upright is not None:
        rgb = rgb.transpose(upright)
    return np.array(rgb)


def _orientation(picture: Pillow.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a good picture with a damaged EXIF block is still a good picture
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
