"""What a file is: decided by the first bytes of its content, not by its name."""

import os
import re
from enum import Enum
from pathlib import Path
from typing import Final

#: How much of a file `kind_of` looks at, in bytes. The second picture of an MJPEG file begins within this.
HEAD_BYTES: Final = 1_048_576

#: Enough to tell pictures and videos from other files, bytes. An MJPEG file then counts as a picture.
SHORT_HEAD_BYTES: Final = 4_096

#: Suffixes that promise a picture or a video. They decide only how we report a file whose content is neither.
PICTURE_SUFFIXES: Final = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".bmp",
        ".gif",
        ".webp",
        ".avif",
        ".heic",
        ".heif",
        ".hif",
        ".tif",
        ".tiff",
        ".jp2",
        ".j2k",
        ".jpx",
    }
)
VIDEO_SUFFIXES: Final = frozenset(
    {
        ".mp4",
        ".m4v",
        ".mov",
        ".avi",
        ".mkv",
        ".webm",
        ".ts",
        ".mts",
        ".m2ts",
        ".3gp",
        ".3g2",
        ".flv",
        ".wmv",
        ".asf",
        ".mpg",
        ".mpeg",
        ".mjpeg",
        ".mjpg",
        ".ogv",
        ".mxf",
    }
)

_PICTURES: Final = (
    b"\xff\xd8\xff",  # JPEG; MPO is a JPEG with further ones behind it
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF
    b"MM\0*",
    b"II+\0",  # BigTIFF
    b"MM\0+",
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000, ISO/IEC 15444-1, annex I
    b"\xff\x4f\xff\x51",  # its bare codestream
)
_VIDEOS: Final = (
    b"\x1aE\xdf\xa3",  # Matroska and WebM
    b"FLV\x01",
    b"0&\xb2u\x8ef\xcf\x11",  # ASF: .wmv
    b"\0\0\x01\xba",  # MPEG program stream
    b"\0\0\x01\xb3",  # bare MPEG video
    b"\0\0\0\x01\x67",  # bare H.264: a sequence parameter set
    b"\0\0\0\x01\x27",
    b"\0\0\0\x01\x09",  # or an access unit delimiter
    b"\0\0\0\x01\x40\x01",  # bare H.265: a video parameter set
    b"OggS",
    b"DKIF",
    b"YUV4MPEG2 ",
    b"\x06\x0e+4",  # MXF
)
#: Brands of ISO's base media format that are pictures (ISO 23008-12 and the AVIF specification), or sound alone.
_PICTURE_BRANDS: Final = frozenset(
    {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"}
)
_SOUND_BRANDS: Final = frozenset({b"M4A ", b"M4B ", b"M4P "})
#: The boxes with which a QuickTime file without a brand begins. (QuickTime file format, "Atoms")
_QUICKTIME_BOXES: Final = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip"})
#: Packets of an MPEG transport stream begin with 0x47 and have 188 bytes; in .mts, 4 bytes of time stand before each.
_TRANSPORT_PACKETS: Final = ((0, 188), (4, 192))
#: Zip archives and PDFs may have a JPEG near their start, and are no picture. So may tar archives ("ustar" at 257).
_CONTAINERS: Final = (b"PK\x03\x04", b"%PDF")
#: Up to this many bytes before a JPEG are skipped, as the service does.
_MAX_BYTES_BEFORE_JPEG: Final = 1_024
#: The start of frame of a JPEG with its segment: precision, height and width follow its length. (ITU-T T.81, B.2.2)
_START_OF_FRAME: Final = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..(.)(....)", re.DOTALL)
_NEXT_JPEG: Final = re.compile(rb"\xff\xd9\x00*\xff\xd8\xff")


class Kind(Enum):
    """What the content of a file is."""

    PICTURE = "picture"
    VIDEO = "video"
    EMPTY = "empty"
    OTHER = "other"


def kind_of(head: bytes) -> Kind:
    """Return what a file is that begins with `head`, its first `HEAD_BYTES` bytes or all it has."""
    if not head:
        return Kind.EMPTY
    if head.startswith(b"\xff\xd8\xff"):
        return Kind.VIDEO if _is_mjpeg(head) else Kind.PICTURE
    if head.startswith(_PICTURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return Kind.PICTURE
    if head[:2] == b"BM" and head[6:10] == bytes(4):  # a BMP's reserved bytes: text may begin with BM, too
        return Kind.PICTURE
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return Kind.PICTURE if brand in _PICTURE_BRANDS else Kind.OTHER if brand in _SOUND_BRANDS else Kind.VIDEO
    if head.startswith(_VIDEOS) or head[4:8] in _QUICKTIME_BOXES or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return Kind.VIDEO
    if any(head[first::size][:3] == b"GGG" for first, size in _TRANSPORT_PACKETS):
        return Kind.VIDEO
    if head.startswith(_CONTAINERS) or head[257:262] == b"ustar":
        return Kind.OTHER
    return Kind.PICTURE if b"\xff\xd8\xff" in head[: _MAX_BYTES_BEFORE_JPEG + 3] else Kind.OTHER


def kind_of_file(path: Path, head_bytes: int = HEAD_BYTES) -> Kind:
    """Return what a file is, judged by its first `head_bytes` bytes. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return kind_of(file.read(head_bytes))


def printable_name(path: Path | str) -> str:
    """Return a path as text that can be sent and stored: bytes that are not UTF-8 become the replacement character."""
    return os.fsencode(path).decode("utf-8", "replace")


def _is_mjpeg(head: bytes) -> bool:
    """Tell whether this is a series of JPEGs of one size. The pictures that cameras put behind a JPEG are of others.

    An MPO, whose pictures may have one size, has an index in its first picture. (CIPA DC-007)
    """
    following = _NEXT_JPEG.search(head)
    if following is None or b"MPF\0" in head[: following.start()]:
        return False
    first = _START_OF_FRAME.search(head, 2, following.start())
    second = _START_OF_FRAME.search(head, following.end())
    return first is not None and second is not None and first[2] == second[2]
