"""A fixture for tests of commands: a running stack that needs no model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.queue_sqs import SqsSender
from client import stack_state
from pipeline.messages import FrameRequest, RecognitionResult
from tests.answering_stack import Stack
from tests.builders import stack_record
from tests.fakes import function_url
from tests.sqs_servers import running_queue_server, sqs_client


@pytest.fixture(scope="module")
def sqs_endpoint() -> Iterator[str]:
    with running_queue_server() as endpoint:
        yield endpoint


@pytest.fixture
def stack(tmp_path: Path, sqs_endpoint: str, request: pytest.FixtureRequest) -> Iterator[Stack]:
    client = sqs_client(sqs_endpoint)
    queue_url = client.create_queue(QueueName=f"resp-{abs(hash(request.node.name))}")["QueueUrl"]
    responses = SqsSender(client, queue_url)
    stack = Stack(tmp_path / "state")

    def react(frame: FrameRequest) -> tuple[int, str]:
        if frame.filename in stack.refused:
            return 400, '{"error": "not_an_image", "message": "This is no [picture]."}'
        if frame.filename in stack.silent:
            stack.accepted.add(frame.filename)
            return 200, "Face detection completed"
        if frame.filename in stack.errors:
            error = {"code": "wrong_crop", "message": "The crop is wrong."}
            responses.send(RecognitionResult(frame.request_id, "Error", frame.filename, error=error).to_json())
            return 200, "Face detection completed"
        name = Path(frame.filename).name.split(".")[0]
        responses.send(RecognitionResult(frame.request_id, name, frame.filename).to_json())
        stack.accepted.add(frame.filename)
        return 200, "Face detection completed"

    with function_url(react) as url:
        lock = stack_state.acquire_lock(stack.folder)
        assert lock is not None
        running = stack_record(
            function_url=url, response_queue_url=queue_url, region="us-east-1", sqs_endpoint=sqs_endpoint
        )
        stack_state.write_record(running, stack.folder)
        yield stack
        lock.release()
