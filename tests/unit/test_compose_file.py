"""docker-compose.yml beside deploy/template.yaml: what both say is the same, and the template alone has numbers."""

import re
from pathlib import Path
from typing import Any

import yaml

from local.addresses import read_local_template

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
TEMPLATE = read_local_template({}, "us-east-1", "http://elasticmq:9324")


def test_there_is_a_service_for_each_function_named_like_it_with_its_handler() -> None:
    functions = {name: service["command"] for name, service in SERVICES.items() if name not in {"elasticmq", "gateway"}}
    assert functions == {function.name: [function.handler] for function in TEMPLATE.functions.values()}


def test_both_functions_are_one_image_and_only_the_command_differs() -> None:
    detection, recognition = ({**SERVICES[name], "command": None} for name in ("face-detection", "face-recognition"))
    assert detection == recognition


def test_nothing_that_the_template_says_is_said_again() -> None:
    text = re.sub("#.*", "", (ROOT / "docker-compose.yml").read_text())
    assert not re.search(r"mem_limit|cpus|memory|AWS_LAMBDA|QUEUE_URL", text)
    for queue in TEMPLATE.queues:
        assert queue not in text


def test_every_service_is_closed() -> None:
    """Read-only, without capabilities or new privileges; ports of this machine only; the gallery read-only."""
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


def test_what_can_be_set_is_in_the_example_and_nothing_else() -> None:
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text())) - {"COMPOSE_PROJECT_NAME"}
    shown = set(re.findall(r"^#(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert shown == used - {"FACEQ_IMAGE", "FACEQ_GATEWAY_IMAGE"}


def test_builds_are_plain_manifests() -> None:
    """Lambda takes no index and no attestation."""
    for name in ("face-detection", "face-recognition", "gateway"):
        assert SERVICES[name]["build"]["provenance"] is False
        assert SERVICES[name]["build"]["sbom"] is False
