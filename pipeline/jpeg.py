"""JPEG beyond what Pillow gives: pictures that lack their end marker, and pictures that are cut before their last row.

Source of the marker rules: ITU-T T.81, annex B, and annex G for the progressive mode.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

#: How a JPEG begins (the marker SOI and the first byte of the next one) and ends (EOI).
START: Final = b"\xff\xd8\xff"
END: Final = b"\xff\xd9"

#: Most scans that are looked at. Encoders write about ten; a file with more than this is made to take time.
MAX_SCANS: Final = 1_000

_START_OF_SCAN: Final = 0xDA
#: All start-of-frame markers, and those of the progressive mode among them. (Table B.1)
_START_OF_FRAME: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_RESTART: Final = range(0xD0, 0xD8)
#: A marker in or after compressed data, where 0xFF00 stands for the byte 0xFF and restart markers part the data.
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
#: Compressed data of no picture. A few missing bits may happen to mean the same as one of these, hardly as both.
_NOISES: Final = (b"\x55\xa3", b"\xaa\x5c")


@dataclass(frozen=True)
class Scan:
    """One pass of compressed data: its components, the coefficients and lowest bit that it gives, where it begins."""

    components: bytes
    first_coefficient: int
    last_coefficient: int
    lowest_bit: int
    data_start: int


def scans(content: bytes) -> list[Scan]:
    """Return the first `MAX_SCANS` scans whose headers are complete, in their order."""
    found: list[Scan] = []
    for marker, start, end in _segments(content):
        if len(found) == MAX_SCANS:
            break
        if marker == _START_OF_SCAN and end - start >= 4:
            count = content[start]
            components = content[start + 1 : start + 1 + 2 * count : 2]
            first, last, bits = content[end - 3 : end]
            found.append(Scan(components, first, last, bits & 0x0F, end))
    return found


def lacks_scans(content: bytes) -> bool:
    """Tell whether some component of the picture, or some of its detail, has no scan.

    In the progressive mode, each scan adds coefficients or one more bit of them. Only then can a picture have all its
    rows before its last scan.
    """
    progressive, components = _frame(content)
    # The lowest bit so far of each coefficient. Bit 0 completes it; 13 is the highest that a scan may begin with.
    lowest_bits = {component: [13] * 64 for component in components}
    for scan in scans(content):
        first, last = (scan.first_coefficient, min(scan.last_coefficient, 63)) if progressive else (0, 63)
        bits = [scan.lowest_bit if progressive else 0] * (last - first + 1)
        for component in scan.components:
            if component in lowest_bits:
                lowest_bits[component][first : first + len(bits)] = bits
    return any(any(bits) for bits in lowest_bits.values())


def fillers(content: bytes) -> Iterator[bytes]:
    """Return bytes to put in place of the missing rest of a JPEG: a decoder that reads them gives another picture.

    At the end of a restart interval, a decoder skips everything up to the next restart marker. So a filler also has all
    of these, numbered on from the last one in the content.
    """
    data_start = max((scan.data_start for scan in scans(content)), default=0)
    position, last = max((content.rfind(bytes([0xFF, marker]), data_start), marker) for marker in _RESTART)
    following = last - _RESTART.start + 1 if position >= 0 else 0
    for noise in _NOISES:
        restarts = (bytes([0xFF, _RESTART[(following + number) % 8]]) + noise * 64 for number in range(64))
        yield noise * 4_096 + b"".join(restarts)


def _frame(content: bytes) -> tuple[bool, bytes]:
    """Return whether the picture is progressive, and the ids of its components."""
    for marker, start, end in _segments(content):
        if marker in _START_OF_FRAME and end - start >= 6:
            return marker in _PROGRESSIVE, content[start + 6 : end : 3]
    return False, b""


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Return the marker of each complete segment, and where its parameters begin and end."""
    position = len(START) - 1
    while (match := _MARKER.search(content, position)) is not None:
        start = match.end() + 2
        if start > len(content):
            return
        (length,) = struct.unpack_from(">H", content, match.end())
        position = match.end() + max(2, length)
        if position > len(content):
            return
        yield match[1][0], start, position
