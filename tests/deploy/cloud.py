"""AWS for the tests: moto's server with what it lacks, and a real registry behind its ECR.

`running_cloud()` starts it in processes of its own; everything reaches it over HTTP on loopback, as it would reach AWS.
`python -m tests.deploy.cloud` starts one by hand, prints what to export, and ends with its standard input.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3

from local.free_ports import free_ports
from tests.deploy.calls import Call
from tests.polling import eventually

ROOT = Path(__file__).parents[2]
STORAGE = "registry"
ACCOUNT, REGION = "123456789012", "us-east-1"
#: Everything in the environment that could lead a call elsewhere.
_PREFIXES = ("AWS_", "FACEQ_FUNCTION", "FUNCTION_URL", "REQUEST_QUEUE_URL", "RESPONSE_QUEUE_URL")
NO_REGISTRY = "needs Debian's docker-registry (apt-get install docker-registry)"


@dataclass(frozen=True)
class Cloud:
    """A played AWS.

    Parameters
    ----------
    endpoint : str
        Where every service answers.
    registry : str
        `127.0.0.1:PORT` of the registry behind ECR; empty if it runs without one.

    """

    endpoint: str
    registry: str

    @property
    def variables(self) -> dict[str, str]:
        """What a person of this account has set."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }

    @property
    def environ(self) -> dict[str, str]:
        """This process's environment as it is for a person of this account, for a subprocess."""
        return {**{name: value for name, value in os.environ.items() if name not in misleading()}, **self.variables}

    def client(self, service: str) -> Any:
        """Return a boto3 client that reaches it whatever the environment says. Its calls are recorded too."""
        return boto3.client(
            service, endpoint_url=self.endpoint, region_name=REGION, aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )  # fmt: skip

    def calls(self) -> list[Call]:
        """Return the calls since the start or the last `forget`, oldest first."""
        return [Call(**{**one, "faults": tuple(one["faults"])}) for one in self._ask("calls")]

    def forget(self) -> None:
        """Forget the calls so far."""
        self._ask("forget")

    def fail(
        self, service: str, operation: str, code: str, message: str, times: int = 1, status: int = 400, after: int = 0
    ) -> None:
        """Answer the next `times` calls that fit with this error, after letting `after` of them pass; -1 is for ever.

        `*` fits every service or operation. A name is as in `Call`.
        """
        self._ask("fail", service=service, operation=operation, code=code, message=message, times=times, status=status,
                  after=after)  # fmt: skip

    def break_resource(self, resource: str, reason: str, when: str | None = None, times: int = 1) -> None:
        """Let a resource fail when it is next made, changed or removed (`create`, `update`, `delete`; None for any).

        `resource` is its logical id. The stack rolls back, and the events say `reason` in AWS's form.
        """
        self._ask("break_resource", resource=resource, reason=reason, when=when, times=times)

    def pace(self, seconds: float) -> None:
        """Let each resource take this long, so that there is something to watch or to break into. 0 at first."""
        self._ask("pace", seconds=seconds)

    def set_stack(self, stack: str, status: str, reason: str | None = None) -> None:
        """Put a stack that exists into this status, with the event that says so."""
        self._ask("set_stack", stack=stack, status=status, reason=reason)

    def drift(self, stack: str, resource: str, prop: str, actual: str) -> None:
        """Let drift detection find that somebody changed a property by hand."""
        self._ask("drift", stack=stack, resource=resource, property=prop, actual=actual)

    def play_images(self) -> None:
        """Let containers of the deployed image answer frames, instead of the name that `answers` gives.

        Needs a Docker engine on Linux and the registry.
        """
        self._ask("play_images")

    def answers(self, result: str) -> None:
        """Let the functions answer this name to every frame. `Unknown` at first."""
        self._ask("answers", result=result)

    def break_image(self, digest: str, how: str = "crash") -> None:
        """Let functions of this image `crash` (502), answer a `wrong` name, or be `silent`."""
        self._ask("break_image", digest=digest, how=how)

    def break_push(self, status: int, code: str, message: str) -> None:
        """Let the registry refuse what is pushed, with an error of its API."""
        self._ask("break_push", status=status, code=code, message=message)

    def password(self, token: str) -> None:
        """Let ECR hand out this authorization token (base64 of `user:password`), which the registry may not take."""
        self._ask("password", token=token)

    def posts(self) -> list[dict[str, str]]:
        """Return what reached the functions: the image's digest, the version, the body."""
        return list(self._ask("posts"))

    def reset(self) -> None:
        """Empty the account and its registry, once what is under way has ended; forget all calls and knobs."""
        self._ask("reset")

    def mend(self) -> None:
        """Take back every failure, break, drift, pace and answer that was asked for."""
        self._ask("mend")

    def _ask(self, what: str, **given: object) -> Any:
        connection = HTTPConnection(self.endpoint.removeprefix("http://"), timeout=30)
        try:
            connection.request("POST", f"/faceq-test/{what}", json.dumps(given), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            return json.load(answer)
        finally:
            connection.close()


@contextmanager
def running_cloud(with_registry: bool = True) -> Iterator[Cloud]:
    """Start it on free ports; end it, and forget everything, in the end."""
    command = [sys.executable, "-m", "tests.deploy.played.server"]
    with ExitStack() as running:
        if with_registry:
            folder = Path(running.enter_context(TemporaryDirectory()))
            command += [running.enter_context(_registry(folder)), str(folder / STORAGE)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin
        assert process.stdout
        try:
            line = process.stdout.readline()
            assert line, "the played AWS did not start; its errors are above"
            ready = json.loads(line)
            yield Cloud(f"http://127.0.0.1:{ready['port']}", ready["registry"])
        finally:
            process.stdin.close()
            process.wait(60)
            process.stdout.close()


@contextmanager
def _registry(folder: Path) -> Iterator[str]:
    """Start Debian's registry with its storage in a folder; give its host and port."""
    host = f"127.0.0.1:{free_ports(1)[0]}"
    configuration = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / STORAGE)}},
        "http": {"addr": host, "relativeurls": True},
    }
    (folder / "registry.yml").write_text(json.dumps(configuration))
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(folder / "registry.yml")], stdout=log, stderr=log)
        try:
            eventually(lambda: _answers(host))
            yield host
        finally:
            process.terminate()
            process.wait(10)


def _answers(host: str) -> bool:
    connection = HTTPConnection(host, timeout=2)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def why_no_registry() -> str | None:
    """Return why there can be no registry here, None if there can."""
    return None if shutil.which("docker-registry") else NO_REGISTRY


def misleading() -> list[str]:
    """Return the variables of this process that could lead a call elsewhere."""
    return [name for name in os.environ if name.startswith(_PREFIXES)]


if __name__ == "__main__":
    with running_cloud(with_registry=why_no_registry() is None) as by_hand:
        sys.stdout.writelines(f"export {name}={value}\n" for name, value in by_hand.variables.items())
        sys.stdout.flush()
        sys.stdin.read()
