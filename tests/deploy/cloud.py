"""A fake AWS account for the tests: moto's server with our extensions (fake_aws/), and a real registry behind its ECR.

`running_cloud()` starts it in processes of its own. Tests and commands reach it over HTTP on the loopback interface, as
they would reach AWS. `python -m tests.deploy.cloud` starts one by hand, prints the variables to export, and exits when
its standard input closes.
"""

import json
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

from local.free_ports import free_ports
from tests.aws_server import AwsServer
from tests.deploy.aws_calls import Call
from tests.polling import eventually

ROOT = Path(__file__).parents[2]
STORAGE = "registry"
NO_REGISTRY = "needs Debian's docker-registry (apt-get install docker-registry)"


@dataclass(frozen=True)
class Cloud(AwsServer):
    """A running fake AWS account. Its server records the calls of every client.

    Parameters
    ----------
    endpoint : str
        URL at which every service answers.
    registry : str
        `127.0.0.1:PORT` of the registry behind ECR; empty if there is none.

    """

    registry: str

    def calls(self) -> list[Call]:
        """Return the calls since the start or the last `forget_calls`, oldest first."""
        return [Call(**{**one, "faults": tuple(one["faults"])}) for one in self._control("calls")]

    def forget_calls(self) -> None:
        """Forget the calls recorded so far."""
        self._control("forget_calls")

    def fail(
        self, service: str, operation: str, code: str, message: str, times: int = 1, status: int = 400, after: int = 0
    ) -> None:
        """Answer the next `times` matching calls with this error, after `after` calls that succeed.

        A `times` of -1 means every call from then on. Services and operations have the names that `Call` gives them;
        `*` stands for every one.
        """
        self._control(
            "fail", service=service, operation=operation, code=code, message=message, times=times, status=status,
            after=after,
        )  # fmt: skip

    def break_resource(self, resource: str, reason: str, when: str | None = None, times: int = 1) -> None:
        """Make a resource fail the next time it is created, updated or deleted (None: at whichever comes first).

        `resource` is its logical id. The stack is rolled back, and the events contain `reason` in AWS's form.
        """
        self._control("break_resource", resource=resource, reason=reason, when=when, times=times)

    def set_pace(self, seconds: float) -> None:
        """Let each change of a resource take this long, so that a test can watch or interrupt it. 0 at first."""
        self._control("set_pace", seconds=seconds)

    def set_stack(self, stack: str, status: str, reason: str | None = None) -> None:
        """Set the status of an existing stack, with the event that says so."""
        self._control("set_stack", stack=stack, status=status, reason=reason)

    def drift(self, stack: str, resource: str, prop: str, actual: str) -> None:
        """Let drift detection find that someone changed a property by hand."""
        self._control("drift", stack=stack, resource=resource, property=prop, actual=actual)

    def run_images(self) -> None:
        """Let containers of the deployed image answer frames, instead of sending the name from `set_answer`.

        This needs a Docker engine on Linux, and the registry.
        """
        self._control("run_images")

    def set_answer(self, result: str) -> None:
        """Let the functions answer every frame with this name. `Unknown` at first."""
        self._control("set_answer", result=result)

    def break_image(self, digest: str, behaviour: str = "crash") -> None:
        """Let functions with this image `crash` (502), answer with a `wrong` name, or send no answer (`silent`)."""
        self._control("break_image", digest=digest, behaviour=behaviour)

    def break_push(self, status: int, code: str, message: str) -> None:
        """Let the registry refuse every push, with an error of its API."""
        self._control("break_push", status=status, code=code, message=message)

    def set_registry_token(self, token: str) -> None:
        """Let ECR return this authorization token (base64 of `user:password`), which the registry may refuse."""
        self._control("set_registry_token", token=token)

    def posts(self) -> list[dict[str, str]]:
        """Return the posts that reached the functions: the image's digest, the function's version, and the body."""
        return list(self._control("posts"))

    def reset(self) -> None:
        """Wait for the changes in progress, then empty the account and its registry; forget calls and settings."""
        self._control("reset")

    def repair(self) -> None:
        """Undo every failure, drift, pace and answer that a test set."""
        self._control("repair")

    def _control(self, action: str, **arguments: object) -> Any:
        connection = HTTPConnection(self.endpoint.removeprefix("http://"), timeout=30)
        try:
            connection.request(
                "POST", f"/faceq-test/{action}", json.dumps(arguments), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            return json.load(answer)
        finally:
            connection.close()


@contextmanager
def running_cloud(with_registry: bool = True) -> Iterator[Cloud]:
    """Start a fake AWS on free ports; stop it at the end, with everything in it."""
    command = [sys.executable, "-m", "tests.deploy.fake_aws.server"]
    with ExitStack() as running:
        if with_registry:
            folder = Path(running.enter_context(TemporaryDirectory()))
            command += [running.enter_context(_registry(folder)), str(folder / STORAGE)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin
        assert process.stdout
        try:
            line = process.stdout.readline()
            assert line, "the fake AWS did not start; its errors are above"
            ready = json.loads(line)
            yield Cloud(ready["endpoint"], ready["registry"])
        finally:
            process.stdin.close()
            process.wait(60)
            process.stdout.close()


@contextmanager
def _registry(folder: Path) -> Iterator[str]:
    """Start Debian's registry with its storage in a folder; yield its host and port."""
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
    """Return why this machine cannot run a registry; None if it can."""
    return None if shutil.which("docker-registry") else NO_REGISTRY


if __name__ == "__main__":
    with running_cloud(with_registry=why_no_registry() is None) as started:
        sys.stdout.writelines(f"export {name}={value}\n" for name, value in started.variables.items())
        sys.stdout.flush()
        sys.stdin.read()
