"""Decodes pictures to upright RGB arrays, and encodes them as JPEG.

Decoding is generous where the pixels are all there (metadata is ignored, bytes before a JPEG are skipped, a missing end
marker is supplied) and strict where they are not.
"""

import io
import warnings
from typing import Final

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from pipeline import png
from pipeline.errors import BadInput, TransientError
from pipeline.ports import Image

#: Width times height of the largest picture that is decoded: a little more than a 24-megapixel photo. Decoding and
#: detection take about 22 bytes of memory per pixel.
MAX_PIXELS = 25_000_000

#: The only decoders of Pillow that see bytes from outside. Cameras and browsers write these formats, and their
#: decoders neither run another program (EPS would run Ghostscript) nor read another file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
#: Major brands of the HEIF family (ISO 23008-12), which phones save as .heic: bytes 8 to 12 of the file.
HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})

#: How a JPEG begins and ends. (ITU-T T.81, table B.1: SOI and the first byte of the next marker, EOI)
_JPEG_START: Final = b"\xff\xd8\xff"
_JPEG_END: Final = b"\xff\xd9"
#: How far into the content a JPEG may begin: the head of a multipart part has one or two hundred bytes.
_MAX_BYTES_BEFORE_JPEG: Final = 1_024
#: Bytes that stand for the rest of a JPEG that was cut. Compressed data that used them would change the picture.
_JPEG_FILLER: Final = b"\x55\xa3" * 4_096

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
    """Decode a JPEG, PNG, WebP, GIF, BMP or AVIF into an upright RGB picture, (H, W, 3) uint8.

    EXIF orientation is applied; all other metadata is ignored. Of an animation, only the first frame is decoded.
    Transparent parts become white, as viewers show them; an alpha channel that is 0 everywhere is ignored. 16-bit samples
    are scaled to 8 bits by their significant bits, not clipped. Up to 1,024 bytes before the start of a JPEG are
    skipped, and a JPEG that lacks only its end marker is complete.

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
    TransientError
        `out_of_memory` if the memory of this process does not suffice.

    """
    content = _from_its_start(content)
    try:
        picture = _open(content)
        width, height = picture.size
        if width * height > max_pixels:
            raise _too_many_pixels(f"The picture has {width} × {height} pixels, {width * height:,} in all", max_pixels)
        is_deep = png.is_sixteen_bit(content)
        rgb = _from_sixteen_bits(content, picture) if is_deep else _rgb(_loaded(picture, content))
        upright = _UPRIGHT.get(_orientation(picture))
        return np.array(rgb if upright is None else rgb.transpose(upright))
    except BadInput:
        raise
    except MemoryError as error:
        raise TransientError(
            "out_of_memory", "There was not enough memory to decode the picture. Send it again, or send it smaller."
        ) from error
    except Pillow.DecompressionBombError as error:
        raise _too_many_pixels("The picture has far too many pixels", max_pixels) from error
    except UnidentifiedImageError as error:
        raise _unidentified(content) from error
    except Exception as error:  # broken bytes can raise any exception inside Pillow's decoders
        raise _damaged(_format_by_signature(content) or "picture", str(error) or type(error).__name__) from error


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


def _from_its_start(content: bytes) -> bytes:
    """Return the picture without what does not belong to it: bytes before a JPEG, metadata of a PNG."""
    if content.startswith(png.SIGNATURE):
        return png.without_metadata(content)
    if _format_by_signature(content) is None:
        start = content.find(_JPEG_START, 0, _MAX_BYTES_BEFORE_JPEG + len(_JPEG_START))
        if start > 0:
            return content[start:]
    return content


def _format_by_signature(content: bytes) -> str | None:
    """Return the format whose signature the content has, None if it is none of `FORMATS`."""
    if content.startswith(_JPEG_START):
        return "JPEG"
    if content.startswith(png.SIGNATURE):
        return "PNG"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if content.startswith(b"BM"):
        return "BMP"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WebP"
    if content[4:8] == b"ftyp" and content[8:12] in (b"avif", b"avis"):
        return "AVIF"
    return None


def _open(content: bytes) -> Pillow.Image:
    """Read the header. Pillow's own warning about large pictures is silenced because `max_pixels` decides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
        return Pillow.open(io.BytesIO(content), formats=FORMATS)


def _loaded(picture: Pillow.Image, content: bytes) -> Pillow.Image:
    """Decode the pixels. A JPEG without its end marker is decoded if all its rows are there."""
    try:
        picture.load()
    except OSError:
        if picture.format != "JPEG":
            raise
        return _jpeg_without_end(content)
    return picture


def _jpeg_without_end(content: bytes) -> Pillow.Image:
    """Decode a JPEG that ends without its end marker. Raises BadInput that says how many rows there are.

    libjpeg puts grey in place of missing data without an error. So the file is decoded twice: with the end marker alone,
    and with filler before it. If the data is complete, both pictures are equal, because the filler is not used. If not,
    they differ from the first missing row on.
    """
    ended, filled = (_open(content + more + _JPEG_END) for more in (b"", _JPEG_FILLER))
    differs = (np.asarray(ended) != np.asarray(filled)).reshape(ended.height, -1).any(axis=1)
    if differs.any():
        rows = int(differs.argmax())
        raise _damaged("JPEG", f"it ends after {rows} of its {ended.height} rows")
    return ended


def _too_many_pixels(problem: str, max_pixels: int) -> BadInput:
    message = f"{problem}; at most {max_pixels:,} are accepted. Send a smaller picture."
    return BadInput("too_many_pixels", message, status=413)


def _damaged(file_format: str, finding: str) -> BadInput:
    return BadInput("not_an_image", f"The {file_format} cannot be decoded: {finding.rstrip('.')}. Send the whole file.")


def _unidentified(content: bytes) -> BadInput:
    if content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS:
        return BadInput("not_an_image", "HEIC pictures cannot be read. Send the photo as JPEG.")
    file_format = _format_by_signature(content)
    if file_format is not None:
        return _damaged(file_format, "its header is damaged or incomplete")
    return BadInput(
        "not_an_image", f"This is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture. Send the photo as JPEG."
    )


def _orientation(picture: Pillow.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a damaged EXIF block does not make a good picture unreadable
        return 1


def _rgb(picture: Pillow.Image) -> Pillow.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    return _on_white(rgba.convert("RGB"), rgba.getchannel("A"))


def _from_sixteen_bits(content: bytes, picture: Pillow.Image) -> Pillow.Image:
    samples = png.sixteen_bit_samples(content)
    has_alpha = samples.shape[2] in (2, 4)
    colour = samples[..., :-1] if has_alpha else samples
    levels = png.to_eight_bits(colour, png.significant_bits(content))
    rgb = Pillow.fromarray(np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3))))
    if has_alpha:
        return _on_white(rgb, Pillow.fromarray((samples[..., -1] >> 8).astype(np.uint8)))
    key = picture.info.get("transparency")  # tRNS: the one colour that is transparent
    if key is None:
        return rgb
    opaque = (samples != np.asarray(key)).any(axis=2)
    return _on_white(rgb, Pillow.fromarray(opaque.astype(np.uint8) * 255))


def _on_white(rgb: Pillow.Image, alpha: Pillow.Image) -> Pillow.Image:
    """Lay a picture on white. An alpha channel that is 0 everywhere is unused: some writers fill the fourth byte so."""
    if alpha.getextrema() == (0, 0):
        return rgb
    return Pillow.composite(rgb, Pillow.new("RGB", rgb.size, "white"), alpha)
