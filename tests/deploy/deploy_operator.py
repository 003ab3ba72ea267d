"""The user of `faceq deploy` in the tests: runs commands in processes of their own, and looks at the account."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from adapters.artifacts_directory import DirectoryStore
from pipeline import gallery_storage
from pipeline.gallery import Gallery, Photo
from tests.aws_server import ACCOUNT, REGION
from tests.deploy.cloud import ROOT, Cloud

BUCKET = f"faceq-{ACCOUNT}-{REGION}"


@dataclass(frozen=True)
class Result:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def error_line(self) -> str:
        """The one line that faceq prints about the failure; it must be the last."""
        lines = self.err.splitlines()
        (line,) = [line for line in lines if line.startswith("faceq: ")]
        assert line == lines[-1]
        return line


@dataclass(frozen=True)
class Operator:
    """A user with an AWS account, whose Docker engine has the tiny images."""

    cloud: Cloud
    environ: Mapping[str, str]

    def start(self, command: str, **variables: str | None) -> "subprocess.Popen[str]":
        """Start `faceq deploy ...`. A variable whose value is None is removed from the environment."""
        environ = {name: value for name, value in {**self.environ, **variables}.items() if value is not None}
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *command.split()[1:]],
            cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, process: "subprocess.Popen[str]") -> Result:
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err
        return Result(process.returncode, out, err)

    def run(self, command: str, code: int = 0, **variables: str | None) -> Result:
        result = self.finish(self.start(command, **variables))
        assert result.code == code, result.out + result.err
        return result

    def refused(self, command: str, failure: Callable[[], object] | None = None, **variables: str | None) -> str:
        """Run a command that must fail without changing anything, after `failure` was called; return its error line."""
        before = account(self.cloud)
        if failure is not None:
            failure()
        result = self.run(command, 1, **variables)
        self.cloud.repair()
        assert account(self.cloud) == before
        return result.error_line


@cache
def client(cloud: Cloud, service: str) -> Any:
    """Return a boto3 client, cached because creating one takes longer than its calls."""
    return cloud.client(service)


def account(cloud: Cloud) -> dict[str, Any]:
    """Return all that the account contains."""
    stacks = client(cloud, "cloudformation").describe_stacks()["Stacks"]
    return {
        "stacks": [(one["StackName"], one["StackStatus"], one.get("Parameters")) for one in stacks],
        "functions": [
            (one["FunctionName"], one["LastModified"]) for one in client(cloud, "lambda").list_functions()["Functions"]
        ],
        "buckets": [one["Name"] for one in client(cloud, "s3").list_buckets()["Buckets"]],
        "repositories": {
            one["repositoryName"]: client(cloud, "ecr").list_images(repositoryName=one["repositoryName"])["imageIds"]
            for one in client(cloud, "ecr").describe_repositories()["repositories"]
        },
    }


def enrol(folder: Path, *names: str, model: str = "dlib") -> None:
    """Write a gallery of exactly these people into a folder."""
    photos = tuple(Photo(name, f"{name}.png", hashlib.sha256(name.encode()).hexdigest()) for name in names)
    vectors = np.zeros((len(names), 128), np.float32)
    gallery_storage.save(DirectoryStore(folder), Gallery(model, "dlib-150", 0.6, photos, vectors))


def status(cloud: Cloud, stack: str = "faceq") -> str | None:
    stacks = client(cloud, "cloudformation").describe_stacks()["Stacks"]
    return next((str(one["StackStatus"]) for one in stacks if one["StackName"] == stack), None)


def runs(cloud: Cloud) -> tuple[str, int]:
    """Return the image and the memory of the function version behind face-detection's alias."""
    found = client(cloud, "lambda").get_function(FunctionName="face-detection", Qualifier="live")
    return str(found["Code"]["ImageUri"]), int(found["Configuration"]["MemorySize"])


def outcomes(cloud: Cloud) -> list[tuple[str, str]]:
    """Return the outcome of each release, and the reason if it failed."""
    s3 = client(cloud, "s3")
    keys = sorted(one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET, Prefix="releases/")["Contents"])
    releases = [json.load(s3.get_object(Bucket=BUCKET, Key=key)["Body"]) for key in keys]
    return [(one["outcome"], one["reason"]) for one in releases]
