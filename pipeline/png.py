"""PNG beyond what Pillow gives: files with oversized metadata, and samples of 16 bits in full depth.

Source of all chunk rules: W3C, Portable Network Graphics (PNG) Specification (Third Edition).
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngImageFile

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

#: The chunks that decide pixels and orientation: critical ones, transparency, significant bits, EXIF, animation.
_KEPT_CHUNKS: Final = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sBIT", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
)
#: Keywords of text chunks in which ImageMagick and exiftool store EXIF, and with it the orientation.
_EXIF_KEYWORDS: Final = (b"Raw profile type exif\0", b"Raw profile type APP1\0")
#: Most bytes of such a text, decompressed. EXIF in a JPEG has at most 64 KiB; the text is hexadecimal.
_MAX_EXIF_BYTES: Final = 2 * 65_536 + 4_096

#: Depths, in bits, of cameras that store their samples in the low bits of 16.
_CAMERA_DEPTHS: Final = (10, 12)


class Chunk(NamedTuple):
    """One chunk: its type, and where the chunk and its data begin and end in the file."""

    kind: bytes
    start: int
    data_start: int
    data_end: int
    end: int


def without_metadata(content: bytes) -> bytes:
    """Return a PNG without the chunks that neither its pixels nor its orientation need.

    Texts, colour profiles and times are never decompressed, so a bomb in them costs no memory. Content that is not a
    well-formed row of chunks is returned as far as it is one: the decoder then says what is wrong.
    """
    parts = [SIGNATURE]
    position = len(SIGNATURE)
    for chunk in _chunks(content):
        if chunk.kind in _KEPT_CHUNKS or _is_exif_text(content, chunk):
            parts.append(content[chunk.start : chunk.end])
        position = chunk.end
    return b"".join([*parts, content[position:]])


def is_sixteen_bit(content: bytes) -> bool:
    """Tell whether the content is a PNG with samples of 16 bits."""
    # Signature, length and type of IHDR, width, height, depth: byte 24.
    return content.startswith(SIGNATURE) and content[24:25] == b"\x10"


def sixteen_bit_samples(content: bytes) -> NDArray[np.uint16]:
    """Return the samples of a PNG of 16 bits, (H, W, C) uint16 with C = 1 (grey), 2 (grey, alpha), 3 (RGB), 4 (RGBA).

    Pillow reads grey in full depth, but only the high byte of a colour sample. So colour is read twice, each byte with a
    raw mode of its own. Raises what Pillow raises.
    """
    picture = _open(content)
    raw_mode = str(picture.tile[0].args)
    if raw_mode == "I;16B":
        return np.asarray(picture)[..., np.newaxis].astype(np.uint16)
    if raw_mode == "LA;16B":
        # Two samples of 16 bits take the four bytes of one RGBA pixel, also in the filters and in interlacing.
        as_rgba = _read_bytes(content, "RGBA")
        high, low = as_rgba[..., 0::2], as_rgba[..., 1::2]
    else:  # RGB;16B or RGBA;16B; the other byte order gives the other byte
        high, low = _read_bytes(content, raw_mode), _read_bytes(content, raw_mode.replace("16B", "16L"))
    samples = high.astype(np.uint16)
    samples <<= 8
    samples |= low
    return samples


def significant_bits(content: bytes) -> int | None:
    """Return how many bits of each sample carry the picture according to the sBIT chunk; None if it does not say.

    Where channels differ, the largest number counts.
    """
    for chunk in _chunks(content):
        if chunk.kind == b"sBIT":
            bits = content[chunk.data_start : chunk.data_end]
            return max(bits) if bits else None
        if chunk.kind == b"IDAT":  # sBIT comes before it
            break
    return None


def to_eight_bits(samples: NDArray[np.uint16], bits: int | None) -> NDArray[np.uint8]:
    """Scale samples of 16 bits to 8.

    The specification puts the picture into the high bits. Cameras with 10 or 12 bits often leave it in the low bits,
    which gives a nearly black picture. So samples that all fit into `bits`, or into 10 or 12 bits, are scaled by that.

    Parameters
    ----------
    samples : (H, W, C) uint16
        Grey or colour, without alpha.
    bits : int or None
        What `significant_bits` returned.

    """
    depths = ([bits] if bits is not None and 8 < bits < 16 else []) + list(_CAMERA_DEPTHS)
    largest = int(samples.max(initial=0))
    full = (1 << next((depth for depth in depths if largest < 1 << depth), 16)) - 1
    levels = np.arange(full + 1, dtype=np.uint32)
    table: NDArray[np.uint8] = ((levels * 255 + full // 2) // full).astype(np.uint8)
    return table[samples]


def _open(content: bytes) -> PngImageFile:
    picture = Pillow.open(io.BytesIO(content), formats=("PNG",))
    assert isinstance(picture, PngImageFile)  # noqa: S101 - for the type checker: no other format is allowed
    return picture


def _read_bytes(content: bytes, raw_mode: str) -> NDArray[np.uint8]:
    """Decode the first frame with one of Pillow's raw modes; (H, W, C) uint8."""
    picture = _open(content)
    picture.tile = [tile._replace(args=raw_mode) for tile in picture.tile]
    return np.asarray(picture)


def _chunks(content: bytes) -> Iterator[Chunk]:
    """Return the whole chunks of a PNG in their order, up to IEND."""
    position = len(SIGNATURE)
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if end > len(content):
            return
        yield Chunk(kind, position, position + 8, position + 8 + length, end)
        if kind == b"IEND":
            return
        position = end


def _is_exif_text(content: bytes, chunk: Chunk) -> bool:
    """Tell whether a text chunk holds EXIF and stays small when it is decompressed."""
    if chunk.kind not in (b"tEXt", b"zTXt") or chunk.data_end - chunk.data_start > _MAX_EXIF_BYTES:
        return False
    data = content[chunk.data_start : chunk.data_end]
    keyword = next((keyword for keyword in _EXIF_KEYWORDS if data.startswith(keyword)), None)
    if keyword is None:
        return False
    if chunk.kind == b"tEXt":
        return True
    decompressor = zlib.decompressobj()
    try:
        decompressor.decompress(data[len(keyword) + 1 :], _MAX_EXIF_BYTES)
    except zlib.error:
        return False
    return not decompressor.unconsumed_tail
