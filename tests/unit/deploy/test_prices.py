"""What the plan says a million frames cost; the dollars are worked out by hand with the pages in prices.json."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.prices import GB, MEASURED_MS, Cost, Estimate, Price, estimate, table
from template.model import Function, ServiceTemplate
from template.reader import read_service
from template.resources import Template

PRICES, REGION, _READ = table()
TEXT = (Path(__file__).parents[3] / "deploy" / "template.yaml").read_text()
TEMPLATE = Template(TEXT, {})
SERVICE = read_service(TEMPLATE)
BENCH = Path(__file__).parents[3] / "bench" / "results.md"


def estimated(image_bytes: int = 0, region: str = REGION, text: str = TEXT, **parameters: str) -> Estimate:
    template = Template(text, parameters)
    return estimate(template, read_service(template), image_bytes, region)


def dollars(costs: list[Cost]) -> dict[str, float]:
    return {cost.what: round(cost.dollars, 2) for cost in costs}


def test_a_million_frames_through_the_shipped_template() -> None:
    """Each row by hand.

    1,000,000 calls of each function at $0.20 a million: 0.40. 77 and 102 ms with 1769/1024 GB at $0.0000166667 a
    GB-second: 2.22 and 2.94. Send, receive and delete at $0.40 a million, on two queues: 1.20 each. 2,200 bytes of logs
    a frame are 2.049 GB at $0.50: 1.02. Twelve metrics at $0.30: 3.60.
    """
    found = estimated()
    assert dollars(found.frames) == {
        "Lambda requests": 0.40,
        "Lambda time, face-detection": 2.22,
        "Lambda time, face-recognition": 2.94,
        "SQS, request queue": 1.20,
        "SQS, response queue": 1.20,
        "CloudWatch Logs": 1.02,
        "CloudWatch metrics": 3.60,
    }
    assert round(found.frames_dollars, 2) == 12.58


def test_a_month_without_frames_costs_the_polling_of_the_queues() -> None:
    """Five polls of 20 s for 730 hours are 657,000 requests at $0.40 a million, of each of two queues."""
    found = estimated()
    assert dollars(found.standing) == {
        "SQS, polling of the idle request queue": 0.26,
        "SQS, polling of the idle queue ExhaustedQueue": 0.26,
    }
    assert round(found.standing_dollars, 2) == 0.53


def test_the_queue_of_frames_that_failed_is_not_counted_for_each_frame() -> None:
    assert not any("ExhaustedQueue" in cost.what for cost in estimated().frames)
    assert any("frames that fail" in note for note in estimated().notes if note.startswith("Not counted"))


def test_a_month_with_everything_that_the_template_can_be_asked_for() -> None:
    """Each row by hand, for 730 hours or 2,628,000 s.

    Two environments with 1 GB at $0.0000033334 a GB-second: 17.52. Half a GB of image at $0.10: 0.05. 87,600 looks at
    the gallery at $0.0004 a thousand: 0.04. Two endpoints at $0.01 an hour: 14.60. Four alarms at $0.10, and a
    dashboard at $3.00.
    """
    found = estimated(
        image_bytes=GB // 2,
        Architecture="arm64",
        DetectionMemory="1024",
        DetectionProvisioned="2",
        Gallery="bucket",
        AlarmTopicArn="arn:aws:sns:eu-west-1:000000000000:alarms",
        Dashboard="true",
        VpcId="vpc-0a",
        SubnetIds="subnet-0a,subnet-0b",
        RouteTableIds="rtb-0a",
    )
    assert dollars(found.standing) == {
        "SQS, polling of the idle request queue": 0.26,
        "SQS, polling of the idle queue ExhaustedQueue": 0.26,
        "Lambda, provisioned concurrency of face-detection": 17.52,
        "ECR, the image": 0.05,
        "S3, looking for a new gallery": 0.04,
        "VPC, interface endpoints": 14.60,
        "CloudWatch alarms": 0.40,
        "CloudWatch dashboards": 3.00,
    }


def test_a_provisioned_function_pays_the_lower_price_for_its_time() -> None:
    """133,021 GB-seconds at $0.0000097222 instead of $0.0000166667; the other function pays what it paid."""
    plain, kept = dollars(estimated().frames), dollars(estimated(DetectionProvisioned="1").frames)
    assert kept.pop("Lambda time, face-detection") == 1.29
    assert plain.pop("Lambda time, face-detection") == 2.22
    assert kept == plain


def test_a_duration_is_said_to_be_assumed() -> None:
    (cost,) = [cost for cost in estimated().frames if cost.what == "Lambda time, face-detection"]
    assert "bench/results.md" in cost.assumed
    assert "not on Lambda" in cost.assumed


def test_less_memory_than_a_cpu_takes_does_not_make_the_assumed_time_cheaper() -> None:
    """Lambda gives CPU in proportion to memory, so half of both is the same bill."""
    small, whole = dollars(estimated(DetectionMemory="512").frames), dollars(estimated().frames)
    assert small == whole


def test_a_third_function_is_counted_and_what_is_not_known_of_it_is_said() -> None:
    liveness = """
  Liveness:
    Type: AWS::Lambda::Function
    Properties: {FunctionName: face-liveness, PackageType: Image, ImageConfig: {Command: [a.b]}}
  LivenessQueue: {Type: AWS::SQS::Queue, Properties: {QueueName: liveness}}
  LivenessMapping:
    Type: AWS::Lambda::EventSourceMapping
    Properties: {EventSourceArn: !GetAtt LivenessQueue.Arn, FunctionName: !Ref Liveness}

