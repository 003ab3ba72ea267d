"""Artifacts under a prefix of an S3 bucket: `ArtifactStore` on S3.

An object is replaced as one step, and a read that begins after a write sees it (S3 user guide, "Amazon S3 data
consistency model"). Writers take turns on the object `.lock`, which is written on condition that there is none (S3 user
guide, "Conditional writes": `If-None-Match: *`, since August 2024; `If-Match`, since November 2024). A turn has a
lifetime that its holder renews while it works, so a dead writer's turn ends by itself: who waits and sees one and the
same lock for a whole lifetime takes it over, on condition that it is still that one. No two clocks are compared. A
holder begins no write unless half the lifetime is left, so only one request under way for longer than that could meet
another writer's; the bucket keeps older versions for that case.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from adapters.artifacts_directory import PLAIN_NAME
from adapters.aws_errors import to_faceq_error
from pipeline.errors import TransientError

if TYPE_CHECKING:
    import boto3
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError

#: Where in the bucket deploy/template.yaml lets the functions read.
PREFIX: Final = "gallery"

_LOCK: Final = ".lock"
#: Seconds between two tries to get the turn: a few requests a second, well below what S3 takes for one key.
_POLL_SECONDS: Final = 0.25


def client(session: "boto3.Session") -> "BaseClient":
    """Return an S3 client whose slowest call takes about half a turn's lifetime of `S3Store`."""
    from botocore.config import Config

    config = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})
    return session.client("s3", config=config)


@dataclass(frozen=True)
class _Turn:
    """Who works, and until when nobody else does.

    Parameters
    ----------
    etag : str
        Of the lock as this writer wrote it.
    until : float
        Seconds of the monotonic clock, counted from before the write: whoever waits counts from after it.

    """

    thread: int
    etag: str
    until: float


class _TakenError(Exception):
    """The lock is another one than the condition says."""


