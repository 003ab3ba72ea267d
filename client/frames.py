"""Frames from pictures, folders, videos and standard input."""

import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, BinaryIO, Final

from client.file_kinds import (
    HEAD_BYTES,
    PICTURE_SUFFIXES,
    SHORT_HEAD_BYTES,
    VIDEO_SUFFIXES,
    Kind,
    kind_of,
    kind_of_file,
    printable_name,
)
from client.pictures import for_the_service, read_content
from client.videos import EVERY_FRAME, Sampling, VideoCounts, video_frames
from pipeline.errors import BadInput

#: The path that means standard input.
STANDARD_INPUT: Final = Path("-")
#: The most that is read from standard input or a FIFO, bytes. One that never ends would fill the disk.
_MAX_PIPED_BYTES: Final = 2_000_000_000
#: How much of it stays in memory, bytes.
_MAX_PIPED_BYTES_IN_MEMORY: Final = 32_000_000
#: Addresses of network streams. `Path` makes one slash of two.
_ADDRESS: Final = re.compile(r"(rtsps?|rtmps?|https?|udp|rtp|srt|mms|hls):/", re.IGNORECASE)


@dataclass(frozen=True)
class Frame:
    """One picture to send.

    Parameters
    ----------
    filename : str
        The name under which the answer is shown; a frame of a video has its number behind it.
    content : bytes
        The encoded picture.
    problem : str or None
        Why the file could not be read; then `content` is empty.
    path : str
        The path of the file as the user gave it, or the folder as given with the path inside it. Empty if the frame
        does not come from a file.
    seconds : float or None
        For a frame of a video, its time since the video's start.

    """

    filename: str
    content: bytes
    problem: str | None = None
    path: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class Skipped:
    """A file or a folder inside a given folder that was left out, and why, as a part of a sentence."""

    filename: str
    reason: str


@dataclass
class ReadingReport:
    """What was read beside the frames: what folders contained that was left out, and the counts of each video."""

    skipped: list[Skipped] = field(default_factory=list)
    videos: list[VideoCounts] = field(default_factory=list)


@dataclass(frozen=True)
class FolderContent:
    """The pictures and videos of a folder, at any depth and sorted by path, and what else it contains."""

    files: list[Path]
    skipped: list[Skipped]


def frames(
    paths: Iterable[Path],
    sampling: Sampling = EVERY_FRAME,
    report: ReadingReport | None = None,
    standard_input: BinaryIO | None = None,
) -> Iterator[Frame]:
    """Yield the frames of each path in order. A folder gives its pictures and videos, at any depth, sorted by name.

    What a file is, is decided by its content. All paths are checked before the first frame. A file that cannot be read
    gives a frame with a problem, so that the other files are still sent. A given file that is neither a picture nor a
    video is sent as it is: the service says what is wrong with it.

    Parameters
    ----------
    sampling : Sampling
        Which frames of a video to take.
    report : ReadingReport or None
        Gets what was left out of folders, before the first frame, and the counts of each video, after its last frame.
    standard_input : file or None
        What to read for the path `-`; None means the standard input of this process.

    Raises
    ------
    BadInput
        A path does not exist or is the address of a stream, or a folder contains no picture and no video.

    """
    report = ReadingReport() if report is None else report
    files = [file for path in paths for file in _files(path, report)]
    for path, name in files:
        shown = "" if path == STANDARD_INPUT else printable_name(path)
        try:
            for frame in _frames_of(path, name, sampling, report, standard_input):
                yield replace(frame, path=shown)
        except BadInput as error:
            yield Frame(name, b"", error.message, shown)


def _frames_of(
    path: Path, name: str, sampling: Sampling, report: ReadingReport, standard_input: BinaryIO | None
) -> Iterator[Frame]:
    if path == STANDARD_INPUT:
        yield from _piped(standard_input or sys.stdin.buffer, name, sampling, report)
    elif path.is_fifo():
        with path.open("rb") as pipe:
            yield from _piped(pipe, name, sampling, report)
    else:
        yield from _file(path, name, sampling, report)


def _files(path: Path, report: ReadingReport) -> list[tuple[Path, str]]:
    """Return the files that a path stands for, each with the name to show."""
    if path == STANDARD_INPUT:
        return [(path, "-")]
    refuse_address(path)
    if path.is_dir():
        content = folder_content(path)
        report.skipped += content.skipped
        if not content.files:
            raise BadInput(
                "no_frames", f"The folder {printable_name(path)} contains no picture and no video{_left_out(content)}."
            )
        return [(file, printable_name(file.relative_to(path))) for file in content.files]
    if path.exists():
        return [(path, printable_name(path.name))]
    raise BadInput("no_such_file", f"There is no file {printable_name(path)}.")


