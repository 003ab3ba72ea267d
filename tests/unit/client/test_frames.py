"""Frames from files, folders and videos, on a real disk."""

import io
import itertools
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from client.frames import Frame, ReadingReport, Skipped, folder_content, frames
from client.videos import Sampling
from pipeline.errors import BadInput
from pipeline.images import decode
from tests.builders import RED, picture
from tests.videos import write_video


def names(*paths: Path, every: int = 1) -> list[str]:
    return [frame.filename for frame in frames(paths, Sampling(every))]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Return a video of seven frames, each brighter than the one before it."""
    path = tmp_path / "clip.avi"
    write_video(path, [np.full((48, 64, 3), 30 * number, np.uint8) for number in range(7)])
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
    for name in ("b.PNG", "a.jpg", "deep/c.webp", "d.other suffix", ".hidden"):
        (tmp_path / name).write_bytes(picture(RED))
    (tmp_path / "notes.txt").write_text("no picture")
    assert names(tmp_path, every=5) == [
        "a.jpg",
        "b.PNG",
        "clip.avi#0",
        "clip.avi#5",
        "d.other suffix",
        "deep/c.webp",
    ]


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
    found = list(frames([video], Sampling(every)))
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
    found = list(frames([Path(tmp_path.name), Path(tmp_path.name) / "b.png"], Sampling(4)))
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


def test_a_folder_reports_everything_that_it_leaves_out(tmp_path: Path) -> None:
    for name in ("a.jpg", "._a.jpg", ".hidden.jpg", "@eaDir/a.jpg/THUMB.jpg", ".cache/b.jpg", "deep/._c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(RED))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "nothing").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    report = ReadingReport()
    assert [frame.filename for frame in frames([tmp_path], report=report)] == ["a.jpg"]
    assert report.skipped == [
        Skipped("._a.jpg", "metadata of macOS"),
        Skipped(".cache", "a hidden folder"),
        Skipped(".hidden.jpg", "a hidden file"),
        Skipped("@eaDir", "previews of a Synology disk station"),
        Skipped("deep/._c.jpg", "metadata of macOS"),
        Skipped("notes.txt", "neither a picture nor a video"),
        Skipped("nothing", "an empty file"),
        Skipped("pipe.jpg", "not a regular file"),
    ]


def test_content_decides_what_a_file_with_another_suffix_is(tmp_path: Path, video: Path) -> None:
    (tmp_path / "only").mkdir()
    video.rename(tmp_path / "only" / "clip.jpg")
    (tmp_path / "only" / "photo.mp4").write_bytes(picture(RED))
    assert names(tmp_path / "only", every=100) == ["clip.jpg#0", "photo.mp4"]
    assert names(tmp_path / "only" / "clip.jpg", every=100) == ["clip.jpg#0"]


def test_a_file_that_promises_a_picture_is_never_skipped_in_silence(tmp_path: Path) -> None:
    """The service, or we, report what is wrong with it."""
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.heic").symlink_to(tmp_path / "absent")
    (tmp_path / "c.png").write_bytes(b"damaged")
    empty, absent, damaged = frames([tmp_path])
    assert empty == Frame("a.jpg", b"", "The file is empty.", str(tmp_path / "a.jpg"))
    assert absent.problem == f"{tmp_path / 'b.heic'} cannot be read: No such file or directory."
    assert damaged == Frame("c.png", b"damaged", path=str(tmp_path / "c.png"))


def test_an_empty_given_file_is_reported_as_empty(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.mp4", "c"):
        (tmp_path / name).touch()
        assert list(frames([tmp_path / name])) == [Frame(name, b"", "The file is empty.", str(tmp_path / name))]


def test_names_that_are_not_utf_8_are_read_and_shown_replaced(tmp_path: Path, video: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xe9t\xe9")
    folder.mkdir()
    video.rename(folder / os.fsdecode(b"vid\xe9o.avi"))
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(picture(RED))
    found = [*frames([folder], Sampling(100)), *frames([folder / os.fsdecode(b"caf\xe9.png")])]
    assert [frame.filename for frame in found] == ["caf\ufffd.png", "vid\ufffdo.avi#0", "caf\ufffd.png"]
    assert not any(frame.problem for frame in found)
    with pytest.raises(BadInput) as refused:
        next(frames([folder / "absent"]))
    refused.value.message.encode()


def test_standard_input_is_read_as_a_picture_or_a_video(video: Path) -> None:
    report = ReadingReport()
    pictures = list(frames([Path("-")], standard_input=io.BytesIO(picture(RED))))
    found = list(frames([Path("-")], Sampling(3), report, io.BytesIO(video.read_bytes())))
    (nothing,) = frames([Path("-")], standard_input=io.BytesIO())
    assert pictures == [Frame("-", picture(RED))]
    assert [frame.filename for frame in found] == ["-#0", "-#3", "-#6"]
    assert [counts.decoded for counts in report.videos] == [7]
    assert nothing.problem == "Nothing came through the pipe."


def test_a_fifo_is_read_to_its_end(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(picture(RED),))
    writer.start()
    assert list(frames([fifo])) == [Frame("fifo", picture(RED), path=str(fifo))]
    writer.join()


@pytest.mark.parametrize("address", ["rtsp://user:secret@camera/1", "RTSPS://camera/1", "http://camera/snapshot.jpg"])
def test_the_address_of_a_stream_is_refused_with_what_to_do_and_without_its_password(address: str) -> None:
    with pytest.raises(BadInput, match=r"ffmpeg -i ADDRESS") as refused:
        next(frames([Path(address)]))
    assert "secret" not in refused.value.message


def test_an_mjpeg_file_in_a_folder_is_read_as_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "camera.mjpeg", [np.full((48, 64, 3), 30 * number, np.uint8) for number in range(4)])
    assert names(tmp_path) == [f"camera.mjpeg#{number}" for number in range(4)]
    assert folder_content(tmp_path, videos=False).skipped == [Skipped("camera.mjpeg", "a video")]
