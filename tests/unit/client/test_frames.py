"""Frames from files, folders and videos, on a real disk."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from client.frames import Frame, frames
from pipeline.errors import BadInput
from pipeline.images import decode
from tests.builders import RED, picture


def names(*paths: Path, every: int = 1) -> list[str]:
    return [frame.filename for frame in frames(paths, every)]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Return a video of seven frames, each brighter than the one before it."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(7):
        writer.write(np.full((48, 64, 3), 30 * number, np.uint8))
    writer.release()
    return path


def test_a_file_is_one_frame_with_unchanged_content(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"whatever it is, the service judges it")
    content = b"whatever it is, the service judges it"
    assert list(frames([tmp_path / "a.jpg"])) == [Frame("a.jpg", content, path=str(tmp_path / "a.jpg"))]


def test_a_given_file_is_sent_whatever_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "frame").write_bytes(picture(RED))
    assert names(tmp_path / "frame") == ["frame"]


def test_a_folder_gives_its_pictures_sorted_by_path(tmp_path: Path, video: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.PNG", "a.jpg", "deep/c.webp", "notes.txt", ".hidden"):
        (tmp_path / name).write_bytes(picture(RED))
    assert names(tmp_path, every=5) == ["a.jpg", "b.PNG", "clip.avi#0", "clip.avi#5", "deep/c.webp"]


def test_a_folder_with_the_suffix_of_a_picture_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").mkdir()
    (tmp_path / "holiday.jpg" / "a.png").write_bytes(picture(RED))
    assert names(tmp_path) == ["holiday.jpg/a.png"]


def test_paths_are_read_in_the_given_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_bytes(picture(RED))
    assert names(tmp_path / "b.png", tmp_path / "a.png", tmp_path / "b.png") == ["b.png", "a.png", "b.png"]


@pytest.mark.parametrize(("every", "taken"), [(1, range(7)), (3, [0, 3, 6]), (7, [0]), (100, [0])])
def test_every_nth_frame_of_a_video_is_taken(video: Path, every: int, taken: list[int]) -> None:
    found = list(frames([video], every))
    assert [frame.filename for frame in found] == [f"clip.avi#{number}" for number in taken]
    for frame, number in zip(found, taken, strict=True):
        assert decode(frame.content).shape == (48, 64, 3)
        assert decode(frame.content).mean() == pytest.approx(30 * number, abs=4)


def test_a_frame_has_the_path_as_given_and_in_a_video_its_time(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The video has ten frames a second."""
    (tmp_path / "b.png").write_bytes(picture(RED))
    (tmp_path / "later.mp4").write_bytes(b"no video")
    monkeypatch.chdir(tmp_path.parent)
    found = list(frames([Path(tmp_path.name), Path(tmp_path.name) / "b.png"], every=4))
    folder = tmp_path.name
    assert [(frame.path, frame.seconds) for frame in found] == [
        (f"{folder}/b.png", None),
        (f"{folder}/clip.avi", 0.0),
        (f"{folder}/clip.avi", 0.4),
        (f"{folder}/later.mp4", None),
        (f"{folder}/b.png", None),
    ]


def test_a_video_is_read_frame_by_frame(video: Path) -> None:
    later = video.with_name("later.png")
    later.write_bytes(picture(RED))
    reading = frames([video, later])
    assert [frame.filename for frame in itertools.islice(reading, 2)] == ["clip.avi#0", "clip.avi#1"]
    later.unlink()
    *_, last = reading
    assert last.problem is not None


def test_an_unreadable_file_in_a_folder_does_not_stop_the_others(tmp_path: Path) -> None:
    """A broken video and a picture that vanishes each give a frame with a problem."""
    for name in ("a.png", "b.png", "d.png"):
        (tmp_path / name).write_bytes(picture(RED))
    (tmp_path / "c.mp4").write_bytes(b"no video")
    reading = frames([tmp_path])
    assert next(reading).filename == "a.png"
    (tmp_path / "b.png").unlink()
    vanished, broken, last = reading
    assert (vanished.filename, vanished.content) == ("b.png", b"")
    assert "cannot be read: No such file" in str(vanished.problem)
    assert (broken.filename, broken.content) == ("c.mp4", b"")
    assert "No frame of the video" in str(broken.problem)
    assert (last.filename, last.problem) == ("d.png", None)


def test_a_missing_file_or_empty_folder_is_refused_before_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    (tmp_path / "a.png").write_bytes(picture(RED))
    for name, code in (("absent.jpg", "no_such_file"), ("empty", "no_frames")):
        with pytest.raises(BadInput, match=name) as refused:
            next(frames([tmp_path / "a.png", tmp_path / name]))
        assert refused.value.code == code


def test_an_unreadable_given_file_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "a.png").write_bytes(picture(RED))
    broken, good = frames([tmp_path / "broken.mp4", tmp_path / "a.png"])
    assert (broken.filename, "No frame of the video" in str(broken.problem)) == ("broken.mp4", True)
    assert (good.filename, good.problem) == ("a.png", None)
