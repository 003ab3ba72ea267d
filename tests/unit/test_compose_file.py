"""docker-compose.yml agrees with deploy/template.yaml and repeats none of its numbers."""

import re
from pathlib import Path
from typing import Any

import yaml

from local.addresses import read_local_template

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
TEMPLATE = read_local_template({}, "us-east-1", "http://elasticmq:9324")


def test_each_function_has_a_service_with_its_name_and_its_handler() -> None:
    functions = {name: service["command"] for name, service in SERVICES.items() if name not in {"elasticmq", "gateway"}}
    assert functions == {function.name: [function.handler] for function in TEMPLATE.functions.values()}


def test_both_functions_run_one_image_and_differ_only_in_the_command() -> None:
    detection, recognition = ({**SERVICES[name], "command": None} for name in ("face-detection", "face-recognition"))
    assert detection == recognition


def test_nothing_that_the_template_defines_is_repeated() -> None:
    text = re.sub("#.*", "", (ROOT / "docker-compose.yml").read_text())
    assert not re.search(r"mem_limit|cpus|memory|AWS_LAMBDA|QUEUE_URL", text)
    for queue in TEMPLATE.queues:
        assert queue not in text


def test_every_service_has_as_few_rights_as_possible() -> None:
    """Read-only root, no capabilities, no new privileges, ports for this machine only, a read-only gallery."""
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "outside" not in service["networks"] or service["ports"], name
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert all(volume.endswith(":ro") for volume in SERVICES["face-detection"]["volumes"])


def test_the_example_lists_exactly_the_variables_that_can_be_set() -> None:
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text())) - {"COMPOSE_PROJECT_NAME"}
    shown = set(re.findall(r"^#(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert shown == used - {"FACEQ_IMAGE", "FACEQ_GATEWAY_IMAGE"}


def test_builds_are_plain_manifests() -> None:
    """Lambda accepts neither an image index nor attestations."""
    for name in ("face-detection", "face-recognition", "gateway"):
        assert SERVICES[name]["build"]["provenance"] is False
        assert SERVICES[name]["build"]["sbom"] is False
