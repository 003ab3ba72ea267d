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
from PIL.ImageFile import ImageFile

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

#: The chunks that decide the pixels of the first frame: the critical ones, and transparency.
_PIXEL_CHUNKS: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"})
#: The chunks that help to show them: significant bits, and EXIF, which holds the orientation.
_HELPFUL_CHUNKS: Final = frozenset({b"sBIT", b"eXIf"})
#: The texts that may hold the orientation, by the type of their chunk: EXIF as ImageMagick and exiftool write it, XMP.
_ORIENTATION_TEXTS: Final = {
    b"tEXt": (b"Raw profile type exif\0", b"Raw profile type APP1\0"),
    b"zTXt": (b"Raw profile type exif\0\0", b"Raw profile type APP1\0\0"),
    b"iTXt": (b"XML:com.adobe.xmp\0\0",),  # the second zero says: not compressed
}
#: Most bytes of such a text, decompressed. EXIF in a JPEG has at most 64 KiB; the text is hexadecimal.
_MAX_ORIENTATION_BYTES: Final = 2 * 65_536 + 4_096

#: Depths, in bits, of cameras that store their samples in the low bits of 16.
_CAMERA_DEPTHS: Final = (10, 12)
#: Pixels that are scaled in one step. Limits the memory.
_BLOCK_PIXELS: Final = 65_536


class Chunk(NamedTuple):
    """One chunk: its type, and where the chunk and its data begin and end in the file."""

    kind: bytes
    start: int
    data_start: int
    data_end: int
    end: int


def without_metadata(content: bytes) -> bytes:
    """Return a PNG without the chunks that neither its pixels nor its orientation need.

    Texts, colour profiles and times are never decompressed, so a bomb in them costs no memory. What follows the last
    whole chunk stays: the decoder says what is wrong with it.
    """
    parts: list[bytes] = []
    kept_until = 0
    for chunk in _chunks(content):
        if chunk.kind not in _PIXEL_CHUNKS and not _is_helpful(content, chunk):
            parts.append(content[kept_until : chunk.start])
            kept_until = chunk.end
    return b"".join([*parts, content[kept_until:]]) if parts else content


def is_sixteen_bit(content: bytes) -> bool:
    """Tell whether the content is a PNG with samples of 16 bits."""
    # Signature, length and type of IHDR, width, height, depth: byte 24.
    return content.startswith(SIGNATURE) and content[24:25] == b"\x10"


def sixteen_bit_samples(picture: ImageFile, content: bytes) -> NDArray[np.uint16]:
    """Return the samples of a PNG of 16 bits, (H, W, C) uint16 with C = 1 (grey), 2 (grey, alpha), 3 (RGB), 4 (RGBA).

    Pillow reads grey in full depth, but only the high byte of a colour sample. So colour is decoded twice: the raw mode
    of the other byte order gives the low byte. Raises what Pillow raises.

    Parameters
    ----------
    picture : ImageFile
        The content, opened but not decoded. It is decoded here.
    content : bytes
        The whole file.

    """
    raw_mode = str(picture.tile[0].args)
    if raw_mode == "I;16B":
        return np.asarray(picture)[..., np.newaxis].astype(np.uint16, copy=False)
    if raw_mode == "LA;16B":
        # Grey and alpha of 16 bits take the four bytes of one RGBA pixel, in the PNG filters and in interlacing too.
        _set_raw_mode(picture, "RGBA")
        as_rgba = np.asarray(picture)
        high, low = as_rgba[..., 0::2], as_rgba[..., 1::2]
    else:  # RGB;16B or RGBA;16B
        high, low = np.asarray(picture), _decode_as(raw_mode.replace("16B", "16L"), content)
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
            return max(bits) if bits and 1 <= max(bits) <= 16 else None
        if chunk.kind == b"IDAT":  # sBIT comes before it
            break
    return None


def to_eight_bits(samples: NDArray[np.uint16], significant: int | None) -> NDArray[np.uint8]:
    """Scale samples of 16 bits to 8.

    The specification puts the picture into the high bits. Cameras with 10 or 12 bits often leave it in the low bits,
    which gives a nearly black picture. So samples that all fit into their significant bits are scaled by these; where
    the file does not say how many are significant, into 10 or 12 bits.

    Parameters
    ----------
    samples : (H, W, C) uint16
        Grey or colour, without alpha.
    significant : int or None
        What `significant_bits` returned.

    """
    largest = int(samples.max(initial=0))
    depths = _CAMERA_DEPTHS if significant is None else (significant,)
    full = (1 << next((depth for depth in depths if largest < 1 << depth), 16)) - 1
    levels = np.arange(full + 1, dtype=np.uint32)
    table = ((levels * 255 + full // 2) // full).astype(np.uint8)
    scaled = np.empty(samples.shape, np.uint8)
    pixels, scaled_pixels = (array.reshape(-1, samples.shape[2]) for array in (samples, scaled))
    for start in range(0, len(pixels), _BLOCK_PIXELS):  # NumPy makes 8 bytes of each index
        block = slice(start, start + _BLOCK_PIXELS)
        scaled_pixels[block] = table[pixels[block]]
    return scaled


def _decode_as(raw_mode: str, content: bytes) -> NDArray[np.uint8]:
    picture = Pillow.open(io.BytesIO(content), formats=("PNG",))
    _set_raw_mode(picture, raw_mode)
    return np.asarray(picture)


def _set_raw_mode(picture: ImageFile, raw_mode: str) -> None:
    """Let Pillow's decoder unpack the bytes of the file in another way."""
    picture.tile = [tile._replace(args=raw_mode) for tile in picture.tile]


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


def _is_helpful(content: bytes, chunk: Chunk) -> bool:
    """Tell whether a chunk that is not necessary helps to show the picture, and is undamaged."""
    if chunk.kind not in _HELPFUL_CHUNKS and not _may_hold_orientation(content, chunk):
        return False
    return (
        zlib.crc32(content[chunk.start + 4 : chunk.data_end]).to_bytes(4, "big") == content[chunk.data_end : chunk.end]
    )


def _may_hold_orientation(content: bytes, chunk: Chunk) -> bool:
    """Tell whether a text chunk may hold the orientation, and stays small when it is decompressed."""
    keywords = _ORIENTATION_TEXTS.get(chunk.kind, ())
    keyword = next((each for each in keywords if content.startswith(each, chunk.data_start)), None)
    if keyword is None or chunk.data_end - chunk.data_start > _MAX_ORIENTATION_BYTES:
        return False
    if chunk.kind != b"zTXt":
        return True
    decompressor = zlib.decompressobj()
    try:
        decompressor.decompress(content[chunk.data_start + len(keyword) : chunk.data_end], _MAX_ORIENTATION_BYTES)
    except zlib.error:
        return False
    return not decompressor.unconsumed_tail
