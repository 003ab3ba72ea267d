"""Frames of a video, decoded by FFmpeg's libraries through PyAV. Why PyAV: docs/decisions/0014-pyav.md."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import numpy as np
from PIL import Image as Pillow

from client.file_kinds import printable_name
from pipeline.errors import BadInput

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.frame import VideoFrame as DecodedFrame
    from av.video.stream import VideoStream

#: The quality of the JPEGs, libjpeg's scale. Their colour has half the resolution, as that of most videos has.
_QUALITY: Final = 95
#: Give up reading after so many errors of the container in a row: the position does not move any more.
_MAX_ERRORS_IN_A_ROW: Final = 100
#: Sample aspect ratios beyond this are errors of the file. The widest in use is anamorphic film, 2.
_MAX_ASPECT: Final = 4
#: Frames a second of a video that names neither times nor a rate.
_ASSUMED_RATE: Final = 25


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video to take.

    Parameters
    ----------
    frames : int
        Every so many decoded frames, from the first one; at least 1.
    seconds : float or None
        If set, one frame every so many seconds of the video's time instead.

    """

    frames: int = 1
    seconds: float | None = None


EVERY_FRAME: Final = Sampling()


@dataclass
class VideoCounts:
    """How many frames of a video were there.

    Parameters
    ----------
    filename : str
    announced : int or None
        How many frames the file says it has; None if its format does not say.
    decoded, taken : int
        How many could be decoded, and how many of these were taken.
    damaged : int
        Pieces of data that could not be read or decoded.

    """

    filename: str
    announced: int | None = None
    decoded: int = 0
    taken: int = 0
    damaged: int = 0

    @property
    def lost(self) -> int:
        """Return how many frames were lost. A piece of damaged data counts as one frame if the file announces none."""
        missing = 0 if self.announced is None else self.announced - self.decoded
        return max(missing, self.damaged, 0)


@dataclass(frozen=True)
class VideoFrame:
    """A frame of a video: its number among the decoded ones, its time in seconds from the first one, a JPEG of it."""

    number: int
    seconds: float
    jpeg: bytes


def parse_sampling(every: str, fps: float | None = None) -> Sampling:
    """Read the options `--every N`, `--every 0.5s` and `--fps N`. Raises BadInput if they make no sense."""
    if fps is not None:
        if every != "1":
            raise BadInput("bad_sampling", "Give either --every or --fps.")
        if not 0.001 <= fps <= 1000:
            raise BadInput("bad_sampling", "--fps must be a number from 0.001 to 1000.")
        return Sampling(seconds=1 / fps)
    try:
        if every.endswith("s"):
            seconds = float(every[:-1])
            if 0.001 <= seconds <= 1_000_000:
                return Sampling(seconds=seconds)
        elif int(every) >= 1:
            return Sampling(frames=int(every))
    except ValueError:
        pass
    raise BadInput(
        "bad_sampling", f"--every {every} is neither a number of frames (1 or more) nor of seconds, such as 0.5s."
    )


def video_frames(
    source: Path | IO[bytes], sampling: Sampling = EVERY_FRAME, counts: VideoCounts | None = None
) -> Iterator[VideoFrame]:
    """Yield frames of a video, upright and with square pixels.

    Damaged data loses the frames in it and does not end the video.

    Parameters
    ----------
    source : Path or file
        The video, or an open file that can seek.
    counts : VideoCounts or None
        Is kept up to date while frames are read.

    Raises
    ------
    BadInput
        `no_frames` if no frame can be read.

    """
    import av  # in the `local` extra, which only videos need

    # Each line that FFmpeg would write to the terminal is about the damage that we count.
    av.logging.set_level(None)
    name = printable_name(source) if isinstance(source, Path) else "the video"
    counts = counts if counts is not None else VideoCounts(name)
    try:
        # An absolute path is never taken for the address of a network stream.
        container = av.open(str(source.absolute()) if isinstance(source, Path) else source, "r")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise BadInput("no_frames", f"No frame of the video {name} can be read.") from error
    with container:
        if not container.streams.video:
            raise BadInput("no_frames", f"No frame of the video {name} can be read: it has no picture track.")
        yield from _taken(container, container.streams.video[0], sampling, counts)
    if not counts.decoded:
        raise BadInput("no_frames", f"No frame of the video {name} can be read.")


def _taken(
    container: "InputContainer", stream: "VideoStream", sampling: Sampling, counts: VideoCounts
) -> Iterator[VideoFrame]:
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    aspect = _sample_aspect(stream)
    rate = float(stream.average_rate or stream.guessed_rate or _ASSUMED_RATE)
    first_time: float | None = None
    due = 0.0
    for number, frame in enumerate(_decoded(container, stream, counts)):
        if frame.pts is None:  # bare H.264 has no times
            seconds = number / rate
        else:
            first_time = frame.time if first_time is None else first_time
            seconds = frame.time - first_time
        if sampling.seconds is None:
            taken = number % sampling.frames == 0
        else:
            taken = seconds >= due - 1e-6  # times are multiples of a time base, so sums of them are inexact
            while taken and due <= seconds + 1e-6:
                due += sampling.seconds
        if taken:
            counts.taken += 1
            rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            yield VideoFrame(number, round(seconds, 3), _jpeg(rgb, aspect, frame.rotation))


def _decoded(container: "InputContainer", stream: "VideoStream", counts: VideoCounts) -> Iterator["DecodedFrame"]:
    """Decode all frames that can be decoded, and count the others."""
    import av

    counts.announced = stream.frames or None
    packets = _packets(container, stream, counts)
    for packet in packets:
        if packet.is_discard and counts.announced:  # an edit list leaves it out
            counts.announced -= 1
        try:
            decoded = packet.decode()
        except av.FFmpegError:
            counts.damaged += 1
            continue
        for frame in decoded:
            counts.decoded += 1
            yield frame


def _packets(
    container: "InputContainer", stream: "VideoStream", counts: VideoCounts
) -> Iterator["av.Packet[VideoStream]"]:
    """Yield the packets of a stream. After an error, reading goes on where it stopped."""
    import av

    errors = 0
    packets = container.demux(stream)
    while errors < _MAX_ERRORS_IN_A_ROW:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except BlockingIOError:  # FFmpeg's "try again": it has skipped damaged data
            errors += 1
            packets = container.demux(stream)
        except av.FFmpegError:
            counts.damaged += errors == 0
            errors += 1
            packets = container.demux(stream)
        else:
            errors = 0
            yield packet


def _sample_aspect(stream: "VideoStream") -> float:
    """Return the width of a pixel divided by its height; 1 if the file does not say."""
    ratio = stream.sample_aspect_ratio
    aspect = float(ratio) if ratio else 1.0
    return aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else 1.0


def _jpeg(rgb: np.ndarray, aspect: float, rotation: int) -> bytes:
    """Encode a frame, (H, W, 3) uint8, with square pixels and turned counterclockwise by `rotation` degrees."""
    picture = Pillow.fromarray(rgb)
    width, height = picture.size
    if aspect > 1:
        picture = picture.resize((round(width * aspect), height), Pillow.Resampling.BILINEAR)
    elif aspect < 1:
        picture = picture.resize((width, round(height / aspect)), Pillow.Resampling.BILINEAR)
    turns = {90: Pillow.Transpose.ROTATE_90, 180: Pillow.Transpose.ROTATE_180, 270: Pillow.Transpose.ROTATE_270}
    turn = turns.get(round(rotation / 90) * 90 % 360)
    stream = io.BytesIO()
    (picture if turn is None else picture.transpose(turn)).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
