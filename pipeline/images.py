"""Decodes pictures to upright RGB arrays, and encodes them as JPEG.

Decoding is generous where the pixels are all there (metadata is ignored, bytes before a JPEG are skipped, a missing end
marker is supplied) and strict where they are not.
"""

import io
import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageChops, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from pipeline import jpeg, png
from pipeline.errors import BadInput, TransientError
from pipeline.ports import Image

#: Width times height of the largest picture that is decoded: a little more than a 24-megapixel photo. Decoding and
#: detection take about 22 bytes of memory per pixel.
MAX_PIXELS = 25_000_000

#: What the client of a picture gets when it meets a `MemoryError`.
OUT_OF_MEMORY = "There was not enough memory to decode the picture. Send it again, or send a smaller one."

#: The only decoders of Pillow that see bytes from outside. Cameras and browsers write these formats, and their
#: decoders neither run another program (EPS would run Ghostscript) nor read another file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
#: Major brands of the HEIF family (ISO 23008-12), which phones save as .heic: bytes 8 to 12 of the file.
HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})

#: The brands of AVIF, of which a file has one as the major or as a compatible brand. (AVIF specification, section 9)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
#: How much of a file's list of brands is read.
_MAX_BRANDS_BYTES: Final = 256

#: How far into the content a JPEG may begin: the head of a multipart part has one or two hundred bytes.
_MAX_BYTES_BEFORE_JPEG: Final = 1_024
#: Longest text of Pillow that a message quotes, in characters.
_MAX_FINDING_CHARS: Final = 150

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
    Transparent parts become white, as viewers show them; an alpha channel that is 0 everywhere is ignored. Samples of
    16 bits are scaled to 8 by their significant bits, not clipped. Up to 1,024 bytes before the start of a JPEG are
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
    try:
        content = _from_its_start(content)
        picture = _open(content)
        width, height = picture.size
        if width * height > max_pixels:
            raise _too_many_pixels(f"The picture has {width} × {height} pixels, {width * height:,} in all", max_pixels)
        is_deep = png.is_sixteen_bit(content)
        rgb = _from_sixteen_bits(picture, content) if is_deep else _rgb(_loaded(picture, content))
        upright = _UPRIGHT.get(_orientation(picture))
        return np.array(rgb if upright is None else rgb.transpose(upright))
    except BadInput:
        raise
    except Pillow.DecompressionBombError as error:
        raise _too_many_pixels("The picture has far too many pixels", max_pixels) from error
    except UnidentifiedImageError as error:
        raise _unidentified(content) from error
    except Exception as error:  # broken bytes can raise any exception inside Pillow's decoders
        if _is_out_of_memory(error):
            raise TransientError("out_of_memory", OUT_OF_MEMORY) from error
        if _is_heif(content):
            raise _unidentified(content) from error
        raise _damaged(_format_by_signature(content) or "picture", _finding(error, content)) from error


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
    if _format_by_signature(content) is None and not _is_heif(content):
        start = content.find(jpeg.START, 0, _MAX_BYTES_BEFORE_JPEG + len(jpeg.START))
        if start > 0:
            return content[start:]
    return content


def _format_by_signature(content: bytes) -> str | None:
    """Return the format whose signature the content has, None if it is none of `FORMATS`."""
    if content.startswith(jpeg.START):
        return "JPEG"
    if content.startswith(png.SIGNATURE):
        return "PNG"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if content.startswith(b"BM"):
        return "BMP"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WebP"
    if not _AVIF_BRANDS.isdisjoint(_brands(content)):
        return "AVIF"
    return None


def _brands(content: bytes) -> list[bytes]:
    """Return the brands of a file of ISO's base media format, the major one first; none for any other file."""
    if content[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(content[:4], "big"), _MAX_BRANDS_BYTES)
    return [content[start : start + 4] for start in (8, *range(16, end, 4))]  # bytes 12 to 15 are the minor version


def _is_heif(content: bytes) -> bool:
    """Tell whether this is a picture of the HEIF family other than AVIF, whose major brand may be a general one."""
    brands = _brands(content)
    return bool(brands) and brands[0] in HEIF_BRANDS and _AVIF_BRANDS.isdisjoint(brands)


