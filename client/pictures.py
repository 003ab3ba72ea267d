"""Picture formats that the service does not read: turned into JPEG on this machine."""

import io
import warnings
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

from client.file_kinds import printable_name
from pipeline.errors import BadInput
from pipeline.images import encode_jpeg

#: Formats of Pillow that we convert. TIFF also covers BigTIFF.
_PILLOW_FORMATS: Final = ("TIFF", "JPEG2000", "AVIF")
_PILLOW_STARTS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
_QUALITY: Final = 95


def read_content(path: Path) -> bytes:
    """Return the content of a file. Raises BadInput if it cannot be read, or is empty."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput("not_readable", f"{printable_name(path)} cannot be read: {error.strerror}.") from error
    if not content:
        raise BadInput("empty_file", "The file is empty.")
    return content


def for_the_service(content: bytes) -> bytes:
    """Return a picture in a format that the service reads.

    HEIC, AVIF, TIFF and JPEG 2000 become an upright JPEG of quality 95; transparent parts become white. Any other
    content is returned as it is, so that the service judges it. An MPO begins with a JPEG, which the service reads.

    Raises
    ------
    BadInput
        `not_an_image` if a picture in one of these formats cannot be decoded.

    """
    is_heif, is_avif = _is_heif_or_avif(content)
    if not (is_heif or is_avif or content.startswith(_PILLOW_STARTS)):
        return content
    try:
        with warnings.catch_warnings():
            # Pillow warns about large pictures; the service's limit decides.
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            picture = _from_heif(content) if is_heif else _from_pillow(content)
            return encode_jpeg(np.asarray(_rgb(picture)), _QUALITY)
    except Exception as error:  # broken bytes can raise any exception inside the decoders
        finding = " ".join(str(error).split())[:150].rstrip(".")
        raise BadInput(
            "not_an_image", f"The picture cannot be decoded: {finding or type(error).__name__}. Send it as JPEG."
        ) from error


def _is_heif_or_avif(content: bytes) -> tuple[bool, bool]:
    """Tell whether this is a HEIC, or an AVIF, whose own brand may be among the compatible ones only."""
    if content[4:8] != b"ftyp":
        return False, False
    end = min(int.from_bytes(content[:4], "big"), 256)
    brands = [content[start : start + 4] for start in (8, *range(16, end, 4))]
    is_avif = not _AVIF_BRANDS.isdisjoint(brands)
    return brands[0] in _HEIF_BRANDS and not is_avif, is_avif


def _from_heif(content: bytes) -> Pillow.Image:
    """Decode a HEIC. libheif turns it upright; the EXIF orientation repeats that turn and is ignored."""
    import pillow_heif  # in the `local` extra, which only such pictures need

    return pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=True).to_pillow()


def _from_pillow(content: bytes) -> Pillow.Image:
    picture = Pillow.open(io.BytesIO(content), formats=_PILLOW_FORMATS)
    picture.load()
    return ImageOps.exif_transpose(picture)


def _rgb(picture: Pillow.Image) -> Pillow.Image:
    if picture.mode.startswith("I;16"):  # Pillow would clip such samples
        return Pillow.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"samples of 32 bits ({picture.mode}) have no known white")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    return Pillow.alpha_composite(Pillow.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
