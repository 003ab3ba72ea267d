"""The promises to users of the service, tested on the whole service: a frame in, a name out."""

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from PIL import Image

from adapters.queue_sqs import sqs_client
from client.frames import Frame, frames
from tests.conftest import COLLINS, HOPPER, Start
from tests.functional.targets import ROOT, Service
from tests.polling import eventually

FIXTURES = ROOT.parent / "shared" / "fixtures"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="needs the photographs in ../shared/fixtures")


def picture(size: tuple[int, int] = (320, 240), colour: str = "grey") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "JPEG")
    return stream.getvalue()


def test_each_known_person_is_named(running: Service, frame: Callable[[str], Frame]) -> None:
    """The answer also contains the place and score of each face, the model, the gallery and the timings."""
    outcomes = running.send(frame(COLLINS), frame(HOPPER))
    results = [outcome.result for outcome in outcomes.values()]
    assert results == [COLLINS, HOPPER]
    for outcome in outcomes.values():
        answer = outcome.answer
        assert answer is not None
        assert answer["request_id"] == outcome.request_id
        assert answer["filename"] == outcome.frame.filename
        largest = answer["faces"][0]
        assert set(largest) == {"box", "landmarks", "name", "score", "distance"}
        assert len(largest["box"]) == 4
        assert len(largest["landmarks"]) == 5
        assert 0.9 < largest["score"] <= 1
        assert answer["model"] == running.stack.model
        assert answer["gallery"]
        assert {"decode", "detect", "crop", "embed", "match"} <= set(answer["timings"])


def test_a_frame_without_a_face_is_answered(running: Service) -> None:
    outcome = running.send(Frame("wall.jpg", picture()))["wall.jpg"]
    assert outcome.result == "No-Face"


def test_a_stranger_is_unknown_until_enrolled_while_the_stack_runs(
    service: Start, photos: Mapping[str, Path], frame: Callable[[str], Frame], tmp_path: Path
) -> None:
    with service(tmp_path) as started:
        before = result_for(started, frame(COLLINS))
        started.home.faceq("people", "add", COLLINS, str(photos[COLLINS]))
        assert [before, result_for(started, frame(COLLINS))] == ["Unknown", COLLINS]
        assert result_for(started, frame(HOPPER)) == "Unknown"
        started.home.faceq("people", "add", HOPPER, str(photos[HOPPER]))
        assert result_for(started, frame(HOPPER)) == HOPPER
        started.home.faceq("people", "remove", COLLINS, "--yes")
        assert result_for(started, frame(COLLINS)) == "Unknown"


def result_for(service: Service, frame: Frame) -> str | None:
    return service.send(frame)[frame.filename].result


def test_a_client_written_for_aws_works_unchanged(running: Service, photos: Mapping[str, Path]) -> None:
    """The client of the README, with only the variables that `faceq env` prints, and with other credentials."""
    exports = running.home.faceq("env").stdout
    variables = dict(re.findall(r"^export (\w+)=(.*)$", exports, re.MULTILINE))
    assert {
        "FUNCTION_URL", "REQUEST_QUEUE_URL", "RESPONSE_QUEUE_URL", "AWS_REGION", "AWS_ENDPOINT_URL_SQS",
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    } <= set(variables)  # fmt: skip
    for credentials in ({}, {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "anything"}):
        client = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "client.py"), str(photos[HOPPER])],
            env={**variables, **credentials}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (client.stdout.strip(), client.stderr) == (HOPPER, "")


def test_env_does_not_replace_credentials_that_are_set(running: Service) -> None:
    printed = running.home.faceq("env", variables={"AWS_ACCESS_KEY_ID": "mine"}).stdout
    assert "AWS_ACCESS_KEY_ID" not in printed


def test_send_prints_one_row_per_frame(running: Service, photos: Mapping[str, Path], tmp_path: Path) -> None:
    """Frames come from a file and a folder; the rows are JSON for scripts."""
    (tmp_path / "wall.jpg").write_bytes(picture())
    sent = running.home.faceq("send", "--json", str(photos[COLLINS]), str(tmp_path))
    rows = {row["filename"]: row for row in map(json.loads, sent.stdout.splitlines())}
    assert sent.returncode == 0, sent.stderr
    assert {name: row["result"] for name, row in rows.items()} == {photos[COLLINS].name: COLLINS, "wall.jpg": "No-Face"}
    assert all(row["request_id"] for row in rows.values())


