"""Inspecting an image from Docker's output: `image.json` is the output of Docker 20.10 for an image of this project."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.function_image import Recipe, build, failure_reason, read, revision
from pipeline.errors import SetupError

RECORDED = json.loads(Path(__file__).with_name("image.json").read_text())
ENGINE_PLATFORM = "linux/amd64"


@pytest.fixture
def output() -> Any:
    """Docker's recorded output, which a test may change."""
    return copy.deepcopy(RECORDED)


def test_the_output_of_docker_describes_the_image(output: Any) -> None:
    found = read(output["inspect"], output["history"], ENGINE_PLATFORM)
    assert (found.platform, found.user, found.warnings) == (ENGINE_PLATFORM, "65532:65532", [])
    assert found.bytes == output["inspect"]["Size"]
    assert found.labels["faceq.model"] == "stand-in"
    assert [layer.holds for layer in found.layers] == [
        "base system", "the Runtime Interface Emulator", "packages", "networks", "Python's own library, compiled",
        "code",
    ]  # fmt: skip


def test_the_layers_of_the_base_system_are_added_up(output: Any) -> None:
    """Python's public image has several of them."""
    output["history"][-1:] = [
        {"CreatedBy": "RUN /bin/sh -c apt-get install # buildkit", "Size": "50"},
        {"CreatedBy": "# debian.sh --arch 'amd64' out/ 'bookworm'", "Size": "70"},
    ]
    assert read(output["inspect"], output["history"], ENGINE_PLATFORM).layers[0].bytes == 120


def test_adjacent_layers_of_the_same_contents_are_added_up(output: Any) -> None:
    """The gateway's code is copied by two instructions."""
    copies = [{"CreatedBy": f"COPY {folder} {folder} # buildkit", "Size": "30"} for folder in ("local", "client")]
    layers = read(output["inspect"], [*copies, *output["history"]], ENGINE_PLATFORM).layers
    assert [(layer.holds, layer.bytes) for layer in layers[-2:]] == [
        ("code", layers[-2].bytes),
        ("the gateway's code", 60),
    ]


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"Config": {"User": ""}}, "It runs as root."),
        ({"Config": {"User": "0:0"}}, "It runs as root."),
        ({"Config": {"User": "root"}}, "It runs as root."),
        ({"Architecture": "arm64"}, "It is for linux/arm64 but this engine runs linux/amd64: "),
        ({"Architecture": "riscv64"}, "Lambda does not run linux/riscv64."),
        ({"Descriptor": {"mediaType": "application/vnd.oci.image.index.v1+json"}}, "It is an index of manifests"),
        (
            {"Descriptor": {"mediaType": "application/vnd.docker.distribution.manifest.list.v2+json"}},
            "It is an index of manifests",
        ),
    ],
)
def test_an_image_that_lambda_would_refuse_has_a_warning(output: Any, change: dict[str, Any], warning: str) -> None:
    (found,) = read(output["inspect"] | change, output["history"], ENGINE_PLATFORM).warnings
    assert found.startswith(warning)


def test_the_manifest_of_a_single_image_gives_no_warning(output: Any) -> None:
    plain = {"Descriptor": {"mediaType": "application/vnd.oci.image.manifest.v1+json"}}
    assert read(output["inspect"] | plain, output["history"], ENGINE_PLATFORM).warnings == []


@pytest.mark.parametrize(
    ("size", "warning"),
    [(551_000_000, "more than 550 makes cold starts long"), (11 * 2**30, "It has 11.0 GiB; Lambda takes at most 10.")],
)
def test_a_large_image_has_a_warning(output: Any, size: int, warning: str) -> None:
    history = [{"CreatedBy": "COPY /var/task /var/task # buildkit", "Size": str(size)}]
    (found,) = read(output["inspect"], history, ENGINE_PLATFORM).warnings
    assert warning in found


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            [
                "#20 1.406 faceq: There is no model 'x'. Take one of vggface2, dlib.",
                "#20 ERROR: executor failed running [/bin/sh -c if ! python ...; fi]: exit code: 1",
                "1.406 faceq: There is no model 'x'. Take one of vggface2, dlib.",
                "ERROR: failed to build: failed to solve: executor failed running [/bin/sh -c ...]: exit code: 1",
            ],
            "There is no model 'x'. Take one of vggface2, dlib.",
        ),
        (
            ["#9 ERROR: x", "ERROR: failed to solve: executor failed running [/bin/sh -c touch; pip]: exit code: 2"],
            "failed to solve: a command: exit code: 2",
        ),
        (
            ['ERROR: failed to solve: process "/bin/sh -c pip" did not complete successfully: exit code: 2'],
            "failed to solve: a command did not complete successfully: exit code: 2",
        ),
        (
            ["ERROR: failed to solve: python:3.11-slim-bookworm: no such host"],
            "failed to solve: python:3.11-slim-bookworm: no such host",
        ),
        (
            ["#5 0.1 exec /bin/sh: exec format error", "ERROR: failed to solve: y"],
            "This Docker engine cannot run programs for",
        ),
        ([], ""),
    ],
)
def test_the_reason_of_a_failed_build_is_found_in_dockers_output(lines: list[str], reason: str) -> None:
    assert failure_reason(lines).startswith(reason)


@pytest.mark.parametrize(
    ("tag", "gateway"),
    [
        ("faceq-function", "faceq-gateway"),
        ("mine:1.2", "mine-gateway:1.2"),
        ("localhost:5000/faceq-function", "localhost:5000/faceq-gateway"),
        ("localhost:5000/team/faceq-function:1", "localhost:5000/team/faceq-gateway:1"),
    ],
)
def test_the_gateways_tag_follows_the_functions(tag: str, gateway: str) -> None:
    assert Recipe(tag).gateway_tag == gateway


def test_the_revision_shows_whether_the_work_tree_has_changes(tmp_path: Path) -> None:
    assert revision(tmp_path) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.com"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *arguments], check=True)
    clean = revision(tmp_path)
    assert len(clean) == 40
    (tmp_path / "new").touch()
    assert revision(tmp_path) == f"{clean}-dirty"


def test_the_error_for_a_missing_buildx_plugin_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        """#!/bin/sh
case "$*" in
    version*) echo '{"Version": "27.1", "Arch": "amd64"}' ;;
    compose*) echo v2.40.3 ;;
    *) exit 1 ;;
esac
"""
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SetupError, match="docker-buildx") as caught:
        build(Recipe("x"), print)
    assert "\n" not in caught.value.message