def _open(content: bytes) -> ImageFile:
    """Read the header.

    Pillow's warnings are silenced: `max_pixels` decides about large pictures, and a warning of damaged EXIF would be a
    line of text in the functions' JSON logs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Pillow.open(io.BytesIO(content), formats=FORMATS)


def _loaded(picture: ImageFile, content: bytes) -> Pillow.Image:
    """Decode the pixels. A JPEG without its end marker is decoded if all its rows are there."""
    try:
        picture.load()
    except OSError as error:
        # Pillow calls a JPEG with further pictures after the first one MPO.
        if picture.format not in ("JPEG", "MPO") or _is_out_of_memory(error):
            raise
        return _jpeg_without_end(content)
    return picture


def _jpeg_without_end(content: bytes) -> Pillow.Image:
    """Decode a JPEG that ends without its end marker. Raises BadInput that says how much of the picture is there.

    libjpeg puts grey in place of missing data without an error. So the file is decoded with the end marker alone, and
    with other data before it. If nothing is missing, both pictures are equal, because nothing reads the other data.
    """
    content = content.rstrip(b"\xff")  # half of the end marker
    scans, height = len(jpeg.scans(content)), 0
    first_difference = None
    try:
        ended = _open(content + jpeg.END)
        height = ended.height
        ended.load()
        for filler in jpeg.fillers(content):
            difference = ImageChops.difference(ended, _open(content + filler + jpeg.END)).getbbox()
            if difference is not None:
                first_difference = difference[1]
                break
    except OSError as error:
        if not str(error).startswith("image file is truncated"):
            raise
        first_difference = 0
    if jpeg.lacks_scans(content) or (first_difference is not None and scans > 1):
        raise _damaged("JPEG", f"it ends in scan {scans}, before its {height} rows have all their detail")
    if first_difference is not None:
        raise _damaged("JPEG", f"it ends after {first_difference} of its {height} rows")
    return ended


def _too_many_pixels(problem: str, max_pixels: int) -> BadInput:
    message = f"{problem}; at most {max_pixels:,} are accepted. Send a smaller picture."
    return BadInput("too_many_pixels", message, status=413)


def _damaged(file_format: str, finding: str) -> BadInput:
    return BadInput("not_an_image", f"The {file_format} cannot be decoded: {finding}. Send the whole, unchanged file.")


def _finding(error: Exception, content: bytes) -> str:
    """Return what Pillow found, as a part of a sentence. Of a WebP that is cut it finds no more than that it is bad."""
    if content.startswith(b"RIFF"):
        size = 8 + int.from_bytes(content[4:8], "little")
        if size > len(content):
            return f"it ends after {len(content):,} of its {size:,} bytes"
    text = " ".join(str(error).split())[:_MAX_FINDING_CHARS].rstrip(".")
    if text == "Truncated File Read":
        return "it ends in its header"
    if isinstance(error, OSError | RuntimeError | SyntaxError | ValueError) and text:
        return text
    return f"its bytes contradict each other ({type(error).__name__}{': ' if text else ''}{text})"


def _header_finding(file_format: str, content: bytes) -> str:
    """Return in brackets what Pillow found in the header: it names this only to the caller of a format's own reader."""
    read_header, _ = Pillow.OPEN[file_format.upper()]
    try:
        read_header(io.BytesIO(content), "")
    except SyntaxError as error:
        is_sentence = error.__cause__ is None and "driver" not in str(error)  # else an exception of Python, or nothing
        return f" ({_finding(error, content)})" if is_sentence else ""
    except Exception:  # noqa: BLE001 - any other exception says no more than the sentence before it
        return ""
    return ""


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out. Pillow's decoders report this as an OSError with the text of its C library."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and str(error).startswith("out of memory"))


def _unidentified(content: bytes) -> BadInput:
    if _is_heif(content):
        return BadInput("not_an_image", "HEIC pictures cannot be read. Send the photo as JPEG.")
    file_format = _format_by_signature(content)
    if file_format is not None:
        return _damaged(file_format, f"its header is damaged or incomplete{_header_finding(file_format, content)}")
    return BadInput(
        "not_an_image", f"This is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture. Send the photo as JPEG."
    )


def _orientation(picture: Pillow.Image) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # see `_open`
            return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a damaged EXIF block does not make a good picture unreadable
        return 1


def _rgb(picture: Pillow.Image) -> Pillow.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    return _on_white(rgba.convert("RGB"), rgba.getchannel("A"))


def _from_sixteen_bits(picture: ImageFile, content: bytes) -> Pillow.Image:
    samples = png.sixteen_bit_samples(picture, content)
    colours = {1: 1, 2: 1, 3: 3, 4: 3}[samples.shape[2]]
    levels = png.to_eight_bits(samples[..., :colours], png.significant_bits(content))
    alpha = _sixteen_bit_alpha(samples, colours, picture.info.get("transparency"))
    del samples
    rgb = Pillow.fromarray(np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3))))
    return rgb if alpha is None else _on_white(rgb, Pillow.fromarray(alpha))


def _sixteen_bit_alpha(samples: NDArray[np.uint16], colours: int, key: object) -> NDArray[np.uint8] | None:
    """Return the alpha channel, (H, W) uint8; None if the picture has none. `key` is the one transparent colour."""
    if samples.shape[2] > colours:
        return (samples[..., -1] >> 8).astype(np.uint8)
    if key is None:
        return None
    opaque: NDArray[np.bool_] = (samples != np.asarray(key, np.uint16)).any(axis=2)
    return opaque.astype(np.uint8) * np.uint8(255)


def _on_white(rgb: Pillow.Image, alpha: Pillow.Image) -> Pillow.Image:
    """Lay a picture on white. An alpha channel that is 0 everywhere is unused: some writers fill the fourth byte so."""
    if alpha.getextrema() == (0, 0):
        return rgb
    return Pillow.composite(rgb, Pillow.new("RGB", rgb.size, "white"), alpha)
