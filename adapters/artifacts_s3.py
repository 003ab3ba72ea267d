"""Artifacts under a prefix of an S3 bucket: `ArtifactStore` on S3.

S3 replaces an object in one step, and a read that starts after a write sees the new content (S3 user guide, "Amazon S3
data consistency model"). Writers take turns by the object `.lock`: each writes it on condition that it does not exist
(S3 user guide, "Conditional writes": `If-None-Match: *`, since August 2024; `If-Match`, since November 2024).

A turn has a lifetime, which its holder renews while it works. So a dead writer's turn ends by itself: a waiting writer
that sees the same lock for a whole lifetime takes it over, on condition that it is still the same lock. No two clocks
are compared. The holder starts a write only if at least half the lifetime is left. So two writes can only meet if one
request takes longer than half a lifetime; the bucket keeps older versions for that case.
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

from adapters.artifact_names import check_blob_name, is_blob_name
from adapters.aws_errors import to_faceq_error
from pipeline.errors import TransientError

if TYPE_CHECKING:
    import boto3
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError

#: The prefix that deploy/template.yaml permits the functions to read.
PREFIX: Final = "gallery"

_LOCK: Final = ".lock"
#: Seconds between two attempts to take the turn: a few requests a second, far fewer than S3 accepts for one key.
_POLL_SECONDS: Final = 0.25


def s3_client(session: "boto3.Session") -> "BaseClient":
    """Return an S3 client whose slowest call takes about half a turn's lifetime of `S3Store`."""
    from botocore.config import Config

    config = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})
    return session.client("s3", config=config)


@dataclass(frozen=True)
class _Turn:
    """The turn that this process has.

    Parameters
    ----------
    thread : int
        The thread that took it.
    etag : str
        Of the lock as we wrote it.
    until : float
        When it ends, in seconds of the monotonic clock. We count the lifetime from before the write, others from after
        it, so it ends for us first.

    """

    thread: int
    etag: str
    until: float


class _TakenError(Exception):
    """The condition of a write of the lock did not hold."""