def test_send_names_the_frame_that_got_no_answer(running: Service, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no picture")
    sent = running.home.faceq("send", "--json", str(tmp_path / "note.txt"))
    assert sent.returncode == 1
    assert "400" in json.loads(sent.stdout)["problem"]
    assert sent.stderr == "faceq: 1 frame was refused.\n"


def test_fifty_parallel_posts_are_all_answered(running: Service, frame: Callable[[str], Frame]) -> None:
    photo = frame(COLLINS)
    outcomes = running.send(
        *(Frame(f"{number}.png", photo.content) for number in range(50)), concurrency=50, timeout=110
    )
    assert [outcome.result for outcome in outcomes.values()] == [COLLINS] * 50


def test_several_clients_share_the_response_queue(running: Service, photos: Mapping[str, Path]) -> None:
    """Each client gets its own answers although all clients poll one queue."""
    clients = [
        subprocess.Popen(
            [sys.executable, "-m", "cli.main", "send", "--json", str(photos[name])],
            stdout=subprocess.PIPE, text=True, cwd=ROOT, env=running.home.environ(),
        )
        for name in (COLLINS, HOPPER, COLLINS, HOPPER)
    ]  # fmt: skip
    answers = [json.loads(process.communicate(timeout=100)[0])["result"] for process in clients]
    assert answers == [COLLINS, HOPPER, COLLINS, HOPPER]


def test_every_frame_can_be_followed_in_the_logs(running: Service, frame: Callable[[str], Frame]) -> None:
    """Its request id is in the logs of both functions. The logs contain no picture and no embedding."""
    (outcome,) = running.send(frame(HOPPER)).values()
    lines = running.home.faceq("logs", "--request-id", outcome.request_id).stdout.splitlines()
    assert any("face-detection" in line and '"detected"' in line for line in lines)
    assert any("face-recognition" in line and '"recognised"' in line for line in lines)
    everything = running.log_text()
    assert base64.b64encode(outcome.frame.content).decode()[:200] not in everything
    assert max(map(len, everything.splitlines())) < 2000


def test_the_status_shows_what_the_functions_have_counted(running: Service, frame: Callable[[str], Frame]) -> None:
    """The last metrics are written just after the answer was sent."""

    def counts() -> dict[str, dict[str, float]]:
        counted: dict[str, dict[str, float]] = json.loads(running.home.faceq("status", "--json").stdout)["counts"]
        return counted

    before = counts()
    assert running.send(frame(HOPPER))["grace_hopper.jpg"].result == HOPPER
    assert requests.post(running.stack.function_url, b"no frame", timeout=30).status_code == 400
    more = {"FramesAccepted": 1, "FramesRefused": 1, "Faces": 1}
    detection = before["face-detection"]
    eventually(lambda: all(counts()["face-detection"][name] == detection[name] + more[name] for name in more))
    recognition = before["face-recognition"]
    eventually(lambda: counts()["face-recognition"]["AnsweredName"] == recognition["AnsweredName"] + 1)
    assert counts()["face-recognition"]["ComputeMilliseconds"] > recognition["ComputeMilliseconds"]


BAD_BODIES = {
    "not_json": b"{content",
    "not_object": b"[1]",
    "missing_key": b'{"request_id": "r", "filename": "f"}',
    "wrong_type": b'{"content": 5, "request_id": "r", "filename": "f"}',
    "empty_value": b'{"content": "", "request_id": "r", "filename": "f"}',
    "not_base64": b'{"content": "?", "request_id": "r", "filename": "f"}',
    "not_an_image": b'{"content": "aGVsbG8=", "request_id": "r", "filename": "../../etc/passwd"}',
    "too_large": b" " * 10_000_000,
}


@pytest.mark.parametrize("code", BAD_BODIES)
def test_bad_input_is_refused_over_http(running: Service, code: str) -> None:
    """The status is 4xx, the body says what is wrong, nothing is queued, and the next frame is processed."""
    answer = requests.post(running.stack.function_url, BAD_BODIES[code], timeout=30)
    assert 400 <= answer.status_code < 500
    assert set(answer.json()) == {"error", "message"}
    assert answer.json()["error"] == code
    depths = json.loads(running.home.faceq("queues", "list", "--json").stdout)
    assert all(depth["visible"] == 0 for depth in depths), depths
    assert running.send(Frame("next.jpg", picture()))["next.jpg"].result == "No-Face"


def test_the_response_and_the_answer_to_an_accepted_frame_are_those_of_the_contract(running: Service) -> None:
    body = {"content": base64.b64encode(picture()).decode(), "request_id": str(uuid4()), "filename": "a.jpg"}
    answer = requests.post(running.stack.function_url, json=body, timeout=30)
    assert (answer.status_code, answer.text) == (200, "Face detection completed")
    sqs = sqs_client(running.stack.region, running.stack.sqs_endpoint)
    (message,) = sqs.receive_message(QueueUrl=running.stack.response_queue_url, WaitTimeSeconds=10)["Messages"]
    assert json.loads(message["Body"]).items() >= {"request_id": body["request_id"], "result": "No-Face"}.items()
    sqs.delete_message(QueueUrl=running.stack.response_queue_url, ReceiptHandle=message["ReceiptHandle"])


def test_garbage_on_the_request_queue_is_answered_or_moved_to_the_dead_letter_queue(
    service: Start, photos: Mapping[str, Path], tmp_path: Path
) -> None:
    """With a request id, its client gets an error; without one, the operator finds it in the dead-letter queue."""
    quick = (
        "--parameter",
        "RecognitionTimeout=1",
        "--parameter",
        "RequestVisibilityTimeout=1",
        "--parameter",
        "MaxReceiveCount=2",
    )
    with service(tmp_path, *quick) as started:
        sqs = sqs_client(started.stack.region, started.stack.sqs_endpoint)
        sqs.send_message(QueueUrl=started.stack.request_queue_url, MessageBody='{"request_id": "mine", "faces": 1}')
        sqs.send_message(QueueUrl=started.stack.request_queue_url, MessageBody="garbage")
        (answer,) = sqs.receive_message(QueueUrl=started.stack.response_queue_url, WaitTimeSeconds=20)["Messages"]
        error = json.loads(answer["Body"])
        assert (error["request_id"], error["result"]) == ("mine", "Error")
        assert error["error"]["code"] == "wrong_type"
        dead: list[str] = []

        def receive() -> bool:
            # Polls are short: ElasticMQ does not wake a waiting reader when a message moves to the dead-letter queue.
            received = sqs.receive_message(QueueUrl=started.stack.dead_letter_queue_url, WaitTimeSeconds=1)
            dead.extend(message["Body"] for message in received.get("Messages", []))
            return bool(dead)

        eventually(receive, 30)
        assert dead == ["garbage"]


@pytest.mark.fixtures
@needs_fixtures
def test_four_people_are_named_in_24_frames_and_five_strangers_are_unknown(service: Start, tmp_path: Path) -> None:
    """12 frames are enrolled and 24 others sent. In a stranger's photograph, the largest face must be Unknown."""
    with service(tmp_path) as started:
        for person in sorted((FIXTURES / "people").iterdir()):
            enrolled = started.home.faceq("people", "add", "--largest", person.name, str(person / "enrol"))
            assert enrolled.returncode == 0, enrolled.stderr
        probes = [
            Frame(f"{person.name}/{frame.filename}", frame.content)
            for person in sorted((FIXTURES / "people").iterdir())
            for frame in frames([person / "probe"])
        ]
        answers = started.send(*probes, concurrency=2)
        assert len(answers) == 24
        assert {name: outcome.result for name, outcome in answers.items()} == {
            name: name.split("/")[0] for name in answers
        }
        strangers = started.send(*frames([FIXTURES / "faces"]), concurrency=2)
        largest = {name: outcome.answer["faces"][0]["name"] for name, outcome in strangers.items() if outcome.answer}
        assert largest == dict.fromkeys(strangers, "Unknown")
        assert len(largest) == 5
