"""Frames from pictures, folders and videos."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BadInput

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".avif"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"})


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


def frames(paths: Iterable[Path], every: int = 1) -> Iterator[Frame]:
    """Yield the frames of each path in order. A folder gives its pictures and videos, at any depth, sorted by name.

    All paths are checked before the first frame. A file that cannot be read gives a frame with a problem, so that the
    other files are still sent.

    Parameters
    ----------
    every : int
        Take every `every`-th frame of a video; at least 1.

    Raises
    ------
    BadInput
        A path does not exist, or a folder contains no picture and no video.

    """
    files: list[tuple[Path, str]] = []
    for path in paths:
        if path.is_dir():
            inside = [
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES and file.is_file()
            ]
            if not inside:
                raise BadInput("no_frames", f"The folder {path} contains no picture and no video.")
            files += [(file, str(file.relative_to(path))) for file in inside]
        elif path.is_file():
            files.append((path, path.name))
        else:
            raise BadInput("no_such_file", f"There is no file {path}.")
    for file, name in files:
        try:
            yield from _file(file, name, every)
        except BadInput as error:
            yield Frame(name, b"", error.message, str(file))


def _file(path: Path, name: str, every: int) -> Iterator[Frame]:
    if path.suffix.lower() in VIDEO_SUFFIXES:
        yield from _video(path, name, every)
        return
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput("not_readable", f"{path} cannot be read: {error.strerror}.") from error
    yield Frame(name, content, path=str(path))


def _video(path: Path, name: str, every: int) -> Iterator[Frame]:
    import cv2  # only videos need it

    video = cv2.VideoCapture(str(path))
    try:
        has_frame = False
        number = 0
        while video.grab():
            if number % every == 0:
                decoded, picture = video.retrieve()
                encoded, jpeg = cv2.imencode(".jpg", picture) if decoded else (False, None)
                if encoded and jpeg is not None:
                    has_frame = True
                    seconds = round(video.get(cv2.CAP_PROP_POS_MSEC) / 1e3, 3)
                    yield Frame(f"{name}#{number}", jpeg.tobytes(), path=str(path), seconds=seconds)
            number += 1
        if not has_frame:
            raise BadInput("no_frames", f"No frame of the video {path} can be read.")
    finally:
        video.release()