class S3Store:
    """Blobs as objects `<prefix>/<name>` of one bucket, which exists. Safe to share between threads.

    Every refusal by S3 is a TransientError with AWS's message, even one that only the user can solve: permissions take
    effect some seconds after they are granted, and a frame must not be given up in the meantime.

    Parameters
    ----------
    client : botocore client
        For S3.
    bucket : str
        With versioning; otherwise `version` would not change when the same content is written again.
    prefix : str
        Without a slash at either end.
    wait_seconds : float
        How long a writer waits for another writer before it raises TransientError.
    lifetime_seconds : float
        How long a turn lasts if its holder does not renew it.

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
        with self._translated_errors("read", key):
            return self._get(key)[0]

    def write(self, name: str, content: bytes) -> None:
        """Replace `name` by `content` in one step."""
        key = self._key(name)
        with self.exclusive(), self._translated_errors("write", key):
            self._renew()
            self._client.put_object(Bucket=self._bucket, Key=key, Body=content)

    def delete(self, name: str) -> None:
        """Remove `name`, if it exists."""
        key = self._key(name)
        with self.exclusive(), self._translated_errors("remove", key):
            self._renew()
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def names(self) -> Sequence[str]:
        """Return the names of all blobs, sorted."""
        folder = f"{self._prefix}/"
        with self._translated_errors("list", folder):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=folder, Delimiter="/"
            )
            names = [entry["Key"].removeprefix(folder) for page in pages for entry in page.get("Contents", ())]
        return sorted(name for name in names if is_blob_name(name))

    def version(self, name: str) -> str | None:
        """Return the object's version id and ETag, None if it does not exist; needs one HEAD request."""
        from botocore.exceptions import ClientError

        key = self._key(name)
        with self._translated_errors("read", key):
            try:
                head = self._client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if _status(error) != 404:
                    raise
                # A response to HEAD has no body, so it does not say whether the object or the bucket is missing.
                with suppress(FileNotFoundError):
                    self._get(key)
                return None
        return f"{head.get('VersionId', '')}-{head['ETag']}"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep all other writers out, in this process and anywhere else, until the block ends. May be nested.

        Use it around a read, a change and a write that belong together. If another writer works for longer than
        `wait_seconds`, it raises TransientError that names that writer. If this process is stopped for so long that
        another writer takes over the turn, the next use of the store raises TransientError and writes nothing.
        """
        deadline = time.monotonic() + self._wait_seconds
        if not self._mutex.acquire(timeout=max(self._wait_seconds, 0)):
            raise self._busy("another thread of this process")
        try:
            if self._turn is not None:
                yield
                return
            with self._translated_errors("write", self._lock_key):
                self._turn = self._take(deadline)
            try:
                yield
            finally:
                self._release()
        finally:
            self._mutex.release()

    def _take(self, deadline: float) -> _Turn:
        seen, since = "", 0.0
        while True:
            with suppress(_TakenError):
                return self._write_lock(IfNoneMatch="*")
            try:
                holder, etag = self._get(self._lock_key)
            except FileNotFoundError:  # released between the two requests
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
        """Make sure that this thread's turn, if it has one, lasts for one more request."""
        turn = self._turn
        if turn is None or turn.thread != threading.get_ident():
            return
        if turn.until - time.monotonic() >= self._lifetime_seconds / 2:
            return
        with self._translated_errors("write", self._lock_key):
            try:
                self._turn = self._write_lock(IfMatch=turn.etag)
            except _TakenError:
                raise TransientError(
                    "store_busy",
                    f"Another writer took over {self._url(self._prefix)} because this one was paused for too long. "
                    "Nothing more was written. Run the same command again.",
                ) from None

    def _release(self) -> None:
        # All writes are done. A lock that cannot be removed now ends by itself, and a lock that another writer took
        # over in the meantime is not ours to remove.
        with suppress(TransientError):
            self._renew()
            with self._translated_errors("remove", self._lock_key):
                self._client.delete_object(Bucket=self._bucket, Key=self._lock_key)
        self._turn = None

    def _write_lock(self, **condition: str) -> _Turn:
        """Write the lock, with new content each time. Raises _TakenError if the condition does not hold."""
        from botocore.exceptions import ClientError

        until = time.monotonic() + self._lifetime_seconds
        holder = f"process {os.getpid()} on {socket.gethostname()}\n{uuid.uuid4()}\n".encode()
        try:
            response = self._client.put_object(Bucket=self._bucket, Key=self._lock_key, Body=holder, **condition)
        except ClientError as error:
            # 409: another request is under way. 412: the condition does not hold. NoSuchKey: there is no object to
            # match. (S3 user guide, "Conditional writes")
            if _status(error) in {409, 412} or error.response["Error"]["Code"] == "NoSuchKey":
                raise _TakenError from None
            raise
        return _Turn(threading.get_ident(), response["ETag"], until)

    def _get(self, key: str) -> tuple[bytes, str]:
        """Return an object's content and ETag. Raises FileNotFoundError if it does not exist."""
        from botocore.exceptions import ClientError

        try:
            response = self._client.get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                raise FileNotFoundError(self._url(key)) from None
            raise
        return response["Body"].read(), response["ETag"]

    @contextmanager
    def _translated_errors(self, verb: str, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise TransientError(
                "store_unavailable", f"Cannot {verb} {self._url(key)}: {to_faceq_error(error).message}"
            ) from error

    def _key(self, name: str) -> str:
        check_blob_name(name)
        return f"{self._prefix}/{name}"

    def _url(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    def _busy(self, holder: str) -> TransientError:
        return TransientError(
            "store_busy",
            f"{holder[:1].upper()}{holder[1:]} is writing to {self._url(self._prefix)}. "
            "Try again when it has finished.",
        )


def _status(error: "ClientError") -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
