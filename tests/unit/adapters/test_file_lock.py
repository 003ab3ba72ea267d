"""The lock between processes, with real processes."""

import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters import file_lock
from adapters.file_lock import LockHeldError
from tests.polling import eventually

_HOLD = """
import sys
from pathlib import Path
from adapters import file_lock
file_lock.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold the lock in a process that ends when its standard input does."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_keeps_others_out_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "lock"
    lock = file_lock.acquire(path)
    with pytest.raises(LockHeldError):
        file_lock.acquire(path)
    lock.release()
    lock.release()
    with file_lock.acquire(path), pytest.raises(LockHeldError):
        file_lock.acquire(path)
    file_lock.acquire(path).release()


def test_a_refusal_names_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with another_holder(path) as holder, pytest.raises(LockHeldError) as refused:
        file_lock.acquire(path)
    assert refused.value.holder == holder.pid
    assert refused.value.message == f"Process {holder.pid} holds the lock {path}."
    assert refused.value.code == "lock_held"


def test_a_refusal_names_no_process_if_the_holder_wrote_no_id(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with file_lock.acquire(path):
        path.write_bytes(b"")
        with pytest.raises(LockHeldError) as refused:
            file_lock.acquire(path)
    assert refused.value.holder is None
    assert refused.value.message.startswith("Another process holds")


def test_the_lock_ends_with_a_killed_holder(tmp_path: Path) -> None:
    """It ends even before the dead process is reaped."""
    path = tmp_path / "lock"
    with another_holder(path) as holder:
        assert file_lock.is_held(path)
        holder.kill()
        eventually(lambda: not file_lock.is_held(path))
        file_lock.acquire(path).release()


def test_who_waits_gets_the_lock_when_it_is_released_and_is_notified_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    waiting = threading.Event()
    calls: list[None] = []

    def on_wait() -> None:
        calls.append(None)
        waiting.set()

    first = file_lock.acquire(path, on_wait=on_wait)
    assert calls == []
    threading.Thread(target=lambda: waiting.wait(10) and first.release()).start()
    with file_lock.acquire(path, wait_seconds=math.inf, on_wait=on_wait):
        assert len(calls) == 1


def test_a_wait_ends_at_its_deadline(tmp_path: Path) -> None:
    with file_lock.acquire(tmp_path / "lock"), pytest.raises(LockHeldError):
        file_lock.acquire(tmp_path / "lock", wait_seconds=0.03)


def test_looking_tells_a_held_lock_from_a_free_one_and_keeps_it_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not file_lock.is_held(path)
    assert not path.exists(), "looking creates nothing"
    with file_lock.acquire(path):
        assert file_lock.is_held(path)
        assert file_lock.is_held(path)
    assert not file_lock.is_held(path)


def test_many_who_look_do_not_keep_a_patient_process_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    file_lock.acquire(path).release()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            file_lock.is_held(path)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(20):
            file_lock.acquire(path, wait_seconds=10).release()
    finally:
        done.set()
        for looker in lookers:
            looker.join()


def test_a_program_that_the_holder_starts_does_not_share_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = file_lock.acquire(path)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        lock.release()
        assert not file_lock.is_held(path)
        child.kill()


def test_a_lock_file_that_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("no such folder/lock")
    with pytest.raises(OSError, match="No such file"):
        file_lock.acquire(tmp_path / "lock")


def test_a_new_lock_file_has_the_mode_that_is_asked_for(tmp_path: Path) -> None:
    file_lock.acquire(tmp_path / "lock", mode=0o600).release()
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
