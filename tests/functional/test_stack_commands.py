"""`faceq up`, `down`, `status`, `doctor`: what a person at a terminal is promised."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.functional.targets import Home
from tests.polling import eventually

pytestmark = pytest.mark.only("processes", "these are the commands that start and stop it without Docker")


def processes_of(home: Home) -> list[psutil.Process]:
    stack = home.running()
    assert stack is not None
    supervisor = psutil.Process(stack.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def test_ctrl_c_stops_everything_and_leaves_no_process(home: Home) -> None:
    """How long that takes, 3 s at most, is measured by `make bench`."""
    up = home.begin("up", "--port", "0")
    eventually(home.running, 60)
    parts = processes_of(home)
    assert len(parts) >= 5  # supervisor, queue server, event source mapping, two functions
    os.killpg(up.pid, signal.SIGINT)
    printed, _ = up.communicate(timeout=30)
    _, alive = psutil.wait_procs(parts, timeout=10)
    assert (up.returncode, alive) == (0, [])
    assert home.running() is None
    assert "Traceback" not in printed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_supervisor(home: Home, number: signal.Signals) -> None:
    """Not even kill -9 of it leaves one, and the next `up` is not disturbed by what it left behind."""
    assert home.faceq("up", "-d", "--port", "0").returncode == 0
    parts = processes_of(home)
    parts[0].send_signal(number)
    _, alive = psutil.wait_procs(parts, timeout=10)
    assert alive == []
    again = home.faceq("up", "-d", "--port", "0")
    assert again.returncode == 0, again.stderr
    assert home.faceq("down").returncode == 0


def test_ctrl_c_while_it_starts(home: Home) -> None:
    up = home.begin("up", "--port", "0")
    eventually(lambda: psutil.Process(up.pid).children(), 30)
    parts = psutil.Process(up.pid).children(recursive=True)
    os.killpg(up.pid, signal.SIGINT)
    printed, _ = up.communicate(timeout=20)
    assert psutil.wait_procs(parts, timeout=5)[1] == []
    assert "Traceback" not in printed


def test_ctrl_c_while_a_detached_one_starts(home: Home) -> None:
    """It runs in a session of its own, but whoever gave it up must not leave it behind."""
    up = home.begin("up", "-d", "--port", "0")
    eventually(lambda: psutil.Process(up.pid).children(), 30)
    parts = psutil.Process(up.pid).children(recursive=True)
    os.killpg(up.pid, signal.SIGINT)
    printed, _ = up.communicate(timeout=20)
    assert psutil.wait_procs(parts, timeout=10)[1] == []
    assert home.running() is None
    assert "Traceback" not in printed


def test_folders_that_are_called_like_ours_are_not_taken_for_ours(home: Home) -> None:
    """Where a person stands when giving the command has nothing to do with what runs; its logs outlive it."""
    for name in ("cli", "local", "adapters"):
        (home.folder / name).mkdir()
        (home.folder / name / "__init__.py").write_text("raise SystemExit('not ours')")
    command = str(Path(sys.executable).parent / "faceq")
    for arguments in (["up", "-d", "--port", "0"], ["status"], ["down"], ["logs", "face-detection"]):
        done = subprocess.run(
            [command, *arguments],
            cwd=home.folder, env=home.environ(), capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_a_second_up_says_what_is_running(home: Home) -> None:
    assert home.faceq("up", "-d", "--port", "0").returncode == 0
    try:
        stack = home.running()
        assert stack is not None
        second = home.faceq("up", "--port", "0")
        assert second.returncode == 1
        assert second.stderr.count("\n") == 1
        assert f"process {stack.pid}" in second.stderr
        status = json.loads(home.faceq("status", "--json").stdout)
        assert {"faceq", "queue-server", "event-source-mapping", "face-detection", "face-recognition"} == {
            row["part"] for row in status["processes"]
        }
    finally:
        assert home.faceq("down").returncode == 0
    assert home.faceq("status").returncode == 1


def test_a_taken_port_is_named_with_its_owner(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        up = home.faceq("up", "--port", str(taken.getsockname()[1]), "--api-port", "0", "--queue-port", "0")
    assert up.returncode == 1
    assert re.fullmatch(rf"faceq: Port \d+ is taken by process {os.getpid()} .*--port 0.*\n", up.stderr)


def test_a_stale_or_broken_state_file_is_healed(home: Home) -> None:
    for content in ("{", '{"pid": 1}', ""):
        (home.folder / "state").mkdir(exist_ok=True)
        (home.folder / "state" / "stack.json").write_text(content)
        assert home.faceq("status").returncode == 1
        assert not (home.folder / "state" / "stack.json").exists()


def test_nothing_listens_beyond_this_machine(home: Home) -> None:
    assert home.faceq("up", "-d", "--port", "0").returncode == 0
    try:
        addresses = {
            connection.laddr.ip
            for process in processes_of(home)
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert addresses == {"127.0.0.1"}
    finally:
        home.faceq("down")


def test_a_missing_model_is_one_line_with_the_command_that_gets_it(home: Home) -> None:
    for command in (("up", "--port", "0"), ("up", "-d", "--port", "0")):
        up = home.faceq(*command, variables={"FACEQ_MODELS_DIR": str(home.folder / "none")})
        assert up.returncode == 1
        assert up.stderr.count("\n") == 1
        assert "faceq models get" in up.stderr


@pytest.mark.parametrize(
    "command", [("up", "--port", "0"), ("up", "-d", "--port", "0"), ("status",), ("send", "a.jpg")]
)
def test_a_folder_that_cannot_be_one_is_one_line(home: Home, command: tuple[str, ...]) -> None:
    (home.folder / "file").touch()
    failed = home.faceq(*command, variables={"FACEQ_STATE_DIR": str(home.folder / "file" / "state")})
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert str(home.folder / "file") in failed.stderr


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_an_engine_without_its_packages_is_one_line_that_names_them(home: Home) -> None:
    up = home.faceq("up", "--port", "0", "--engine", "torch")
    assert (up.returncode, up.stderr.count("\n")) == (1, 1)
    assert "pip install '.[torch]'" in up.stderr


def test_doctor_names_each_trouble_and_its_cure(home: Home) -> None:
    well = home.faceq("doctor", "--json")
    names = {check["name"] for check in json.loads(well.stdout)}
    assert {"stack", "versions", "detector", "model", "weights", "gallery", "template", "only on AWS"} <= names
    ill = home.faceq("doctor", variables={"FACEQ_MODELS_DIR": str(home.folder / "none")})
    assert ill.returncode == 1
    assert "faceq models get" in ill.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("up", "--port", "x"),
        ("send",),
        ("queues", "peek"),
        ("nonsense",),
        ("up", "--parameter", "x"),
        ("up", "--engine", "x"),
    ],
)
def test_wrong_usage_is_exit_code_2(home: Home, arguments: tuple[str, ...]) -> None:
    assert home.faceq(*arguments).returncode == 2