class S3Store:
    """Blobs as objects `<prefix>/<name>` of one bucket, which exists. Safe to share between threads.

    Whatever S3 refuses is a TransientError with AWS's words, also what only a person can mend: permissions take effect
    some seconds after they are given, so a frame must not be given up for them.

    Parameters
    ----------
    client : botocore client
        For S3.
    bucket : str
        Versioned: else writing the same content again would leave the `version` as it was.
    prefix : str
        Without a slash at either end.
    wait_seconds : float
        How long a writer waits for another one before it gives up with TransientError.
    lifetime_seconds : float
        How long a turn lasts that its holder does not renew.

    """

    def __init__(
        self, client: "BaseClient", bucket: str, prefix: str, wait_seconds: float = 70, lifetime_seconds: float = 60
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._wait_seconds = wait_seconds
        self._lifetime_seconds = lifetime_seconds
        self._lock_key = f"{prefix}/{_LOCK}"
        self._mutex = threading.RLock()
        self._turn: _Turn | None = None

    def read(self, name: str) -> bytes:
        """Return the content of `name`."""
        key = self._key(name)
        self._renew()
        with self._failing("read", key):
            return self._get(key)[0]

    def write(self, name: str, content: bytes) -> None:
        """Replace `name` by `content` as one step."""
        key = self._key(name)
        with self.exclusive(), self._failing("write", key):
            self._renew()
            self._client.put_object(Bucket=self._bucket, Key=key, Body=content)

    def delete(self, name: str) -> None:
        """Remove `name`; nothing happens if there is none."""
        key = self._key(name)
        with self.exclusive(), self._failing("remove", key):
            self._renew()
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def names(self) -> Sequence[str]:
        """Return the names that exist, sorted."""
        folder = f"{self._prefix}/"
        with self._failing("list", folder):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=folder, Delimiter="/"
            )
            names = [entry["Key"].removeprefix(folder) for page in pages for entry in page.get("Contents", ())]
        return sorted(name for name in names if PLAIN_NAME.fullmatch(name))

    def version(self, name: str) -> str | None:
        """Return the object's version id and ETag, None if there is none; asks with HEAD."""
        from botocore.exceptions import ClientError

        key = self._key(name)
        with self._failing("read", key):
            try:
                head = self._client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if _status(error) != 404:
                    raise
                # An answer to HEAD has no words, so it does not say whether the object is missing or the bucket.
                with suppress(FileNotFoundError):
                    self._get(key)
                return None
        return f"{head.get('VersionId', '')}-{head['ETag']}"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other writer out, in this process and anywhere else, until the block ends. May be nested.

        Take it around a read, a change and a write that belong together. Raises TransientError that says who holds
        the turn if that takes longer than `wait_seconds`, and at the next use of the store if this process stood still
        so long that another one took the turn: nothing more is written then.
        """
        deadline = time.monotonic() + self._wait_seconds
        if not self._mutex.acquire(timeout=max(self._wait_seconds, 0)):
            raise self._busy("another thread of this process")
        try:
            if self._turn is not None:
                yield
                return
            with self._failing("write", self._lock_key):
                self._turn = self._take(deadline)
            try:
                yield
            finally:
                self._give_back()
        finally:
            self._mutex.release()

    def _take(self, deadline: float) -> _Turn:
        seen, since = "", 0.0
        while True:
            with suppress(_TakenError):
                return self._write_lock(IfNoneMatch="*")
            try:
                holder, etag = self._get(self._lock_key)
            except FileNotFoundError:  # given back between the two requests
                holder, etag = b"", ""
            if etag != seen:
                seen, since = etag, time.monotonic()
            elif etag and time.monotonic() - since >= self._lifetime_seconds:
                with suppress(_TakenError):
                    return self._write_lock(IfMatch=etag)
            if time.monotonic() >= deadline:
                raise self._busy(holder.decode("utf-8", "replace").partition("\n")[0] or "another writer")
            time.sleep(_POLL_SECONDS)

    def _renew(self) -> None:
        """Make sure that this thread's turn, if it has one, lasts for one request more."""
        turn = self._turn
        if turn is None or turn.thread != threading.get_ident():
            return
        if turn.until - time.monotonic() >= self._lifetime_seconds / 2:
            return
        with self._failing("write", self._lock_key):
            try:
                self._turn = self._write_lock(IfMatch=turn.etag)
            except _TakenError:
                raise TransientError(
                    "store_busy",
                    f"Another writer took the turn at {self._url(self._prefix)}, because this one paused for too long. "
                    "Nothing more is written; run the same command again.",
                ) from None

    def _give_back(self) -> None:
        # What was to be written is written. A lock that is not removed here ends by itself, and one that another
        # writer took meanwhile is that one's.
        with suppress(TransientError):
            self._renew()
            with self._failing("remove", self._lock_key):
                self._client.delete_object(Bucket=self._bucket, Key=self._lock_key)
        self._turn = None

    def _write_lock(self, **condition: str) -> _Turn:
        """Write the lock, each time another content. Raises _TakenError if the condition does not hold."""
        from botocore.exceptions import ClientError

        until = time.monotonic() + self._lifetime_seconds
        holder = f"process {os.getpid()} on {socket.gethostname()}\n{uuid.uuid4()}\n".encode()
        try:
            answer = self._client.put_object(Bucket=self._bucket, Key=self._lock_key, Body=holder, **condition)
        except ClientError as error:
            # Another request is under way; it does not hold; there is no object to match. (S3 user guide,
            # "Conditional writes")
            if _status(error) in {409, 412} or error.response["Error"]["Code"] == "NoSuchKey":
                raise _TakenError from None
            raise
        return _Turn(threading.get_ident(), answer["ETag"], until)

    def _get(self, key: str) -> tuple[bytes, str]:
        """Return an object's content and ETag. Raises FileNotFoundError if there is none."""
        from botocore.exceptions import ClientError

        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                raise FileNotFoundError(self._url(key)) from None
            raise
        return answer["Body"].read(), answer["ETag"]

    @contextmanager
    def _failing(self, verb: str, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise TransientError(
                "store_unavailable", f"Cannot {verb} {self._url(key)}: {to_faceq_error(error).message}"
            ) from error

    def _key(self, name: str) -> str:
        if not PLAIN_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a plain file name")
        return f"{self._prefix}/{name}"

    def _url(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    def _busy(self, holder: str) -> TransientError:
        return TransientError(
            "store_busy",
            f"{holder[:1].upper()}{holder[1:]} is writing to {self._url(self._prefix)}. Try again when it is done.",
        )


def _status(error: "ClientError") -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
