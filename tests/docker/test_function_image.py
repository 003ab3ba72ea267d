"""The image that `faceq image build` builds: what it contains, what it leaves out, and how few rights it needs."""

import json
import socket
import struct
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import requests

from adapters.models.catalogue import DLIB, STAND_IN
from adapters.models.checksums import sha256_of
from adapters.models.fetch import package_files
from adapters.models.published import RIE
from adapters.settings import Paths
from deploy.function_image import PROMISED_BYTES, revision
from local.free_ports import free_ports
from tests.functional.targets import ROOT, docker

#: A build without a cache downloads and installs every package.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

CLOSED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "1234")
#: A program that lists what an image contains.
LOOK = """
import json, shutil, sys
from pathlib import Path
packages = Path("/opt/faceq/venv/lib/python3.11/site-packages")
print(json.dumps({
    "packages": sorted(path.name for path in packages.iterdir()),
    "programs": [name for name in ("cc", "gcc", "g++", "clang", "ld", "make") if shutil.which(name)],
    "caches": [str(path) for folder in ("/root/.cache", "/var/lib/apt/lists", "/tmp", "/cache", "/build", "/wheel")
               for path in Path(folder).glob("**/*") if path.is_file()],
    "manifest": json.loads(Path(f"/opt/faceq/models/{Path('/opt/faceq/models/id').read_text().strip()}/manifest.json")
                           .read_text()),
}))
"""
#: A program that imports what both functions import and prints the modules that have no compiled form.
COMPILED = """
import importlib, json, os, sys
for name in ("awslambdaric.bootstrap", "local.runtimes.rie_client", "adapters.lambda_entry.face_detection",
             "adapters.lambda_entry.face_recognition"):
    importlib.import_module(name)
print(json.dumps(sorted(name for name, module in sys.modules.items()
                        if (cached := getattr(module, "__cached__", None)) and not os.path.exists(cached))))
"""


@dataclass(frozen=True)
class Built:
    """The images of one build, and the description that `faceq image build --json` printed of the first."""

    tag: str
    description: dict[str, Any]

    def run(self, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a container to its end."""
        command = ["docker", "run", "--rm", *options, self.tag, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    def python(self, program: str, *options: str) -> Any:
        """Run a program in a container; return the JSON that it prints."""
        options = ("--entrypoint", "python", *options)
        done = self.run("-c", program, options=options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    @contextmanager
    def serving(self, handler: str) -> Iterator[tuple[str, str]]:
        """Start a function's container with the fewest rights; yield the emulator's URL and the container's name."""
        (port,) = free_ports(1)
        name = f"faceq-test-{uuid.uuid4().hex[:8]}"
        docker("run", "--detach", "--name", name, *CLOSED, "--publish", f"127.0.0.1:{port}:8080", self.tag, handler)
        try:
            deadline = time.monotonic() + 30
            while docker("inspect", "--format", "{{.State.Running}}", name).strip() == "true" and not _listens(port):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}/2015-03-31/functions/function/invocations", name
        finally:
            docker("rm", "--force", name)


