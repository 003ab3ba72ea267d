"""What the cost rows come to. Each figure is worked out from the table, so that a new price is typed once."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.wiring import S3_CHECK_SECONDS
from deploy.prices import (
    GB,
    MEASURED_DETECTION_MS,
    MEASURED_RECOGNITION_MS,
    MONTH_SECONDS,
    Configuration,
    Cost,
    Price,
    configuration_of,
    estimate,
    table,
)
from deploy.resolve import read

PRICES, REGION, _READ = table()
TEMPLATE = (Path(__file__).parents[3] / "deploy" / "template.yaml").read_text()
BENCH = Path(__file__).parents[3] / "bench" / "results.md"

configurations = st.builds(
    Configuration,
    detection_memory_mb=st.integers(128, 10_240),
    recognition_memory_mb=st.integers(128, 10_240),
    architecture=st.sampled_from(["x86_64", "arm64"]),
    detection_ms=st.none() | st.floats(1, 10_000),
    recognition_ms=st.none() | st.floats(1, 10_000),
    batch=st.floats(1, 10_000),
    faces_share=st.floats(0, 1),
    request_bytes=st.integers(1, 2**20),
    log_bytes=st.integers(0, 100_000),
    image_bytes=st.integers(0, 10 * GB),
    gallery_bytes=st.integers(0, GB),
    detection_provisioned=st.integers(0, 100),
    recognition_provisioned=st.integers(0, 100),
    alarms=st.integers(0, 20),
    dashboards=st.integers(0, 3),
    endpoint_zones=st.integers(0, 6),
    gallery_check_seconds=st.none() | st.floats(1, 3600),
)


def of(costs: list[Cost], what: str) -> Cost:
    (found,) = [cost for cost in costs if cost.what == what]
    return found


def at(name: str, quantity: float) -> float:
    return quantity * PRICES[name].dollars / PRICES[name].per


def test_a_million_frames_one_by_one() -> None:
    """One gigabyte and a tenth of a second each: 200,000 GB-seconds, 2 million calls, 6 million queue requests."""
    found = estimate(
        Configuration(detection_memory_mb=1024, recognition_memory_mb=1024, detection_ms=100, recognition_ms=100)
    )
    assert of(found.frames, "Lambda requests").quantity == 2_000_000
    assert of(found.frames, "Lambda time, face-detection").quantity == pytest.approx(100_000)
    assert found.frames_dollars == pytest.approx(
        at("lambda_request", 2e6)
        + at("lambda_x86_64", 200_000)
        + at("sqs_request", 6e6)
        + at("logs_ingestion", 1_500e6 / GB)
    )


def test_frames_without_faces_never_reach_the_recogniser() -> None:
    found = estimate(Configuration(faces_share=0))
    assert of(found.frames, "Lambda requests").quantity == 1_000_000
    assert of(found.frames, "Lambda time, face-recognition").dollars == 0
    assert of(found.frames, "SQS, request queue").dollars == 0
    assert of(found.frames, "SQS, response queue").quantity == 3_000_000


def test_a_batch_saves_calls_receives_and_deletes() -> None:
    """Ten messages of 20 kB are four chunks of 64 KB in one receive."""
    found = estimate(Configuration(batch=10, request_bytes=20_000))
    assert of(found.frames, "Lambda requests").quantity == 1_100_000
    assert of(found.frames, "SQS, request queue").quantity == pytest.approx(1e6 * (1 + 4 / 10 + 1 / 10))


def test_a_large_message_is_several_requests() -> None:
    found = estimate(Configuration(request_bytes=64 * 1024 + 1))
    assert of(found.frames, "SQS, request queue").quantity == 1e6 * (2 + 2 + 1)


def test_a_month_without_frames() -> None:
    found = estimate(
        Configuration(
            detection_memory_mb=1024,
            detection_provisioned=2,
            image_bytes=GB // 2,
            gallery_bytes=GB // 4,
            alarms=3,
            dashboards=1,
            endpoint_zones=2,
            gallery_check_seconds=30,
            architecture="arm64",
        )
    )
    assert found.standing_dollars == pytest.approx(
        at("sqs_request", 5 * MONTH_SECONDS / 20)
        + at("provisioned_arm64", 2 * MONTH_SECONDS)
        + at("ecr_storage", 0.5)
        + at("s3_storage", 0.25)
        + at("alarm", 3)
        + at("dashboard", 1)
        + at("endpoint_hour", 2 * 730)
        + at("s3_read", MONTH_SECONDS / 30)
    )


def test_an_idle_stack_without_extras_pays_for_polling_only() -> None:
    assert [cost.what for cost in estimate(Configuration()).standing] == ["SQS, polling of the idle request queue"]


def test_a_provisioned_function_pays_the_lower_price_for_its_time() -> None:
    plain, kept = estimate(Configuration()), estimate(Configuration(recognition_provisioned=1))
    what = "Lambda time, face-recognition"
    assert of(kept.frames, what).dollars < of(plain.frames, what).dollars
    assert of(kept.frames, "Lambda time, face-detection") == of(plain.frames, "Lambda time, face-detection")


def test_the_template_says_what_it_decides() -> None:
    plain = configuration_of(read(TEMPLATE, {}))
    assert plain == Configuration()
    parameters = {
        "DetectionMemory": "1024",
        "RecognitionMemory": "2048",
        "Architecture": "arm64",
        "DetectionProvisioned": "2",
        "RecognitionProvisioned": "3",
        "AlarmTopicArn": "arn:aws:sns:eu-west-1:000000000000:alarms",
        "Dashboard": "true",
        "VpcId": "vpc-0a",
        "SubnetIds": "subnet-0a,subnet-0b",
        "RouteTableIds": "rtb-0a",
        "Gallery": "bucket",
    }
    found = configuration_of(read(TEMPLATE, parameters), image_bytes=7, gallery_bytes=8)
    assert found == Configuration(
        detection_memory_mb=1024,
        recognition_memory_mb=2048,
        architecture="arm64",
        image_bytes=7,
        gallery_bytes=8,
        detection_provisioned=2,
        recognition_provisioned=3,
        alarms=4,
        dashboards=1,
        endpoint_zones=2,
        gallery_check_seconds=S3_CHECK_SECONDS,
    )


def test_where_a_duration_comes_from_is_said() -> None:
    assumed = of(estimate(Configuration()).frames, "Lambda time, face-detection").assumed
    assert "bench/results.md" in assumed
    assert "not on Lambda" in assumed
    given_ = of(estimate(Configuration(detection_ms=80)).frames, "Lambda time, face-detection").assumed
    assert "REPORT" in given_
    assert "bench" not in given_


def test_less_memory_than_a_cpu_takes_does_not_make_the_assumed_time_cheaper() -> None:
    """Lambda gives CPU in proportion to memory, so half of both is the same bill."""
    small, whole = Configuration(detection_memory_mb=512), Configuration()
    what = "Lambda time, face-detection"
    assert of(estimate(small).frames, what).quantity == pytest.approx(of(estimate(whole).frames, what).quantity)


def test_the_assumed_durations_are_near_the_measured_ones() -> None:
    """Benchmarks are run again now and then; the assumption must not drift away from them."""
    section = BENCH.read_text().partition("## Where a frame's time goes, dlib on onnx")[2].partition("\n## ")[0]
    steps = {name: float(value) for name, value in re.findall(r"^\| ([^|]+) \| ([\d.]+) \|", section, re.MULTILINE)}
    detection = steps["send to the request queue"] + sum(v for k, v in steps.items() if k.startswith("detector"))
    recognition = steps["send to the response queue"] + sum(v for k, v in steps.items() if k.startswith("recogniser"))
    assert pytest.approx(detection, rel=0.3) == MEASURED_DETECTION_MS
    assert pytest.approx(recognition, rel=0.3) == MEASURED_RECOGNITION_MS


def test_other_regions_and_the_free_tier_are_spoken_of() -> None:
    here, there = estimate(Configuration(), REGION).notes, estimate(Configuration(), "eu-central-1").notes
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
    assert any(note.startswith(f"{count} of {len(PRICES)} prices") for note in estimate(Configuration()).notes)


@given(configurations)
def test_no_row_is_negative_and_the_totals_are_the_sums(configuration: Configuration) -> None:
    found = estimate(configuration)
    assert all(cost.dollars >= 0 for cost in [*found.frames, *found.standing])
    assert found.frames_dollars == pytest.approx(sum(cost.dollars for cost in found.frames))
    assert found.standing_dollars > 0


@given(
    configurations,
    st.sampled_from(
        [
            ("detection_memory_mb", 1), ("recognition_memory_mb", 1), ("faces_share", 0.1), ("log_bytes", 100),
            ("request_bytes", 70_000), ("image_bytes", GB), ("gallery_bytes", GB), ("alarms", 1), ("dashboards", 1),
            ("endpoint_zones", 1),
        ]
    ),
)  # fmt: skip
def test_more_never_costs_less(configuration: Configuration, more: tuple[str, float]) -> None:
    name, step = more
    larger = replace(configuration, **{name: getattr(configuration, name) + step})
    before, after = estimate(configuration), estimate(larger)
    assert after.frames_dollars >= before.frames_dollars * (1 - 1e-9)
    assert after.standing_dollars >= before.standing_dollars * (1 - 1e-9)


@given(configurations)
def test_arm_is_not_dearer(configuration: Configuration) -> None:
    x86, arm = (estimate(replace(configuration, architecture=name)) for name in ("x86_64", "arm64"))
    assert arm.frames_dollars <= x86.frames_dollars
    assert arm.standing_dollars <= x86.standing_dollars
