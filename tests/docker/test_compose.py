"""What only the containers promise: replicas, restarts, restricted rights, and nothing left behind."""

import base64
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
import requests

from adapters.queue_sqs import sqs_client
from client.frames import Frame
from client.queue_operations import depths
from tests.conftest import COLLINS
from tests.functional.targets import Containers, compose, containers, docker
from tests.polling import eventually

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def scaled(photos: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """A service with three recognisers and two detectors, with one enrolled person."""
    scale = {"face-recognition": 3, "face-detection": 2}
    options = ("--parameter", "RequestVisibilityTimeout=30", "--parameter", "RecognitionTimeout=5")
    folder = tmp_path_factory.mktemp("containers")
    with containers(folder, *options, people={COLLINS: photos[COLLINS]}, scale=scale) as started:
        yield started


def inspected(service: Containers, part: str) -> list[dict[str, object]]:
    return list(json.loads(docker("inspect", *service.containers(part))))


def replicas(service: Containers) -> Mapping[str, int]:
    """Return how many requests each running replica has answered."""
    status = json.loads(service.home.faceq("status", "--json").stdout)
    return {f"{row['function']} {row['container']}": row["answered"] for row in status["replicas"]}


def post(service: Containers, frame: Frame, request_id: str) -> requests.Response:
    body = {
        "content": base64.b64encode(frame.content).decode(),
        "request_id": request_id,
        "filename": frame.filename,
    }
    return requests.post(service.stack.function_url, json=body, timeout=60)


def test_all_replicas_are_used(scaled: Containers, frame: Callable[[str], Frame]) -> None:
    """According to the gateway's count and the containers' own logs."""
    before = replicas(scaled)
    assert Counter(name.split()[0] for name in before) == {"face-recognition": 3, "face-detection": 2}
    photo = frame(COLLINS)
    # One recogniser may take ten waiting frames in one batch, so it takes many frames to keep all of them busy.
    outcomes = scaled.send(*(Frame(f"{n}.png", photo.content) for n in range(40)), concurrency=8, timeout=100)
    assert {outcome.result for outcome in outcomes.values()} == {COLLINS}
    after = replicas(scaled)
    assert all(after[name] > before[name] for name in after), after
    for part, message in (("face-detection", '"detected"'), ("face-recognition", '"recognised"')):
        for container in scaled.containers(part):
            assert message in docker("logs", container)


def test_the_containers_have_few_rights(scaled: Containers) -> None:
    for part in ("face-detection", "face-recognition", "gateway"):
        for container in inspected(scaled, part):
            config, host = container["Config"], container["HostConfig"]
            assert isinstance(config, dict)
            assert isinstance(host, dict)
            assert config["User"].split(":")[0] not in {"", "0", "root"}
            assert host["ReadonlyRootfs"] is True
            assert host["CapDrop"] == ["ALL"]
            assert host["SecurityOpt"] == ["no-new-privileges:true"]
            for published in (host["PortBindings"] or {}).values():
                assert {binding["HostIp"] for binding in published} == {"127.0.0.1"}


def test_functions_reach_the_queues_and_no_other_machine(scaled: Containers) -> None:
    code = "import socket; socket.create_connection(('1.1.1.1', 53), 3)"
    with pytest.raises(AssertionError, match=r"unreachable|timed out"):
        scaled.compose("exec", "--no-TTY", "face-detection", "python", "-c", code)
    code = "import socket; socket.create_connection(('elasticmq', 9324), 3)"
    scaled.compose("exec", "--no-TTY", "face-detection", "python", "-c", code)


def test_queue_urls_work_on_this_machine_and_in_the_containers(scaled: Containers) -> None:
    """ElasticMQ returns URLs with the address that the client used."""
    sqs = sqs_client(scaled.stack.region, scaled.stack.sqs_endpoint)
    assert sqs.get_queue_url(QueueName="faceq-resp-queue")["QueueUrl"] == scaled.stack.response_queue_url
    code = (
        "from adapters.queue_sqs import sqs_client; "
        "print(sqs_client('us-east-1').get_queue_url(QueueName='faceq-resp-queue')['QueueUrl'])"
    )
    credentials = ("--env", "AWS_ACCESS_KEY_ID=local", "--env", "AWS_SECRET_ACCESS_KEY=local")
    printed = scaled.compose("exec", "--no-TTY", *credentials, "face-detection", "python", "-c", code)
    assert printed.strip() == "http://elasticmq:9324/000000000000/faceq-resp-queue"


def test_twenty_frames_survive_a_restart_of_the_queues(scaled: Containers, frame: Callable[[str], Frame]) -> None:
    """GIVEN 20 frames waiting for a recogniser, WHEN the queue server restarts, THEN all 20 are answered."""
    scaled.compose("stop", "--timeout", "2", "face-recognition")
    photo = frame(COLLINS)
    ids = {str(uuid4()) for _ in range(20)}
    for request_id in ids:
        assert post(scaled, photo, request_id).status_code == 200
    scaled.compose("stop", "--timeout", "10", "elasticmq")
    scaled.compose("start", "elasticmq")
    scaled.compose("start", "face-recognition")
    assert collected(scaled, ids) == dict.fromkeys(ids, COLLINS)
    sqs = sqs_client(scaled.stack.region, scaled.stack.sqs_endpoint)
    eventually(lambda: all(depth.visible + depth.in_flight == 0 for depth in depths(sqs)), 60)


def collected(service: Containers, ids: set[str]) -> dict[str, str]:
    """Read the response queue until there is an answer for each id."""
    sqs = sqs_client(service.stack.region, service.stack.sqs_endpoint)
    results: dict[str, str] = {}

    def receive() -> bool:
        url = service.stack.response_queue_url
        for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=2).get("Messages", []):
            answer = json.loads(message["Body"])
            results[answer["request_id"]] = answer["result"]
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return ids <= results.keys()

    eventually(receive, 100)
    return results


