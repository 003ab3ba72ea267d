"""The promises of `faceq up`, `down`, `status` and `doctor` to a user at a terminal."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest

from client.frames import Frame
from client.stack_state import RunningStack
from local.free_ports import free_ports
from pipeline.images import encode_jpeg
from tests.conftest import HOPPER
from tests.functional.targets import Home, Service, enrol
from tests.polling import eventually

pytestmark = pytest.mark.only("processes", "these commands start and stop the stack without Docker")


@pytest.fixture(scope="module")
def started(model: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Folders in which a stack runs; the tests that leave it as it is share it."""
    home = Home(tmp_path_factory.mktemp("started"))
    up = home.faceq("up", "-d", "--port", "0")
    assert up.returncode == 0, up.stderr
    yield home
    assert home.faceq("down").returncode == 0
    assert home.faceq("status").returncode == 1


def processes_of(home: Home) -> list[psutil.Process]:
    stack = home.running()
    assert stack is not None
    supervisor = psutil.Process(stack.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def test_only_their_owner_can_read_the_state_and_logs_of_a_stack(started: Home) -> None:
    files = list((started.folder / "state").rglob("*"))
    assert {"stack.json", "up.log", "supervisor.log", "face-recognition.log"} <= {file.name for file in files}
    assert [file for file in files if file.stat().st_mode & 0o077] == []


def test_ctrl_c_stops_everything_and_leaves_no_process(home: Home) -> None:
    """`make bench` measures how long this takes: at most 3 s."""
    up = home.start("up", "--port", "0")
    eventually(home.running, 60)
    parts = processes_of(home)
    assert len(parts) >= 5  # supervisor, queue server, event source mapping, two functions
    os.killpg(up.pid, signal.SIGINT)
    printed, _ = up.communicate(timeout=30)
    _, alive = psutil.wait_procs(parts, timeout=10)
    assert (up.returncode, alive) == (0, [])
    assert home.running() is None
    assert "Traceback" not in printed


def test_in_the_foreground_each_answered_frame_is_printed_once(home: Home, photos: Mapping[str, Path]) -> None:
    """Frames come in a burst. The functions' own lines are in their logs; what they counted is in the status."""
    enrol(home, {HOPPER: photos[HOPPER]})
    up = home.start("up", "--port", "0")
    stack = eventually_running(home)
    wall = encode_jpeg(np.full((120, 160, 3), 90, np.uint8))
    frames = [
        Frame("wall\x1b[2J.jpg", wall),
        *(Frame(f"{number}.jpg", photos[HOPPER].read_bytes()) for number in range(8)),
    ]
    outcomes = Service(home, stack).send(*frames, concurrency=8)
    eventually(lambda: counted(home)["face-recognition"]["AnsweredName"] == 8)  # just after the last answer
    counts = counted(home)
    table = home.faceq("status").stdout
    os.killpg(up.pid, signal.SIGINT)
    printed, _ = up.communicate(timeout=30)
    assert {name: outcome.result for name, outcome in outcomes.items()} == {
        "wall\x1b[2J.jpg": "No-Face", **{f"{number}.jpg": HOPPER for number in range(8)},
    }  # fmt: skip
    lines = re.findall(r"^(\d\d:\d\d:\d\d)  (.+)  (.+)  (\d) faces?  (\d+) ms$", printed, re.MULTILINE)
    assert sorted((filename, who, faces) for _, filename, who, faces, _ in lines) == sorted(
        [("wall\\x1b[2J.jpg", "No-Face", "0"), *((f"{number}.jpg", HOPPER, "1") for number in range(8))]
    )
    for _, filename, _, _, milliseconds in lines:
        of_client = outcomes[filename.replace("\\x1b", "\x1b")].milliseconds
        assert 1 <= int(milliseconds) <= of_client + 1, "what the client waited includes what the functions took"
    assert {name: counts["face-detection"][name] for name in ("FramesAccepted", "AnsweredNoFace", "Faces")} == {
        "FramesAccepted": 9, "AnsweredNoFace": 1, "Faces": 8,
    }  # fmt: skip
    assert {name: counts["face-recognition"][name] for name in ("AnsweredName", "AnsweredUnknown", "Faces")} == {
        "AnsweredName": 8, "AnsweredUnknown": 0, "Faces": 8,
    }  # fmt: skip
    assert all(counts[function]["ComputeMilliseconds"] > 0 for function in counts)
    assert re.search(r"face-detection\W+FramesAccepted\W+9\W", table)


def test_names_can_be_kept_out_of_the_logs_and_a_detached_stack_prints_no_frame(
    home: Home, photos: Mapping[str, Path]
) -> None:
    enrol(home, {HOPPER: photos[HOPPER]})
    up = home.faceq("up", "-d", "--port", "0", variables={"FACEQ_LOG_NAMES": "false"})
    assert up.returncode == 0, up.stderr
    service = Service(home, eventually_running(home))
    (outcome,) = service.send(Frame("grace hopper.jpg", photos[HOPPER].read_bytes())).values()
    assert outcome.result == HOPPER
    assert outcome.request_id in service.log_text()
    assert '"result":"name"' in service.log_text()
    assert "hopper" not in service.log_text().lower()
    assert outcome.request_id not in service.supervisor_output()
    assert "hopper" not in service.supervisor_output().lower()
    assert home.faceq("down").returncode == 0


def counted(home: Home) -> dict[str, dict[str, float]]:
    counts: dict[str, dict[str, float]] = json.loads(home.faceq("status", "--json").stdout)["counts"]
    return counts


def eventually_running(home: Home) -> RunningStack:
    eventually(home.running, 60)
    stack = home.running()
    assert stack is not None
    return stack


def test_no_process_outlives_the_supervisor(home: Home) -> None:
    """This also holds for `kill -9`, and whatever the supervisor left behind does not affect the next `up`."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        up = home.faceq("up", "-d", "--port", "0")
        assert up.returncode == 0, up.stderr
        parts = processes_of(home)
        parts[0].send_signal(number)
        _, alive = psutil.wait_procs(parts, timeout=10)
        assert alive == [], number
    again = home.faceq("up", "-d", "--port", "0")
    assert again.returncode == 0, again.stderr
    assert home.faceq("down").returncode == 0


def test_ctrl_c_during_the_start_leaves_no_process(home: Home) -> None:
    up = home.start("up", "--port", "0")
    eventually(lambda: psutil.Process(up.pid).children(), 30)
    parts = psutil.Process(up.pid).children(recursive=True)
    os.killpg(up.pid, signal.SIGINT)
    printed, _ = up.communicate(timeout=20)
    assert psutil.wait_procs(parts, timeout=5)[1] == []
    assert "Traceback" not in printed


def test_ctrl_c_during_a_detached_start_leaves_no_process(home: Home) -> None:
    """The stack runs in a session of its own, but Ctrl-C during its start must stop it."""
    up = home.start("up", "-d", "--port", "0")
    eventually(lambda: psutil.Process(up.pid).children(), 30)
    parts = psutil.Process(up.pid).children(recursive=True)
    os.killpg(up.pid, signal.SIGINT)
    printed, _ = up.communicate(timeout=20)
    assert psutil.wait_procs(parts, timeout=10)[1] == []
    assert home.running() is None
    assert "Traceback" not in printed


def test_folders_with_the_names_of_our_packages_are_not_imported(home: Home) -> None:
    """The current folder does not affect what a command runs. The logs can be read after the stack has stopped."""
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


def test_a_second_up_names_the_running_stack(started: Home) -> None:
    stack = started.running()
    assert stack is not None
    second = started.faceq("up", "--port", "0")
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert f"process {stack.pid}" in second.stderr
    assert "faceq up --name NAME" in second.stderr


def test_status_shows_every_part_of_the_running_stack(started: Home) -> None:
    status = json.loads(started.faceq("status", "--json").stdout)
    assert {"faceq", "queue-server", "event-source-mapping", "face-detection", "face-recognition"} == {
        row["part"] for row in status["processes"]
    }


def test_up_names_a_port_that_is_in_use_and_the_process_that_uses_it(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        up = home.faceq("up", "--port", str(taken.getsockname()[1]), "--api-port", "0", "--queue-port", "0")
    assert up.returncode == 1
    assert re.fullmatch(rf"faceq: Port \d+ is taken by process {os.getpid()} .*--port 0.*\n", up.stderr)


def test_a_stale_or_broken_state_file_is_removed_by_down_and_left_alone_by_status(home: Home) -> None:
    """`status` only reads. The next `up` removes the file, too (see the test with `kill -9`)."""
    for content in ("{", '{"pid": 1}', ""):
        (home.folder / "state").mkdir(exist_ok=True)
        (home.folder / "state" / "stack.json").write_text(content)
        assert home.faceq("status").returncode == 1
        assert (home.folder / "state" / "stack.json").read_text() == content
        assert home.faceq("down").returncode == 0
        assert not (home.folder / "state" / "stack.json").exists()


def test_up_takes_ports_and_parameters_from_the_variables(home: Home) -> None:
    url, api, queue = free_ports(3)
    variables = {
        "FACEQ_PORT": str(url),
        "FACEQ_API_PORT": str(api),
        "FACEQ_QUEUE_PORT": str(queue),
        "FACEQ_PARAMETERS": "Prefix=seen DetectionTimeout=11",
    }
    up = home.faceq("up", "-d", "--parameter", "DetectionTimeout=12", variables=variables)
    assert up.returncode == 0, up.stderr
    stack = home.running()
    assert stack is not None
    assert stack.function_url == f"http://127.0.0.1:{url}/"
    assert stack.lambda_endpoint == f"http://127.0.0.1:{api}"
    assert stack.response_queue_url.startswith(f"http://127.0.0.1:{queue}/")
    assert "/seen" in stack.response_queue_url
    assert home.faceq("down").returncode == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FACEQ_PORT", "http"),
        ("FACEQ_QUEUE_PORT", "70000"),
        ("FACEQ_PARAMETERS", "BatchSize"),
        ("FACEQ_PARAMETERS", "NoSuchParameter=1"),
        ("FACEQ_LOG_NAMES", "no"),
        ("FACEQ_THREADS", "many"),
        ("FACEQ_MODEL", "no-such-model"),
        ("FACEQ_NAME", "a/b"),
    ],
)
def test_up_refuses_a_variable_that_makes_no_sense_in_one_line(home: Home, name: str, value: str) -> None:
    ports = dict.fromkeys(("FACEQ_PORT", "FACEQ_API_PORT", "FACEQ_QUEUE_PORT"), "0")
    up = home.faceq("up", variables={**ports, name: value})
    assert (up.returncode, up.stderr.count("\n")) == (1, 1), up.stderr
    assert value.split("=")[0] in up.stderr


def test_two_stacks_run_side_by_side_and_each_command_reaches_its_own(home: Home, photos: Mapping[str, Path]) -> None:
    """State, logs, ports and galleries are apart."""
    apart = {"FACEQ_GALLERY_DIR": "", "XDG_DATA_HOME": str(home.folder / "data")}
    for name in ("one", "two"):
        up = home.faceq("up", "-d", "--port", "0", "--name", name, variables=apart)
        assert up.returncode == 0, up.stderr
        assert name in up.stdout
    one, two = (
        json.loads(home.faceq("status", "--json", variables={**apart, "FACEQ_NAME": name}).stdout)
        for name in ("one", "two")
    )
    for key in ("pid", "function_url", "response_queue_url", "lambda_endpoint", "gallery", "logs"):
        assert one[key] != two[key]
    added = home.faceq("people", "add", HOPPER, str(photos[HOPPER]), "--name", "two", variables=apart)
    assert added.returncode == 0, added.stderr
    assert added.stderr == ""
    for name, result in (("one", "Unknown"), ("two", HOPPER)):
        assert result in home.faceq("send", "--json", str(photos[HOPPER]), "--name", name, variables=apart).stdout
        assert "face-recognition: " in home.faceq("logs", "face-recognition", "--name", name, variables=apart).stdout
    assert home.faceq("queues", "list", "--name", "one", variables=apart).returncode == 0
    assert str(two["function_url"]) in home.faceq("env", "--name", "two", variables=apart).stdout
    again = home.faceq("up", "--name", "one", variables=apart)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert f"named one is already running: process {one['pid']}" in again.stderr
    assert "faceq up --name NAME" in again.stderr
    assert "--name one, --name two" in home.faceq("status", variables=apart).stderr
    unread = home.faceq("people", "list", variables=apart)
    assert "--name one" in unread.stderr
    assert home.faceq("down", "--name", "one", variables=apart).stdout == f"Stopped process {one['pid']}.\n"
    assert home.faceq("status", "--name", "one", variables=apart).returncode == 1
    assert home.faceq("status", "--name", "two", variables=apart).returncode == 0
    assert home.faceq("down", "--name", "two", variables=apart).returncode == 0


def test_a_second_checkout_learns_which_gallery_the_running_stack_reads(
    started: Home, photos: Mapping[str, Path]
) -> None:
    other = {"FACEQ_GALLERY_DIR": str(started.folder / "other checkout" / "gallery")}
    stack = started.running()
    assert stack is not None
    added = started.faceq("people", "add", HOPPER, str(photos[HOPPER]), variables=other)
    assert added.returncode == 0
    assert stack.gallery in added.stderr
    assert other["FACEQ_GALLERY_DIR"] in added.stderr
    assert f"export FACEQ_GALLERY_DIR={stack.gallery}" in added.stderr
    assert started.faceq("people", "list").stderr == ""
    assert "FACEQ_GALLERY_DIR=" in started.faceq("people", "remove", HOPPER, "--yes", variables=other).stderr


def test_no_process_listens_outside_this_machine(started: Home) -> None:
    addresses = {
        connection.laddr.ip
        for process in processes_of(started)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_a_missing_model_is_reported_in_one_line_with_the_command_that_gets_it(home: Home) -> None:
    for command in (("up", "--port", "0"), ("up", "-d", "--port", "0")):
        up = home.faceq(*command, variables={"FACEQ_MODELS_DIR": str(home.folder / "none")})
        assert up.returncode == 1
        assert up.stderr.count("\n") == 1
        assert "faceq models get" in up.stderr


@pytest.mark.parametrize(
    "command", [("up", "--port", "0"), ("up", "-d", "--port", "0"), ("status",), ("send", "a.jpg")]
)
def test_an_unusable_state_folder_is_reported_in_one_line(home: Home, command: tuple[str, ...]) -> None:
    (home.folder / "file").touch()
    failed = home.faceq(*command, variables={"FACEQ_STATE_DIR": str(home.folder / "file" / "state")})
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert str(home.folder / "file") in failed.stderr


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_a_missing_engine_is_reported_in_one_line_with_the_command_that_installs_it(home: Home) -> None:
    up = home.faceq("up", "--port", "0", "--engine", "torch")
    assert (up.returncode, up.stderr.count("\n")) == (1, 1)
    assert "pip install '.[torch]'" in up.stderr


def test_doctor_names_each_problem_and_the_command_that_fixes_it(home: Home) -> None:
    healthy = home.faceq("doctor", "--json")
    names = {check["name"] for check in json.loads(healthy.stdout)}
    assert {"stack", "versions", "detector", "model", "weights", "gallery", "template", "only on AWS"} <= names
    broken = home.faceq("doctor", variables={"FACEQ_MODELS_DIR": str(home.folder / "none")})
    assert broken.returncode == 1
    assert "faceq models get" in broken.stdout


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
def test_wrong_usage_exits_with_code_2(home: Home, arguments: tuple[str, ...]) -> None:
    assert home.faceq(*arguments).returncode == 2
