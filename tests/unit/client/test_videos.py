"""Videos of many containers and codecs, damaged ones among them. They are written by FFmpeg's libraries."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest

from client.videos import EVERY_FRAME, Sampling, VideoCounts, parse_sampling, video_frames
from pipeline.errors import BadInput
from pipeline.images import decode
from tests.videos import write_video

#: Videos that are not part of the project.
ODD = Path(__file__).parents[4] / "shared" / "fixtures" / "odd"
ALL_KEYFRAMES = {"g": "1", "bf": "0"}


def grey(count: int, height: int = 64, width: int = 96) -> list[np.ndarray]:
    return [np.full((height, width, 3), 20 * number, np.uint8) for number in range(count)]


def noise(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(7).integers(0, 256, (count, 64, 96, 3), np.uint8))


def read(path: Path, sampling: Sampling = EVERY_FRAME) -> tuple[list[int], VideoCounts]:
    counts = VideoCounts("clip")
    return [frame.number for frame in video_frames(path, sampling, counts)], counts


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("mp4", "libx264"),
        ("mov", "libx265"),
        ("mkv", "mpeg4"),
        ("webm", "libvpx"),
        ("avi", "mjpeg"),
        ("ts", "mpeg2video"),
        ("mts", "libx264"),
        ("3gp", "mpeg4"),
        ("flv", "flv"),
        ("wmv", "wmv2"),
        ("mjpeg", "mjpeg"),
        ("mpg", "mpeg2video"),
        ("h264", "libx264"),
    ],
)
def test_every_frame_of_a_video_of_each_kind_is_read(tmp_path: Path, suffix: str, codec: str) -> None:
    rate = 25 if suffix in ("mpg", "ts", "mts", "flv") else 10
    container_format = "mpegts" if suffix in ("ts", "mts") else None
    path = tmp_path / f"clip.{suffix}"
    write_video(path, grey(8), codec=codec, rate=rate, options={"bf": "0"}, container_format=container_format)
    counts = VideoCounts("clip")
    found = list(video_frames(path, counts=counts))
    assert [frame.number for frame in found] == list(range(8))
    assert (counts.decoded, counts.taken, counts.lost) == (8, 8, 0)
    for number, frame in enumerate(found):
        assert decode(frame.jpeg).shape == (64, 96, 3)
        assert decode(frame.jpeg).mean() == pytest.approx(20 * number, abs=6)


def test_damaged_data_loses_the_frames_in_it_and_does_not_end_the_video(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, noise(20), codec="libx264", options=ALL_KEYFRAMES)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    length = (len(content) - start) // 20
    content[start + 8 * length : start + 10 * length] = bytes(2 * length)
    path.write_bytes(content)
    numbers, counts = read(path)
    assert counts.announced == 20
    assert 16 <= counts.decoded == counts.taken == len(numbers) < 20
    assert counts.lost == 20 - counts.decoded
    assert capfd.readouterr() == ("", ""), "the decoder's own lines do not reach the terminal"


def test_frames_that_are_missing_at_the_end_are_lost(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, noise(20), codec="libx264", options=ALL_KEYFRAMES, container_options={"movflags": "faststart"})
    content = path.read_bytes()
    mdat = content.index(b"mdat")
    assert content.index(b"moov") < mdat
    path.write_bytes(content[: (mdat + len(content)) // 2])
    _, counts = read(path)
    assert counts.announced == 20
    assert 8 <= counts.decoded <= 11
    assert counts.lost == 20 - counts.decoded


def test_without_an_announced_number_each_damaged_piece_counts_as_a_lost_frame() -> None:
    assert VideoCounts("a.ts", None, 5, 5, 2).lost == 2
    assert VideoCounts("a.mp4", 10, 6, 6, 1).lost == 4
    assert VideoCounts("a.mp4", 10, 11, 3, 0).lost == 0


def test_a_frame_every_so_many_seconds_is_taken_by_the_times_of_the_frames(tmp_path: Path) -> None:
    """The frames come at 0.0, 0.1, 0.2, 0.9, 1.0, 1.1, 3.0 s."""
    path = tmp_path / "clip.mkv"
    write_video(path, grey(7), codec="mpeg4", options={"bf": "0"}, times=[0, 1, 2, 9, 10, 11, 30])
    found = list(video_frames(path, Sampling(seconds=0.5)))
    assert [(frame.number, frame.seconds) for frame in found] == [(0, 0.0), (3, 0.9), (4, 1.0), (6, 3.0)]
    assert [frame.seconds for frame in video_frames(path)] == [0.0, 0.1, 0.2, 0.9, 1.0, 1.1, 3.0]


def test_times_count_from_the_first_frame_and_come_from_the_rate_where_there_are_none(tmp_path: Path) -> None:
    for name, container_format in (("late.ts", "mpegts"), ("bare.h264", "h264")):
        path = tmp_path / name
        write_video(path, grey(5), codec="libx264", rate=25, options={"bf": "0"}, container_format=container_format)
        assert [frame.seconds for frame in video_frames(path)] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16], abs=0.01)


def test_a_rotated_video_is_turned_upright(tmp_path: Path) -> None:
    """A phone that is held upright stores its frames lying, with a matrix that turns them 90 degrees clockwise."""
    path = tmp_path / "clip.mp4"
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:, :48] = 255  # the left half; turned clockwise, it is the upper half
    write_video(path, [frame] * 2, codec="libx264")
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44  # ISO/IEC 14496-12, 8.3.2: the matrix, 16.16 and 2.30 fixed point
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 64 * 65536, 0, 1 << 30)
    path.write_bytes(content)
    upright = decode(next(video_frames(path)).jpeg)
    assert upright.shape == (96, 64, 3)
    assert upright[:40].mean() > 240
    assert upright[56:].mean() < 15


@pytest.mark.parametrize(("ratio", "shape"), [("2/1", (64, 192, 3)), ("1/2", (128, 96, 3)), ("1/90", (64, 96, 3))])
def test_pixels_become_square_unless_their_ratio_makes_no_sense(
    tmp_path: Path, ratio: str, shape: tuple[int, int, int]
) -> None:
    path = tmp_path / "clip.mkv"
    write_video(path, grey(1), codec="libx264", options={"aspect": ratio, "x264-params": f"sar={ratio}"})
    assert decode(next(video_frames(path)).jpeg).shape == shape


def test_a_file_without_a_frame_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(500))
    with pytest.raises(BadInput, match=re.escape(f"No frame of the video {path} can be read")):
        next(video_frames(path))


def test_sampling_is_read_from_the_options() -> None:
    assert parse_sampling("1") == Sampling()
    assert parse_sampling("25") == Sampling(frames=25)
    assert parse_sampling("0.5s") == Sampling(seconds=0.5)
    assert parse_sampling("1", 2) == Sampling(seconds=0.5)


@pytest.mark.parametrize(
    ("every", "fps"), [("0", None), ("-1", None), ("x", None), ("0s", None), ("nans", None), ("s", None)]
)
def test_a_sampling_that_makes_no_sense_is_refused(every: str, fps: float | None) -> None:
    with pytest.raises(BadInput, match="--every"):
        parse_sampling(every, fps)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_makes_no_sense_is_refused(fps: float) -> None:
    with pytest.raises(BadInput, match="--fps"):
        parse_sampling("1", fps)
    with pytest.raises(BadInput, match="either --every or --fps"):
        parse_sampling("2", 5)


@pytest.mark.fixtures
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("video-hole.mp4", VideoCounts("clip", 40, 36, 36, 4)),
        ("video-cut-half.mp4", VideoCounts("clip", 40, 20, 20, 1)),
        ("camera.mjpeg", VideoCounts("clip", None, 20, 20, 0)),
        ("video.ts", VideoCounts("clip", None, 5, 5, 0)),
        ("video-1080n.mp4", VideoCounts("clip", 3, 3, 3, 0)),
    ],
)
def test_the_counts_of_odd_videos(name: str, counts: VideoCounts) -> None:
    assert read(ODD / name)[1] == counts