def test_frames_get_503_while_the_queues_are_stopped_and_are_accepted_when_they_are_back(
    scaled: Containers, frame: Callable[[str], Frame]
) -> None:
    """Nothing else has to be restarted when the queues are back."""
    scaled.compose("stop", "--timeout", "5", "elasticmq")
    refused = post(scaled, frame(COLLINS), "r")
    assert refused.status_code == 503
    assert refused.json()["error"] == "queue_unavailable"
    scaled.compose("start", "elasticmq")
    eventually(lambda: post(scaled, frame(COLLINS), "again").status_code == 200, 60)
    assert collected(scaled, {"again"}) == {"again": COLLINS}


def test_a_gateway_that_starts_before_the_queues_waits_and_says_so(
    scaled: Containers, frame: Callable[[str], Frame]
) -> None:
    scaled.compose("stop", "--timeout", "5", "elasticmq", "gateway")
    docker("start", *scaled.containers("gateway"))
    eventually(lambda: "Waiting for the queue server at http://elasticmq:9324" in scaled.supervisor_output(), 60)
    refused = scaled.home.faceq("send", "nothing.jpg")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "The containers are still starting" in refused.stderr
    docker("start", *scaled.containers("elasticmq"))
    eventually(lambda: scaled.home.faceq("env").returncode == 0, 60)
    assert scaled.send(frame(COLLINS))[frame(COLLINS).filename].result == COLLINS


def test_a_full_tmp_disturbs_no_frame(scaled: Containers, frame: Callable[[str], Frame]) -> None:
    """The functions store nothing in /tmp."""
    for number in (1, 2):
        fill = "dd if=/dev/zero of=/tmp/full bs=1M 2>/dev/null; [ $(df --output=avail /tmp | tail -1) -eq 0 ]"
        scaled.compose("exec", "--no-TTY", "--index", str(number), "face-detection", "bash", "-c", fill)
    try:
        outcomes = scaled.send(*(Frame(f"{n}.png", frame(COLLINS).content) for n in range(4)))
        assert [outcome.result for outcome in outcomes.values()] == [COLLINS] * 4
    finally:
        for number in (1, 2):
            scaled.compose("exec", "--no-TTY", "--index", str(number), "face-detection", "rm", "/tmp/full")


def test_with_a_gallery_of_another_model_frames_are_answered_with_an_error_that_names_the_model(
    scaled: Containers, frame: Callable[[str], Frame]
) -> None:
    manifest = scaled.home.folder / "gallery" / "gallery.json"
    original = manifest.read_bytes()
    manifest.write_bytes(original.replace(b'"dlib"', b'"other"'))
    try:
        answer = scaled.send(frame(COLLINS))[frame(COLLINS).filename].answer
        assert answer is not None
        assert answer["result"] == "Error"
        assert "other" in json.dumps(answer["error"])
    finally:
        manifest.write_bytes(original)
    assert scaled.send(frame(COLLINS))[frame(COLLINS).filename].result == COLLINS