def _listens(port: int) -> bool:
    """Return whether the emulator itself answers: Docker's proxy accepts connections before the emulator does."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return bool(connection.recv(1))
    except OSError:
        return False


def faceq(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "image", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=850, check=False)


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    """The image with the stand-in model, which is as large as vggface2."""
    tag = f"faceq-test-{uuid.uuid4().hex[:8]}"
    done = faceq("build", "--model", STAND_IN, "--tag", tag, "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    yield Built(tag, json.loads(done.stdout))
    docker("image", "rm", tag, f"{tag}-gateway")


@pytest.fixture(scope="module")
def inside(built: Built) -> dict[str, Any]:
    return dict(built.python(LOOK, "--user", "0"))


def test_it_is_small_and_lambda_would_accept_it(built: Built) -> None:
    assert built.description["bytes"] <= 450_000_000 < PROMISED_BYTES
    assert built.description["warnings"] == []


def test_the_contents_of_each_layer_are_described(built: Built) -> None:
    layers = [layer["holds"] for layer in built.description["layers"]]
    assert layers == [
        "base system", "the Runtime Interface Emulator", "packages", "networks", "Python's own library, compiled",
        "code",
    ]  # fmt: skip
    size = json.loads(docker("image", "inspect", built.tag))[0]["Size"]
    # Where containerd keeps the images, this is the size of the compressed layers.
    assert sum(layer["bytes"] for layer in built.description["layers"]) == built.description["bytes"] >= size


def test_its_labels_describe_its_contents(built: Built, inside: dict[str, Any]) -> None:
    manifest = inside["manifest"]
    assert manifest["id"] == STAND_IN
    assert built.description["labels"] == {
        "org.opencontainers.image.title": "faceq",
        "org.opencontainers.image.version": version("faceq"),
        "org.opencontainers.image.revision": built.description["labels"]["org.opencontainers.image.revision"],
        "faceq.engine": "onnx",
        "faceq.model": manifest["id"],
        "faceq.model.sha256": manifest["sha256"],
        "faceq.preprocessing": manifest["preprocessing"],
    }
    commit = revision(ROOT).removesuffix("-dirty")
    assert built.description["labels"]["org.opencontainers.image.revision"].removesuffix("-dirty") == commit


def test_the_gateway_has_the_same_networks(built: Built) -> None:
    gateway = json.loads(faceq("inspect", built.description["gateway"], "--json").stdout)
    assert gateway["labels"] == built.description["labels"]
    assert gateway["layers"][:6] == built.description["layers"]
    assert [layer["holds"] for layer in gateway["layers"][6:]] == ["the gateway's packages", "the gateway's code"]


def test_it_runs_as_an_unprivileged_user(built: Built) -> None:
    assert built.description["user"] == "65532:65532"


def test_it_contains_no_torch_no_compiler_and_no_cache(inside: dict[str, Any]) -> None:
    unwanted = ("torch", "cv2", "onnx-", "pip", "moto", "typer", "dlib", "transformers")
    assert [name for name in inside["packages"] if name.startswith(unwanted)] == []
    assert inside["programs"] == []
    assert inside["caches"] == []


def test_nothing_is_compiled_at_a_cold_start(built: Built) -> None:
    """On a read-only root Python would compile it again at each start. This also imports everything that is left."""
    queue = "http://queues.invalid/1/q"
    options = (
        "--env", "FACEQ_MODEL=stand-in", "--env", f"REQUEST_QUEUE_URL={queue}", "--env", f"RESPONSE_QUEUE_URL={queue}",
    )  # fmt: skip
    assert built.python(COMPILED, *CLOSED, *options) == []


def test_it_is_one_plain_manifest(built: Built, tmp_path: Path) -> None:
    docker("save", "--output", str(tmp_path / "image.tar"), built.tag)
    with tarfile.open(tmp_path / "image.tar") as archive:
        assert len(json.load(archive.extractfile("manifest.json") or pytest.fail("no manifest"))) == 1
        if "index.json" in archive.getnames():  # from Docker 25 on
            index = json.load(archive.extractfile("index.json") or pytest.fail("no index"))
            assert [m["mediaType"].rpartition(".")[0] for m in index["manifests"]] != []
            assert all("image.index" not in m["mediaType"] for m in index["manifests"])
            assert len(index["manifests"]) == 1


@pytest.mark.parametrize(
    ("function", "event", "answer"),
    [
        ("face_detection", {"requestContext": {"http": {"method": "POST"}}, "body": "{}"}, '"statusCode": 400'),
        ("face_recognition", {"Records": []}, '"batchItemFailures": []'),
    ],
)
def test_it_answers_on_a_read_only_root_without_capabilities_as_any_user(
    built: Built, function: str, event: dict[str, Any], answer: str
) -> None:
    with built.serving(f"adapters.lambda_entry.{function}.handler") as (address, name):
        assert answer in requests.post(address, json=event, timeout=30).text
        log = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=True)
    assert "telemetry" not in log.stdout + log.stderr


@pytest.mark.parametrize("command", [(), ("no.such.handler",)])
def test_a_wrong_handler_gives_a_message_of_one_line(built: Built, command: tuple[str, ...]) -> None:
    done = built.run(*command)
    assert done.returncode == 2
    assert done.stderr.startswith("faceq: the container's command must be a function's handler: adapters.lambda_entry.")
    assert done.stderr.count("\n") == 1


def test_the_emulator_is_the_pinned_one(built: Built) -> None:
    cache = Paths.from_environment({}).models
    pinned = {sha256_of(path) for path in package_files(RIE, cache)}
    inside = built.run("/usr/local/bin/aws-lambda-rie", options=("--entrypoint", "sha256sum")).stdout.split()[0]
    assert inside in pinned


def test_there_is_an_emulator_for_both_processors() -> None:
    """ELF's field e_machine (System V ABI): 62 is x86-64, 183 is AArch64. One of the two programs cannot run here."""
    files = {path.name: path for path in package_files(RIE, Paths.from_environment({}).models)}
    for name, machine in (("aws-lambda-rie-x86_64", 62), ("aws-lambda-rie-arm64", 183)):
        head = files[name].read_bytes()[:20]
        assert head[:4] == b"\x7fELF"
        assert struct.unpack("<H", head[18:20]) == (machine,)


def test_for_a_model_that_cannot_be_downloaded_the_message_names_the_file_and_its_folder() -> None:
    done = faceq("build", "--model", "vggface2", "--tag", f"faceq-test-{uuid.uuid4().hex[:8]}")
    if done.returncode == 0:
        pytest.skip("vggface2 can be reached, or is in models/")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("faceq: The build failed: ")
    assert "20180402-114759-vggface2.pt (111,898,327 bytes) into models/ beside the Dockerfile" in last


def test_an_unknown_model_is_named_in_the_message() -> None:
    done = faceq("build", "--model", "vggface3", "--tag", f"faceq-test-{uuid.uuid4().hex[:8]}")
    assert done.returncode == 1
    assert "The build failed: There is no model 'vggface3'. Take one of " in done.stderr.splitlines()[-1]


def test_torch_without_its_wheels_is_refused_before_a_large_download() -> None:
    if list((ROOT / "wheels").glob("torch-*.whl")):
        pytest.skip("wheels/ holds torch")
    done = faceq("build", "--engine", "torch", "--model", DLIB, "--tag", f"faceq-test-{uuid.uuid4().hex[:8]}")
    assert done.returncode == 1
    assert "put them into wheels/ beside the Dockerfile" in done.stderr.splitlines()[-1]


def test_a_processor_that_lambda_does_not_support_is_refused() -> None:
    command = [
        "docker", "buildx", "build", "--progress=plain", "--target", "emulator", "--output", "type=cacheonly",
        "--build-arg", "TARGETARCH=riscv64", str(ROOT),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert "Lambda does not support riscv64: build for linux/amd64 or linux/arm64" in done.stderr
    assert faceq("build", "--platform", "linux/riscv64").returncode == 2
