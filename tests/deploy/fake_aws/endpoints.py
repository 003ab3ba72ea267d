"""Two HTTP endpoints of the fake AWS: the function URL, and the registry behind ECR.

The function URL accepts a post, refuses an unsigned one if its type is `AWS_IAM`, and sends an answer to the response
queue that the function's variables name. The registry requires the password from `get-authorization-token`, accepts
images only for existing repositories, and never moves a tag of an immutable repository.
(Lambda developer guide, "Invoking Lambda function URLs"; Amazon ECR user guide, "Preventing image tags from being
overwritten")
"""

import asyncio
import base64
import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, ClientTimeout, web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.awslambda.models import LambdaFunction, lambda_backends
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ecr.models import ecr_backends
from moto.sqs.models import sqs_backends

from tests.deploy.fake_aws.function_containers import FunctionContainers
from tests.deploy.fake_aws.repositories import sync

REGION = "us-east-1"


@dataclass
class Endpoints:
    """The two endpoints, on free ports of the loopback interface, served by a thread of their own."""

    storage: str
    secret: str
    result: str = "Unknown"
    broken: dict[str, str] = field(default_factory=dict)
    push_failure: tuple[int, str, str] | None = None
    runs_images: bool = False
    posts: list[dict[str, Any]] = field(default_factory=list)
    function_port: int = 0
    registry_port: int = 0

    def stop(self) -> None:
        """Stop the functions' containers, if any run."""
        asyncio.run_coroutine_threadsafe(self.containers.stop(), self.loop).result(60)

    def repair(self) -> None:
        """Forget every failure and answer that a test set."""
        self.broken.clear()
        self.push_failure = None
        self.result = "Unknown"
        self.runs_images = False

    def start(self) -> None:
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True).start()
        ready.wait()

    async def _serve(self, ready: threading.Event) -> None:
        async with ClientSession(auto_decompress=False, timeout=ClientTimeout(total=600)) as session:
            self.session = session
            self.loop = asyncio.get_running_loop()
            self.containers = FunctionContainers()
            self.function_port = await _listen(self.post)
            self.registry_port = await _listen(self.push)
            ready.set()
            await asyncio.Event().wait()

    # ---- the function URL

    async def post(self, request: web.Request) -> web.Response:
        body = await request.content.read()  # `read()` would stop at 1 MiB
        backend = lambda_backends[DEFAULT_ACCOUNT_ID][REGION]
        functions = [one for one in backend.list_functions() if one.url_config is not None]
        if not functions:
            return web.json_response({"Message": None}, status=404)
        config = functions[0].url_config
        if config.config["AuthType"] == "AWS_IAM" and not self._signed(request, body):
            return web.json_response({"Message": "Forbidden"}, status=403)
        function = backend.get_function(functions[0].function_name, config.qualifier)
        digest = function.code["ImageUri"].partition("@")[2]
        behaviour = self.broken.get(digest)
        self.posts.append({"digest": digest, "version": str(function.version), "body": body.decode(errors="replace")})
        if behaviour == "crash":
            return web.json_response({"message": "Internal Server Error"}, status=502)
        if self.runs_images and behaviour is None:
            recognition = backend.get_function("face-recognition", config.qualifier)
            answer = await self.containers.post(function, recognition, body)
            return web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)
        if behaviour != "silent":
            self._answer(function, json.loads(body), "Nobody" if behaviour == "wrong" else self.result)
        return web.Response(text="Face detection completed")

    def _answer(self, function: LambdaFunction, frame: dict[str, Any], result: str) -> None:
        queue = function.environment_vars["RESPONSE_QUEUE_URL"].rsplit("/", 1)[1]
        answer = {
            "request_id": frame["request_id"],
            "result": result,
            "filename": frame.get("filename", ""),
            "faces": [],
            "model": "fake",
            "gallery": "fake",
            "timings": {},
        }
        sqs_backends[DEFAULT_ACCOUNT_ID][REGION].send_message(queue, json.dumps(answer))

    def _signed(self, request: web.Request, body: bytes) -> bool:
        """Return whether the request is signed with the secret, for the service `lambda`."""
        match = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=testing/\d+/([^/]+)/lambda/aws4_request, ?"
            r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})",
            request.headers.get("Authorization", ""),
        )
        if match is None or "X-Amz-Date" not in request.headers:
            return False
        region, names, signature = match.groups()
        headers = {name: request.headers[name] for name in names.split(";") if name in request.headers}
        copied = AWSRequest(request.method, str(request.url), headers=headers, data=body)
        copied.context["timestamp"] = request.headers["X-Amz-Date"]
        signer = SigV4Auth(Credentials("testing", self.secret), "lambda", region)
        wanted = signer.signature(signer.string_to_sign(copied, signer.canonical_request(copied)), copied)
        return bool(wanted == signature)

    # ---- the registry

    async def push(self, request: web.Request) -> web.StreamResponse:
        refused = self._refused(request)
        if refused is not None:
            return refused
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        async with self.session.request(
            request.method, f"http://{self.storage}{request.raw_path}", headers=headers,
            data=request.content if request.body_exists else None, allow_redirects=False,
        ) as answer:  # fmt: skip
            out = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    out.headers[name] = value
            await out.prepare(request)
            async for piece in answer.content.iter_chunked(1 << 20):
                await out.write(piece)
            await out.write_eof()
            return out

    def _refused(self, request: web.Request) -> web.Response | None:
        password = base64.b64encode(b"AWS:testing").decode()
        if request.headers.get("Authorization") != f"Basic {password}":
            realm = {"WWW-Authenticate": 'Basic realm="ECR"'}
            return _registry_error(401, "UNAUTHORIZED", "Not Authorized", realm)
        if self.push_failure is not None and request.method in ("POST", "PUT", "PATCH"):
            return _registry_error(*self.push_failure)
        match = re.match(r"/v2/(.+?)/(blobs|manifests|tags)/(.*)", request.path)
        if match is None:
            return None
        name, kind, rest = match.groups()
        repositories = ecr_backends[DEFAULT_ACCOUNT_ID][REGION].repositories
        if name not in repositories:
            return _registry_error(
                404, "NAME_UNKNOWN",
                f"The repository with name '{name}' does not exist in the registry with id '{DEFAULT_ACCOUNT_ID}'",
            )  # fmt: skip
        repository = repositories[name]
        if kind == "manifests" and request.method == "PUT" and ":" not in rest and repository.is_tag_immutable():
            sync(repository)
            if any(rest in image.image_tags for image in repository.images):
                return _registry_error(
                    400, "TAG_INVALID",
                    f"The image tag '{rest}' already exists in the '{name}' repository and cannot be overwritten "
                    "because the tag is immutable.",
                )  # fmt: skip
        return None


_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"})


def _registry_error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"errors": [{"code": code, "message": message}]}
    return web.json_response(body, status=status, headers=headers)


async def _listen(handler: Any) -> int:
    server = web.Server(handler)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port: int = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    return port