def test_a_port_that_is_in_use_is_named(scaled: Containers, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environ = {"FACEQ_PORT": str(port), "FACEQ_API_PORT": "0", "FACEQ_QUEUE_PORT": "0"}
        home = type(scaled.home)(tmp_path, environ)
        project = f"faceq-test-{uuid4().hex[:8]}"
        try:
            with pytest.raises(AssertionError, match=f"127.0.0.1:{port}.*(in use|allocated)"):
                compose(home, project, "up", "--no-build", "--detach", "--wait")
        finally:
            compose(home, project, "down", "--volumes", "--timeout", "2")


def test_an_image_for_another_processor_is_named_by_doctor(scaled: Containers) -> None:
    """GIVEN an image for another processor, WHEN doctor checks it, THEN doctor names the command to build it again."""
    name = f"faceq-test-{uuid4().hex[:8]}"
    ours = docker("image", "inspect", "--format", "{{.Architecture}}", "faceq-function").strip()
    other = {"amd64": "arm64", "arm64": "amd64"}[ours]
    docker(
        "build",
        "--quiet",
        "--platform",
        f"linux/{other}",
        "--tag",
        name,
        str(Path(__file__).parent / "other_processor"),
    )
    try:
        printed = scaled.home.faceq("doctor", variables={"FACEQ_IMAGE": name}).stdout
        assert f"{name} is for {other}, this machine is {ours}: docker compose build" in " ".join(printed.split())
    finally:
        docker("image", "rm", name)


def test_without_an_engine_doctor_names_the_command_that_needs_none(scaled: Containers) -> None:
    printed = scaled.home.faceq("doctor", variables={"DOCKER_HOST": "unix:///nowhere"}).stdout
    assert "The Docker engine is not running" in printed
    assert "faceq up" in printed


def test_boto3_lists_and_invokes_the_functions(scaled: Containers) -> None:
    import boto3

    functions = boto3.client(
        "lambda", endpoint_url=scaled.stack.lambda_endpoint, region_name=scaled.stack.region,
        aws_access_key_id="local", aws_secret_access_key="local",
    )  # fmt: skip
    names = {function["FunctionName"] for function in functions.list_functions()["Functions"]}
    assert names == {"face-detection", "face-recognition"}
    answer = functions.invoke(FunctionName="face-detection", Payload=b"{}", LogType="Tail")
    assert json.loads(answer["Payload"].read())["statusCode"] == 405
    assert b"START RequestId: " + answer["ResponseMetadata"]["RequestId"].encode() in base64.b64decode(
        answer["LogResult"]
    )


def test_a_function_that_cannot_start_is_named_and_the_gateway_comes_up_once_it_can(
    scaled: Containers, frame: Callable[[str], Frame]
) -> None:
    """GIVEN a recogniser whose init fails, WHEN that is fixed, THEN frames are answered without any other command."""
    broken = {"FACEQ_MIN_FACE_SIZE": "small"}
    up = ("up", "--no-build", "--no-deps", "--detach", "--scale", "face-recognition=1", "face-recognition")
    docker("compose", "--project-name", scaled.project, *up, environ=scaled.home.environ(broken))
    scaled.compose("restart", "--timeout", "2", "gateway")
    eventually(lambda: "The function face-recognition did not start" in scaled.supervisor_output(), 100)
    scaled.compose(*up)
    eventually(lambda: scaled.home.faceq("env").returncode == 0, 100)
    assert scaled.send(frame(COLLINS))[frame(COLLINS).filename].result == COLLINS


def test_down_leaves_nothing(photos: Mapping[str, Path], tmp_path: Path) -> None:
    with containers(tmp_path) as started:
        label = f"label=com.docker.compose.project={started.project}"
        assert docker("ps", "--all", "--quiet", "--filter", label)
    for kind in ("container", "network", "volume"):
        everything = ("--all",) if kind == "container" else ()
        assert docker(kind, "ls", *everything, "--quiet", "--filter", label) == ""
