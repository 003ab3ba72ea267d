"""Frames from what a person points at: pictures, folders of them, videos."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BadInput

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"})


@dataclass(frozen=True)
class Frame:
    """One picture to send: its encoded bytes and the name its answer goes by."""

    filename: str
    content: bytes


def frames(paths: Iterable[Path], every: int = 1) -> Iterator[Frame]:
    """Yield the frames of each path in order: a file, each picture and video of a folder by name, a video's frames.

    Parameters
    ----------
    every : int
        Of a video, take each `every`-th frame, at least 1.

    Raises
    ------
    BadInput
        A path does not exist, a folder holds nothing to send, or a video cannot be read.

    """
    for path in paths:
        if path.is_dir():
            inside = [
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES and file.is_file()
            ]
            if not inside:
                raise BadInput("no_frames", f"The folder {path} holds no picture and no video.")
            for file in inside:
                yield from _file(file, str(file.relative_to(path)), every)
        elif path.is_file():
            yield from _file(path, path.name, every)
        else:
            raise BadInput("no_such_file", f"There is no file {path}.")


def _file(path: Path, name: str, every: int) -> Iterator[Frame]:
    if path.suffix.lower() in VIDEO_SUFFIXES:
        yield from _video(path, name, every)
    else:
        yield Frame(name, path.read_bytes())


def _video(path: Path, name: str, every: int) -> Iterator[Frame]:
    import cv2  # only videos need it here

    video = cv2.VideoCapture(str(path))
    try:
        found = False
        number = 0
        while video.grab():
            if number % every == 0:
                decoded, picture = video.retrieve()
                encoded, jpeg = cv2.imencode(".jpg", picture) if decoded else (False, None)
                if encoded and jpeg is not None:
                    found = True
                    yield Frame(f"{name}#{number}", jpeg.tobytes())
            number += 1
        if not found:
            raise BadInput("no_frames", f"No frame of the video {path} can be read.")
    finally:
        video.release()