def refuse_address(path: Path) -> None:
    """Raise BadInput if a path is the address of a stream. It may have a password in it, so it is not shown."""
    address = _ADDRESS.match(str(path))
    if address:
        raise BadInput(
            "not_a_file",
            f"faceq reads files, and this is the address of a stream ({address[1].lower()}). Save a part of it first,"
            " for example with: ffmpeg -i ADDRESS -t 60 -c copy part.mkv",
        )


def folder_content(folder: Path, *, videos: bool = True) -> FolderContent:
    """Return the pictures, and unless `videos` is False the videos, of a folder, and what was left out.

    Hidden files and folders, the `._` files of macOS and Synology's `@eaDir` folders are left out. A file whose suffix
    promises a picture or a video is returned even if its content is neither, so that the damage is reported.
    """
    files: list[Path] = []
    skipped: list[Skipped] = []

    def skip(path: Path, reason: str) -> None:
        skipped.append(Skipped(printable_name(path.relative_to(folder)), reason))

    def cannot_list(error: OSError) -> None:
        skip(Path(error.filename), f"the folder cannot be read: {error.strerror}")

    for parent, folder_names, file_names in os.walk(folder, onerror=cannot_list):
        for name in [*folder_names]:
            reason = _reason_by_name(name, "folder")
            if reason is not None:
                folder_names.remove(name)
                skip(Path(parent, name), reason)
        for name in file_names:
            path = Path(parent, name)
            reason = _reason_by_name(name, "file") or _reason_by_content(path, videos)
            if reason is None:
                files.append(path)
            else:
                skip(path, reason)
    return FolderContent(sorted(files), sorted(skipped, key=lambda one: one.filename))


def _left_out(content: FolderContent) -> str:
    if not content.skipped:
        return ""
    first = content.skipped[0]
    more = len(content.skipped) - 1
    return f": skipped {first.filename} ({first.reason}){f' and {more} more' if more else ''}"


def _reason_by_name(name: str, what: str) -> str | None:
    if name == "@eaDir":
        return "previews of a Synology disk station"
    if name.startswith("._"):
        return "metadata of macOS"
    return f"a hidden {what}" if name.startswith(".") else None


def _reason_by_content(path: Path, videos: bool) -> str | None:
    suffix = path.suffix.lower()
    promised = PICTURE_SUFFIXES | VIDEO_SUFFIXES if videos else PICTURE_SUFFIXES
    if path.exists() and not path.is_file():
        return "not a regular file"
    try:
        # Folders of thousands of photographs are looked through before the first frame is sent.
        kind = kind_of_file(path, SHORT_HEAD_BYTES if videos else HEAD_BYTES)
    except OSError as error:
        return None if suffix in promised else f"cannot be read: {error.strerror}"
    if kind is Kind.PICTURE:
        return None
    if kind is Kind.VIDEO:
        return None if videos else "a video"
    if suffix in promised:
        return None
    if kind is Kind.EMPTY:
        return "an empty file"
    return "neither a picture nor a video" if videos else "not a picture"


def _file(path: Path, name: str, sampling: Sampling, report: ReadingReport) -> Iterator[Frame]:
    try:
        kind = kind_of_file(path)
    except OSError as error:
        raise BadInput("not_readable", f"{printable_name(path)} cannot be read: {error.strerror}.") from error
    if kind is Kind.VIDEO or (kind is Kind.OTHER and path.suffix.lower() in VIDEO_SUFFIXES):
        yield from _video(path, name, sampling, report)
    else:
        yield Frame(name, for_the_service(read_content(path)))


def _piped(pipe: BinaryIO, name: str, sampling: Sampling, report: ReadingReport) -> Iterator[Frame]:
    """Yield the frames of a picture or a video that comes through a pipe. It is read to its end first."""
    with tempfile.SpooledTemporaryFile(_MAX_PIPED_BYTES_IN_MEMORY) as spool:
        while piece := pipe.read(1_048_576):
            spool.write(piece)
            if spool.tell() > _MAX_PIPED_BYTES:
                raise BadInput("too_long", f"More than {_MAX_PIPED_BYTES:,} bytes came through the pipe. Send a file.")
        if not spool.tell():
            raise BadInput("empty_file", "Nothing came through the pipe.")
        spool.seek(0)
        head = spool.read(HEAD_BYTES)
        spool.seek(0)
        if kind_of(head) is Kind.VIDEO:
            yield from _video(spool, name, sampling, report)
        else:
            yield Frame(name, for_the_service(spool.read()))


def _video(source: Path | IO[bytes], name: str, sampling: Sampling, report: ReadingReport) -> Iterator[Frame]:
    counts = VideoCounts(name)
    for frame in video_frames(source, sampling, counts):
        yield Frame(f"{name}#{frame.number}", frame.jpeg, seconds=frame.seconds)
    report.videos.append(counts)