Outputs:
"""
    found = estimated(text=TEXT.replace("\nOutputs:\n", liveness))
    rows = dollars([*found.frames, *found.standing])
    assert rows["Lambda requests"] == 0.60
    assert rows["SQS, queue LivenessQueue"] == 1.20
    assert rows["SQS, polling of the idle queue LivenessQueue"] == 0.26
    assert any("Not counted: the time of face-liveness" in note for note in found.notes)


def test_the_assumed_durations_are_near_the_measured_ones() -> None:
    """Benchmarks are run again now and then; the assumption must not drift away from them."""
    section = BENCH.read_text().partition("## Where a frame's time goes, dlib on onnx")[2].partition("\n## ")[0]
    steps = {name: float(value) for name, value in re.findall(r"^\| ([^|]+) \| ([\d.]+) \|", section, re.MULTILINE)}
    detection = steps["send to the request queue"] + sum(v for k, v in steps.items() if k.startswith("detector"))
    recognition = steps["send to the response queue"] + sum(v for k, v in steps.items() if k.startswith("recogniser"))
    assert pytest.approx(detection, rel=0.3) == MEASURED_MS["face-detection"]
    assert pytest.approx(recognition, rel=0.3) == MEASURED_MS["face-recognition"]


def test_the_notes_mention_other_regions_and_the_free_tier() -> None:
    here, there = estimated().notes, estimated(region="eu-central-1").notes
    assert not any("differ" in note for note in here)
    assert any("eu-central-1" in note for note in there)
    assert any("free tier is not subtracted" in note for note in here)


@pytest.mark.parametrize(("name", "price"), PRICES.items())
def test_each_price_names_its_page(name: str, price: Price) -> None:
    assert price.dollars > 0
    assert price.per > 0
    assert "https://aws.amazon.com/" in price.source


def test_prices_that_were_not_read_on_the_page_are_said_to_be_so() -> None:
    count = sum(not price.verified for price in PRICES.values())
    assert any(note.startswith(f"{count} of {len(PRICES)} prices") for note in estimated().notes)


def with_functions(memory_mb: int, provisioned: int, architecture: str) -> ServiceTemplate:
    def changed(function: Function) -> Function:
        return replace(function, memory_mb=memory_mb, provisioned_concurrency=provisioned, architecture=architecture)

    return replace(SERVICE, functions={name: changed(function) for name, function in SERVICE.functions.items()})


memories, provisioned_counts = st.integers(128, 10_240), st.integers(0, 100)
architectures, images = st.sampled_from(["x86_64", "arm64"]), st.integers(0, 10 * GB)


@given(memories, provisioned_counts, architectures, images)
def test_no_row_is_negative_and_the_totals_are_the_sums(
    memory_mb: int, provisioned: int, architecture: str, image_bytes: int
) -> None:
    found = estimate(TEMPLATE, with_functions(memory_mb, provisioned, architecture), image_bytes, REGION)
    assert all(cost.dollars >= 0 for cost in [*found.frames, *found.standing])
    assert found.frames_dollars == pytest.approx(sum(cost.dollars for cost in found.frames))
    assert found.standing_dollars == pytest.approx(sum(cost.dollars for cost in found.standing))
    assert found.standing_dollars > 0


@given(memories, provisioned_counts, architectures, images)
def test_more_never_costs_less(memory_mb: int, provisioned: int, architecture: str, image_bytes: int) -> None:
    before = estimate(TEMPLATE, with_functions(memory_mb, provisioned, architecture), image_bytes, REGION)
    more_memory = estimate(TEMPLATE, with_functions(memory_mb + 1, provisioned, architecture), image_bytes, REGION)
    more_kept = estimate(TEMPLATE, with_functions(memory_mb, provisioned + 1, architecture), image_bytes, REGION)
    more_image = estimate(TEMPLATE, with_functions(memory_mb, provisioned, architecture), image_bytes + GB, REGION)
    assert more_memory.frames_dollars >= before.frames_dollars * (1 - 1e-9)
    for after in (more_memory, more_kept, more_image):
        assert after.standing_dollars >= before.standing_dollars * (1 - 1e-9)


@given(memories, provisioned_counts, images)
def test_arm_is_not_dearer(memory_mb: int, provisioned: int, image_bytes: int) -> None:
    x86, arm = (
        estimate(TEMPLATE, with_functions(memory_mb, provisioned, name), image_bytes, REGION)
        for name in ("x86_64", "arm64")
    )
    assert arm.frames_dollars <= x86.frames_dollars
    assert arm.standing_dollars <= x86.standing_dollars
