"""The Lambda API through boto3, in front of a real function process: ours, or one of RIE."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from local.http_server import listen
from local.lambda_api import application
from template.model import Function, ServiceTemplate
from tests.conftest import StartRuntime
from tests.polling import until


@dataclass
class Api:
    client: Any  # boto3 has no types
    endpoint: str
    folder: Path

    async def invoke(self, payload: bytes | None = None, function: str = "sample", **arguments: str) -> dict[str, Any]:
        """Call through boto3; return the answer with its payload parsed."""
        call: dict[str, Any] = {"FunctionName": function, **arguments}
        if payload is not None:
            call["Payload"] = payload
        answer: dict[str, Any] = await asyncio.to_thread(lambda: self.client.invoke(**call))
        content = answer["Payload"].read()
        answer["Payload"] = json.loads(content) if content else None
        return answer


@pytest.fixture
async def api(request: pytest.FixtureRequest, tmp_path: Path, start_runtime: StartRuntime) -> AsyncIterator[Api]:
    handler = "tests.conformance.sample_functions.handler"
    function = Function("F", "sample", handler, 20, 512, {}, reserved_concurrency=1)
    runtime = await start_runtime(function)
    template = ServiceTemplate({"sample": function}, (), {}, ())
    # A function that has answered may need a moment before its next request, so the API waits, except in tests of
    # throttling.
    wait_seconds = getattr(request, "param", 20.0)
    server = application(runtime, template, {}, region="us-east-1", account="000000000000", wait_seconds=wait_seconds)
    runner, port = await listen(server, 0)
    endpoint = f"http://127.0.0.1:{port}"
    client = boto3.client(
        "lambda",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 1}, parameter_validation=True),
    )
    yield Api(client, endpoint, tmp_path)
    await runner.cleanup()


def event(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "function",
    [
        "sample",
        "sample:$LATEST",
        "000000000000:function:sample",
        "arn:aws:lambda:us-east-1:000000000000:function:sample",
        "arn:aws:lambda:us-east-1:000000000000:function:sample:$LATEST",
    ],
)
async def test_a_function_is_invoked_by_each_form_of_its_name(api: Api, function: str) -> None:
    answer = await api.invoke(b'{"a": "\xc3\xa9"}', function)
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert answer["Payload"] == {"a": "\u00e9"}
    assert "FunctionError" not in answer
    assert "LogResult" not in answer


async def test_no_payload_is_an_empty_event(api: Api) -> None:
    assert (await api.invoke())["Payload"] == {}


async def test_a_failed_function_is_a_200_with_the_error_unhandled(api: Api) -> None:
    answer = await api.invoke(event(do="fail", message="no"))
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert answer["Payload"]["errorMessage"] == "no"
    answer = await api.invoke(event(do="exit", status=1))
    assert answer["FunctionError"] == "Unhandled"
    assert answer["Payload"]["errorType"] == "Runtime.ExitError"


async def test_the_answer_has_the_log_tail_and_the_request_id(api: Api, in_containers: bool) -> None:
    answer = await api.invoke(event(do="print"), LogType="Tail")
    log = base64.b64decode(answer["LogResult"]).decode()
    assert f"START RequestId: {answer['ResponseMetadata']['RequestId']} Version: $LATEST" in log
    assert "to stdout" in log
    # We drop RIE's REPORT line, because RIE does not measure its durations and its memory.
    assert ("REPORT" in log) is not in_containers


async def test_the_client_context_reaches_the_handler(api: Api) -> None:
    context = base64.b64encode(json.dumps({"custom": {"k": "\u00e9\n"}}).encode()).decode()
    answer = await api.invoke(event(do="context"), ClientContext=context)
    assert answer["Payload"]["custom"] == {"k": "\u00e9\n"}
    assert answer["Payload"]["aws_request_id"] == answer["ResponseMetadata"]["RequestId"]


@pytest.mark.parametrize("kind", ["RequestResponse", "Event", "DryRun"])
@pytest.mark.parametrize(("function", "more"), [("other", {}), ("sample:live", {}), ("sample", {"Qualifier": "7"})])
async def test_an_unknown_function_or_version_is_not_found(
    api: Api, kind: str, function: str, more: dict[str, str]
) -> None:
    with pytest.raises(api.client.exceptions.ResourceNotFoundException) as caught:
        await api.invoke(b"{}", function, InvocationType=kind, **more)
    error = caught.value.response
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 404
    assert error["Error"]["Message"].startswith("Function not found: arn:aws:lambda:us-east-1:000000000000:function:")


@pytest.mark.parametrize("payload", [b"{", b"\xff", b"NaN", b"not json", b"[" * 100_000, b'{"a":1}{"b":2}'])
async def test_a_payload_that_is_not_json_is_refused(api: Api, payload: bytes) -> None:
    with pytest.raises(api.client.exceptions.InvalidRequestContentException) as caught:
        await api.invoke(payload)
    assert caught.value.response["Error"]["Message"].startswith("Could not parse request body into json: ")
    assert (await api.invoke(b"1"))["Payload"] == 1


@pytest.mark.parametrize(("kind", "size"), [("RequestResponse", 6 * 1024 * 1024), ("Event", 1024 * 1024)])
async def test_a_payload_over_the_limit_is_refused(api: Api, kind: str, size: int) -> None:
    with pytest.raises(api.client.exceptions.RequestTooLargeException) as caught:
        await api.invoke(b'"' + b"x" * size + b'"', InvocationType=kind)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413


@pytest.mark.parametrize("api", [0.0], indirect=True, ids=["no wait"])
async def test_a_busy_function_throttles_immediately(api: Api) -> None:
    began, go = api.folder / "began", api.folder / "go"
    busy = asyncio.create_task(api.invoke(event(do="wait", began=str(began), until=str(go))))
    await until(began.exists)
    with pytest.raises(api.client.exceptions.TooManyRequestsException) as caught:
        await api.invoke()
    response = caught.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    go.touch()
    assert (await busy)["StatusCode"] == 200


async def test_an_asynchronous_invocation_is_accepted_immediately_and_runs_later(
    api: Api,
) -> None:
    began, go, record = api.folder / "began", api.folder / "go", api.folder / "record"
    busy = asyncio.create_task(api.invoke(event(do="wait", began=str(began), until=str(go))))
    await until(began.exists)
    answer = await api.invoke(event(do="record", file=str(record), seconds=0, n=7), InvocationType="Event")
    assert (answer["StatusCode"], answer["Payload"]) == (202, None)
    assert not record.exists()
    go.touch()
    await busy
    await until(record.exists)


async def test_a_dry_run_does_not_run_the_function(api: Api) -> None:
    record = api.folder / "record"
    answer = await api.invoke(event(do="record", file=str(record), seconds=0, n=7), InvocationType="DryRun")
    assert answer["StatusCode"] == 204
    await api.invoke()
    assert not record.exists()


async def test_an_operation_that_is_not_emulated_is_refused_with_that_reason(api: Api) -> None:
    with pytest.raises(ClientError) as caught:
        await asyncio.to_thread(api.client.list_layers)
    assert "is not emulated" in caught.value.response["Error"]["Message"]


async def test_an_invalid_client_context_or_type_is_refused(api: Api) -> None:
    path = f"{api.endpoint}/2015-03-31/functions/sample/invocations"
    async with aiohttp.ClientSession() as client:
        for name, value in [("X-Amz-Client-Context", "%"), ("X-Amz-Invocation-Type", "Sometimes")]:
            async with client.post(path, data=b"{}", headers={name: value}) as response:
                assert response.status == 400
                assert response.headers["x-amzn-ErrorType"].startswith("Invalid")
