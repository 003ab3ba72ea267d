"""The process of the fake AWS: moto's server with our extensions, the function URL, and the registry.

`python -m tests.deploy.fake_aws.server` prints one line of JSON when it is ready, and exits when its standard input
closes.
"""

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from moto.moto_api._internal.models import moto_api_backend

from tests.aws_server import ACCESS_KEY, REGION, SECRET_KEY, Application, running_aws_server
from tests.deploy import aws_calls
from tests.deploy.fake_aws import cloudformation_api, repositories, resource_types, stack_changes
from tests.deploy.fake_aws.controls import CONTROLS, Break
from tests.deploy.fake_aws.endpoints import Endpoints
from tests.deploy.fake_aws.function_containers import ROLE_KEY


@dataclass
class Failure:
    """Calls to answer with an error instead of passing them to moto. `*` stands for every service or operation."""

    service: str
    operation: str
    code: str
    message: str
    times: int = 1
    status: int = 400
    after: int = 0

    def applies(self, call: aws_calls.Call) -> bool:
        """Return whether this call must fail, and count it."""
        if not self.times or self.service not in ("*", call.service) or self.operation not in ("*", call.operation):
            return False
        if self.after:
            self.after -= 1
            return False
        self.times -= 1
        return True


@dataclass
class Recorder:
    """WSGI application in front of moto: records and checks each call, and fails those that a test wants to fail."""

    moto: Application
    endpoints: Endpoints
    calls: list[aws_calls.Call] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        body = _body(environ)
        if path.startswith("/faceq-test/"):
            answer = self.control(path.removeprefix("/faceq-test/"), json.loads(body or b"{}"))
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(answer, default=str).encode()]
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): value
            for name, value in environ.items()
            if isinstance(value, str) and (name.startswith("HTTP_") or name == "CONTENT_TYPE")
        }
        signed = aws_calls.service_of(headers.get("authorization", ""))
        if signed is None:
            return _error(
                start_response, "s3", 403, "MissingAuthenticationToken", "Missing Authentication Token", headers
            )
        service, key = signed
        raw_path = environ.get("RAW_URI", path).partition("?")[0] or path
        call = aws_calls.read(
            service, environ["REQUEST_METHOD"], raw_path, environ.get("QUERY_STRING", ""), headers, body
        )
        if key != ROLE_KEY:
            self.calls.append(call)
        if key not in (ACCESS_KEY, ROLE_KEY):
            words = "The security token included in the request is invalid."
            code = (
                "InvalidAccessKeyId"
                if service == "s3"
                else _UNKNOWN_KEY.get(aws_calls.model(service).protocol, "UnrecognizedClientException")
            )
            return _error(start_response, service, 403, code, words, headers)
        for failure in self.failures:
            if failure.applies(call):
                return _error(start_response, service, failure.status, failure.code, failure.message, headers)
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        result: Iterable[bytes] = self.moto(environ, start_response)
        return result

    def control(self, action: str, arguments: dict[str, Any]) -> Any:
        """Carry out a request of `tests.deploy.cloud.Cloud`, by the name of its method."""
        actions: dict[str, Callable[..., Any]] = {
            "calls": lambda: [call.to_json() for call in self.calls],
            "forget_calls": self.calls.clear,
            "fail": lambda **settings: self.failures.append(Failure(**settings)),
            "break_resource": lambda **settings: CONTROLS.breaks.append(Break(**settings)),
            "set_pace": lambda seconds: setattr(CONTROLS, "pace", seconds),
            "set_stack": cloudformation_api.set_status,
            "drift": lambda stack, **settings: CONTROLS.drifts.setdefault(stack, []).append(settings),
            "run_images": lambda: setattr(self.endpoints, "runs_images", True),
            "set_answer": lambda result: setattr(self.endpoints, "result", result),
            "break_image": lambda digest, behaviour: self.endpoints.broken.update({digest: behaviour}),
            "break_push": lambda **settings: setattr(self.endpoints, "push_failure", tuple(settings.values())),
            "set_registry_token": lambda token: setattr(CONTROLS, "token", token),
            "posts": lambda: self.endpoints.posts,
            "reset": self.reset,
            "repair": self.repair,
        }
        return actions[action](**arguments)

    def repair(self) -> None:
        """Forget every failure, answer and pause that a test set."""
        self.failures.clear()
        CONTROLS.repair()
        self.endpoints.repair()

    def reset(self) -> None:
        """Empty the account and the registry."""
        self.repair()
        self.endpoints.stop()
        stack_changes.finish()
        moto_api_backend.reset()
        repositories.forget("")
        self.endpoints.posts.clear()
        self.calls.clear()


_UNKNOWN_KEY = {
    "query": "InvalidClientTokenId",
    "json": "UnrecognizedClientException",
    "rest-json": "UnrecognizedClientException",
}


def _body(environ: Mapping[str, Any]) -> bytes:
    length = environ.get("CONTENT_LENGTH")
    source = environ["wsgi.input"]
    if length:
        return bytes(source.read(int(length)))
    return bytes(source.read()) if environ.get("wsgi.input_terminated") else b""


def _error(
    start_response: Callable[..., Any], service: str, status: int, code: str, message: str, headers: Mapping[str, str]
) -> list[bytes]:
    """Answer with an error in the form of the service's protocol."""
    protocol = aws_calls.model(service).protocol
    content_type = "text/xml"
    if protocol == "query":
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
            "<RequestId>0</RequestId></ErrorResponse>"
        ).encode()
    elif protocol == "rest-xml":
        body = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()
    else:
        content_type = "application/x-amz-json-1.1"
        body = json.dumps({"__type": code, "message": message}).encode()
    answered = [("Content-Type", content_type), ("x-amzn-errortype", code), ("Content-Length", str(len(body)))]
    start_response(f"{status} Error", answered)
    return [body]


def main() -> None:
    """Serve until standard input closes. Arguments: the registry's host and port, and its folder; or none."""
    storage, folder = sys.argv[1:] or ("", "")
    os.environ.update(
        AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY, AWS_DEFAULT_REGION=REGION,
        MOTO_LAMBDA_STUB_ECR="false",
    )  # fmt: skip
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    endpoints = Endpoints(storage, SECRET_KEY)
    endpoints.start()
    CONTROLS.url = f"http://127.0.0.1:{endpoints.function_port}/"
    CONTROLS.storage, CONTROLS.folder = storage, folder
    CONTROLS.registry = f"127.0.0.1:{endpoints.registry_port}" if storage else ""
    for module in (cloudformation_api, resource_types, repositories):
        module.install()
    with running_aws_server(around=lambda moto: Recorder(moto, endpoints), threaded=True) as server:
        CONTROLS.endpoint = server.endpoint
        sys.stdout.write(json.dumps({"endpoint": server.endpoint, "registry": CONTROLS.registry}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
        endpoints.stop()
        os._exit(0)  # threads with open connections would keep the process alive


if __name__ == "__main__":
    main()
