"""The deployed functions as real containers: of the image with the deployed digest, each with Lambda's Runtime API.

A container gets the variables and restrictions that Lambda gives a function: its memory limit, a read-only file system
with /tmp, a user without privileges. Unlike on Lambda, each function has one environment, which uses this machine's
network (so this works only on Linux), and the queue's messages are delivered right after a frame was posted.
(Lambda developer guide, "Using the Lambda runtime API for custom runtimes" and "Create a Lambda function using a
container image")
"""

import asyncio
import contextlib
import json
import sys
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import boto3
import docker
from aiohttp import web
from moto.awslambda.models import LambdaFunction

from local.event_source_mapping_rules import failed_message_ids, to_record
from local.function_url import HttpRequest, HttpResponse, to_event, to_response
from tests.deploy.fake_aws.controls import CONTROLS

#: Access key of the functions, whose calls are not recorded. Temporary keys begin with ASIA.
ROLE_KEY = "ASIAFUNCTION"
_API = "/2018-06-01/runtime/"


@dataclass
class Environment:
    """One container of a function, and the Runtime API that it calls."""

    function: LambdaFunction
    endpoint: str
    work: "asyncio.Queue[tuple[str, bytes]]" = field(default_factory=asyncio.Queue)
    results: "dict[str, asyncio.Future[tuple[bytes, bool]]]" = field(default_factory=dict)
    container: Any = None
    runner: Any = None

    async def start(self) -> None:
        self.runner = web.ServerRunner(web.Server(self.answer), shutdown_timeout=1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.container = await asyncio.to_thread(self._run, port)

    def _run(self, port: int) -> Any:
        client = docker.from_env()
        repository, _, digest = self.function.code["ImageUri"].partition("@")
        image = client.images.pull(repository, digest, auth_config={"username": "AWS", "password": "testing"})
        return client.containers.run(
            image.id, self.function.image_config.cmd, detach=True, network_mode="host",
            read_only=True, tmpfs={"/tmp": "size=512m,mode=1777"}, cap_drop=["ALL"], init=True,
            mem_limit=f"{self.function.memory_size}m",
            environment={
                **self.function.environment_vars,
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
                "AWS_LAMBDA_FUNCTION_NAME": self.function.function_name,
                "AWS_LAMBDA_FUNCTION_VERSION": str(self.function.version),
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.function.memory_size),
                "AWS_REGION": self.function.region, "AWS_DEFAULT_REGION": self.function.region,
                "AWS_ACCESS_KEY_ID": ROLE_KEY, "AWS_SECRET_ACCESS_KEY": "testing",
                "AWS_ENDPOINT_URL": self.endpoint,
            },
        )  # fmt: skip

    def _remove(self) -> None:
        self.container.remove(force=True)
        with contextlib.suppress(docker.errors.ImageNotFound):  # already removed with the other function's container
            docker.from_env().images.remove(self.function.code["ImageUri"], noprune=True)

    async def stop(self) -> None:
        if self.container is not None:
            await asyncio.to_thread(self._remove)
        if self.runner is not None:
            await self.runner.cleanup()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request of the Runtime API."""
        operation = request.path.removeprefix(_API)
        if operation == "invocation/next":
            request_id, payload = await self.work.get()
            headers = {
                "Lambda-Runtime-Aws-Request-Id": request_id,
                "Lambda-Runtime-Deadline-Ms": str(int((time.time() + self.function.timeout) * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": self.function.function_arn,
                "Lambda-Runtime-Trace-Id": "Root=1-00000000-000000000000000000000000;Sampled=0",
            }
            return web.Response(body=payload, headers=headers, content_type="application/json")
        body = await request.read()
        if operation == "init/error":
            for future in self.results.values():
                future.set_result((body, True))
        else:
            _, request_id, kind = operation.split("/")
            self.results.pop(request_id).set_result((body, kind == "error"))
        return web.json_response({"status": "OK"}, status=202)

    async def invoke(self, payload: bytes) -> tuple[bytes, bool]:
        """Return the function's answer, and whether it failed."""
        request_id = str(uuid.uuid4())
        future: asyncio.Future[tuple[bytes, bool]] = asyncio.get_running_loop().create_future()
        self.results[request_id] = future
        await self.work.put((request_id, payload))
        answer, failed = await asyncio.wait_for(future, 10 + self.function.timeout)
        if failed:
            sys.stderr.write(f"{self.function.function_name}: {answer.decode(errors='replace')}\n")
        return answer, failed


class FunctionContainers:
    """Runs the versions that the aliases name. A new version replaces the container of the previous one."""

    def __init__(self) -> None:
        self._running: dict[str, Environment] = {}

    async def post(self, detection: LambdaFunction, recognition: LambdaFunction, body: bytes) -> HttpResponse:
        """Pass a frame through the service: function URL, detection, request queue, recognition."""
        now = datetime.now(UTC)
        request = HttpRequest("POST", "/", [("content-type", "application/json")], body, "127.0.0.1", 443)
        event = to_event(request, url_id="fake", request_id=str(uuid.uuid4()), trace_id="Root=1", now=now)
        answer, failed = await (await self._environment(detection)).invoke(json.dumps(event).encode())
        if failed:
            return HttpResponse(502, [("content-type", "application/json")], b"Internal Server Error")
        queue = detection.environment_vars["REQUEST_QUEUE_URL"]
        sqs = boto3.client(
            "sqs", endpoint_url=CONTROLS.endpoint, region_name=detection.region, aws_access_key_id=ROLE_KEY,
            aws_secret_access_key="testing",
        )  # fmt: skip
        received = await asyncio.to_thread(
            sqs.receive_message, QueueUrl=queue, MaxNumberOfMessages=10, AttributeNames=["All"]
        )
        messages = received.get("Messages", [])
        if messages:
            arn = f"arn:aws:sqs:{detection.region}:{detection.account_id}:{queue.rsplit('/', 1)[1]}"
            records = [to_record(message, arn, detection.region) for message in messages]
            batch = json.dumps({"Records": records}).encode()
            result, failed = await (await self._environment(recognition)).invoke(batch)
            ids = [message["MessageId"] for message in messages]
            left = set(ids) if failed else failed_message_ids(result, ids)
            for message in messages:
                if message["MessageId"] not in left:
                    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return to_response(answer)

    async def _environment(self, function: LambdaFunction) -> Environment:
        now = self._running.get(function.function_name)
        if now is not None and now.function is function:
            return now
        if now is not None:
            await now.stop()
        environment = Environment(function, CONTROLS.endpoint)
        self._running[function.function_name] = environment
        await environment.start()
        return environment

    async def stop(self) -> None:
        """Stop all containers."""
        while self._running:
            await self._running.popitem()[1].stop()
