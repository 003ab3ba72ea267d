"""What faceq refuses to deploy before it calls AWS."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.function_image import LAMBDA_BYTES, Image
from deploy.function_image import read as image_of
from deploy.preflight import image_refusals, template_refusals
from template.reader import read_service
from template.resources import Template

TEMPLATE = (Path(__file__).parents[3] / "deploy" / "template.yaml").read_text()
RECORDED = json.loads(Path(__file__).with_name("image.json").read_text())


@pytest.fixture
def image() -> Image:
    """An image that can be deployed."""
    inspected = image_of(RECORDED["inspect"], RECORDED["history"], "linux/amd64")
    return replace(inspected, labels={**inspected.labels, "faceq.model": "dlib"})


def refusals(image: Image, *, stand_in: bool = False, **parameters: str) -> list[str]:
    service = read_service(Template(TEMPLATE, parameters))
    return list(image_refusals(service, image, stand_in=stand_in))


def only(image: Image, *, stand_in: bool = False, **parameters: str) -> str:
    (refusal,) = refusals(image, stand_in=stand_in, **parameters)
    return refusal


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"UrlAuthType": "NONE"},
        {"BatchSize": "100", "BatchingWindow": "5", "RequestVisibilityTimeout": "185"},
        {"RecognitionReserve": "12", "RecognitionProvisioned": "10", "Gallery": "bucket"},
        {"VpcId": "vpc-0a", "SubnetIds": "subnet-0a", "RouteTableIds": "rtb-0a"},
    ],
)
def test_the_shipped_template_and_a_tested_image_are_not_refused(parameters: dict[str, str], image: Image) -> None:
    assert refusals(image, **parameters) == []


def test_what_aws_takes_and_loses_frames_is_refused_and_what_is_only_advised_against_is_not() -> None:
    def refused(**parameters: str) -> list[str]:
        template = Template(TEMPLATE, parameters)
        return template_refusals(template, read_service(template))

    refusals_of_both_queues = refused(RequestVisibilityTimeout="100")
    assert len(refusals_of_both_queues) == 2
    for refusal in refusals_of_both_queues:
        assert refusal.endswith("Set the parameter RequestVisibilityTimeout to 180 or more.")
    assert refused(MaxReceiveCount="4") == []


def test_an_image_that_cannot_run_is_refused(image: Image) -> None:
    assert "10.0 GiB" in only(replace(image, bytes=LAMBDA_BYTES + 1))
    arm = only(replace(image, platform="linux/arm64"))
    assert "linux/arm64 and the functions are x86_64" in arm
    assert "--platform linux/amd64" in arm
    assert only(image, Architecture="arm64").endswith("or set the parameter Architecture.")
    assert refusals(replace(image, platform="linux/arm64"), Architecture="arm64") == []


def test_an_image_that_is_an_index_is_refused() -> None:
    inspected = copy.deepcopy(RECORDED["inspect"])
    inspected["Descriptor"] = {"mediaType": "application/vnd.oci.image.index.v1+json"}
    refusal = only(image_of(inspected, RECORDED["history"], "linux/amd64"), stand_in=True)
    assert "index of manifests" in refusal
    assert "faceq image build" in refusal


@pytest.mark.parametrize("labels", [{}, {"faceq.model": ""}])
def test_an_image_without_a_model_is_refused(image: Image, labels: dict[str, str]) -> None:
    refusal = only(replace(image, labels=labels))
    assert refusal.startswith("Model not found")
    assert refusal.endswith(f"Build it with: faceq image build --tag {image.tags[0]}")


def test_the_stand_in_is_refused_unless_asked_for(image: Image) -> None:
    stand_in = replace(image, labels={"faceq.model": "stand-in"})
    assert "recognises nobody" in only(stand_in)
    assert refusals(stand_in, stand_in=True) == []
