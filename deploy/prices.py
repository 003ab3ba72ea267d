"""What a million frames cost on AWS, from the dated table `prices.json`, and what is paid while nothing happens.

An estimate: each row says what was counted and on which assumption. It can be checked by hand from the table.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final

from adapters.wiring import S3_CHECK_SECONDS
from deploy.resolve import Symbol, Template, as_list, as_map, as_text, as_whole

FRAMES: Final = 1_000_000
#: AWS bills a month's storage and standing things by 730 hours. (AWS Pricing Calculator)
MONTH_SECONDS: Final = 730 * 3600
#: Storage and logs are counted in GB of this many bytes, as S3 does. (Amazon S3 FAQs, "How will I be charged")
GB: Final = 2**30
#: Each 64 KB of a request's payload is a request. (Amazon SQS pricing)
SQS_CHUNK: Final = 64 * 2**10
#: Most messages of one receive or one batch of deletes. (SQS API reference, ReceiveMessage)
SQS_BATCH: Final = 10
#: Lambda starts with five batches at a time (Lambda developer guide, "Configuring scaling behavior for SQS event source
#: mappings"). That it keeps as many polls open on an idle queue, and that each waits the longest there is, is assumed.
POLLERS: Final = 5
POLL_SECONDS: Final = 20
#: Where Lambda gives one whole CPU, which is what the measurements below had.
#: (Lambda developer guide, "Configure Lambda function memory")
WHOLE_CPU_MB: Final = 1769
#: Milliseconds of one frame of 640x480 with one face in each function: handing over, parsing, computing and sending.
#: (bench/results.md, "Where a frame's time goes, dlib on onnx")
MEASURED_DETECTION_MS: Final = 77.0
MEASURED_RECOGNITION_MS: Final = 102.0
_ASSUMED: Final = "as measured locally, not on Lambda (bench/results.md: 640x480, 1 face, dlib on onnx, means)"


@dataclass(frozen=True)
class Configuration:
    """What decides the cost.

    Parameters
    ----------
    detection_memory_mb, recognition_memory_mb : int
        128 to 10240.
    architecture : str
        `x86_64` or `arm64`.
    detection_ms : float or None
        Billed milliseconds of a frame in face-detection, from REPORT lines; None for the measured default, which is
        longer in proportion where the memory buys less than one CPU.
    recognition_ms : float or None
        The same of a frame with faces in face-recognition, its share of the batch.
    batch : float
        Frames that one call of face-recognition gets on average, at least 1. Frames that come one by one make 1,
        whatever the template's BatchSize.
    faces_share : float
        Of the frames, how many have faces, 0 to 1; the others never reach face-recognition.
    request_bytes : int
        Of a message on the request queue: about 20 kB a face.
    log_bytes : int
        That both functions write of a frame, Lambda's own START, END and REPORT lines included.
    image_bytes, gallery_bytes : int
        Stored. ECR counts compressed layers, so an uncompressed size is an upper bound.
    detection_provisioned, recognition_provisioned : int
        Environments kept ready.
    alarms, dashboards : int
        Of CloudWatch.
    endpoint_zones : int
        Interface endpoints of a VPC, each counted once for each of its subnets.
    gallery_check_seconds : float or None
        How often a warm recogniser asks S3 for a new gallery; None if it never does.

    """

    detection_memory_mb: int = WHOLE_CPU_MB
    recognition_memory_mb: int = WHOLE_CPU_MB
    architecture: str = "x86_64"
    detection_ms: float | None = None
    recognition_ms: float | None = None
    batch: float = 1.0
    faces_share: float = 1.0
    request_bytes: int = 20_000
    log_bytes: int = 1_500
    image_bytes: int = 0
    gallery_bytes: int = 0
    detection_provisioned: int = 0
    recognition_provisioned: int = 0
    alarms: int = 0
    dashboards: int = 0
    endpoint_zones: int = 0
    gallery_check_seconds: float | None = None


@dataclass(frozen=True)
class Price:
    """One row of the table: dollars for `per` units, and where that stands."""

    dollars: float
    per: int
    unit: str
    source: str
    verified: bool


@dataclass(frozen=True)
class Cost:
    """One row of an estimate: `quantity` in the price's unit, what it comes to, and what was assumed."""

    what: str
    quantity: float
    price: Price
    assumed: str = ""

    @property
    def dollars(self) -> float:
        """The quantity at the price."""
        return self.quantity * self.price.dollars / self.price.per


@dataclass(frozen=True)
class Estimate:
    """What it costs.

    Parameters
    ----------
    frames : list of Cost
        Of a million frames.
    standing : list of Cost
        Of a month in which nothing is posted.
    notes : list of str
        What holds of all rows, a sentence each.

    """

    frames: list[Cost]
    standing: list[Cost]
    notes: list[str]

    @property
    def frames_dollars(self) -> float:
        """Of a million frames."""
        return sum(cost.dollars for cost in self.frames)

    @property
    def standing_dollars(self) -> float:
        """Of a month."""
        return sum(cost.dollars for cost in self.standing)


def table() -> tuple[Mapping[str, Price], str, str]:
    """Return the prices by name, the region that they are of, and the month in which they were read."""
    content: dict[str, Any] = json.loads(Path(__file__).with_name("prices.json").read_text())
    prices = {
        name: Price(row["price"], row["per"], row["unit"], row["source"], row["verified"])
        for name, row in content["prices"].items()
    }
    return prices, content["region"], content["read"]


def configuration_of(template: Template, image_bytes: int = 0, gallery_bytes: int = 0) -> Configuration:
    """Return what a template decides of the cost; what its frames are like is left at the defaults.

    Parameters
    ----------
    template : Template
        With the functions `face-detection` and `face-recognition`.
    image_bytes, gallery_bytes : int
        What will be stored.

    """
    functions = {
        as_text(function.properties.get("FunctionName")): (logical_id, function.properties)
        for logical_id, function in template.of("AWS::Lambda::Function").items()
    }
    (detection, of_detection), (recognition, of_recognition) = (
        functions["face-detection"],
        functions["face-recognition"],
    )
    warm: dict[str, int] = {}
    for alias in template.of("AWS::Lambda::Alias", "AWS::Lambda::Version").values():
        kept = as_map(alias.properties.get("ProvisionedConcurrencyConfig")).get("ProvisionedConcurrentExecutions")
        if isinstance(target := alias.properties.get("FunctionName"), Symbol):
            warm[target.logical_id] = warm.get(target.logical_id, 0) + as_whole(kept, 0)
    has_gallery = "FACEQ_GALLERY" in as_map(as_map(of_recognition.get("Environment")).get("Variables"))
    return Configuration(
        detection_memory_mb=as_whole(of_detection.get("MemorySize"), 128),
        recognition_memory_mb=as_whole(of_recognition.get("MemorySize"), 128),
        architecture=next((as_text(one) for one in as_list(of_detection.get("Architectures"))), "x86_64"),
        image_bytes=image_bytes,
        gallery_bytes=gallery_bytes,
        detection_provisioned=warm.get(detection, 0),
        recognition_provisioned=warm.get(recognition, 0),
        alarms=len(template.of("AWS::CloudWatch::Alarm")),
        dashboards=len(template.of("AWS::CloudWatch::Dashboard")),
        endpoint_zones=sum(
            len(as_list(endpoint.properties.get("SubnetIds")))
            for endpoint in template.of("AWS::EC2::VPCEndpoint").values()
            if endpoint.properties.get("VpcEndpointType") == "Interface"
        ),
        gallery_check_seconds=S3_CHECK_SECONDS if has_gallery else None,
    )


def estimate(configuration: Configuration, region: str = "") -> Estimate:
    """Return what a million frames cost, and a month without any.

    Parameters
    ----------
    configuration : Configuration
    region : str
        Where it will run; said to be elsewhere if the table's is another one.

    """
    prices, of_region, read = table()
    return Estimate(
        frames=[*_computing(configuration, prices), *_queues(configuration, prices), _logs(configuration, prices)],
        standing=list(_standing(configuration, prices)),
        notes=list(_notes(prices, of_region, read, region)),
    )


def _computing(configuration: Configuration, prices: Mapping[str, Price]) -> Iterable[Cost]:
    with_faces = FRAMES * configuration.faces_share
    calls = with_faces / configuration.batch
    yield Cost(
        "Lambda requests",
        FRAMES + calls,
        prices["lambda_request"],
        f"face-detection: one a frame; face-recognition: frames with faces ({configuration.faces_share:.0%}), "
        f"{configuration.batch:g} in a call",
    )
    for name, frames, memory, given, measured, provisioned in (
        (
            "face-detection", FRAMES, configuration.detection_memory_mb, configuration.detection_ms,
            MEASURED_DETECTION_MS, configuration.detection_provisioned,
        ),
        (
            "face-recognition", with_faces, configuration.recognition_memory_mb, configuration.recognition_ms,
            MEASURED_RECOGNITION_MS, configuration.recognition_provisioned,
        ),
    ):  # fmt: skip
        milliseconds = measured * max(1.0, WHOLE_CPU_MB / memory) if given is None else given
        source = _ASSUMED if given is None else "as its REPORT lines say"
        kind = "provisioned_duration" if provisioned else "lambda"
        yield Cost(
            f"Lambda time, {name}",
            frames * milliseconds / 1000 * memory / 1024,
            prices[f"{kind}_{configuration.architecture}"],
            f"{milliseconds:.0f} ms a frame with {memory} MB, {source}"
            + ("; all in provisioned environments" if provisioned else ""),
        )


def _queues(configuration: Configuration, prices: Mapping[str, Price]) -> Iterable[Cost]:
    with_faces = FRAMES * configuration.faces_share
    received = min(configuration.batch, SQS_BATCH)
    send = ceil(configuration.request_bytes / SQS_CHUNK)
    receive = ceil(received * configuration.request_bytes / SQS_CHUNK) / received
    yield Cost(
        "SQS, request queue",
        with_faces * (send + receive + 1 / received),
        prices["sqs_request"],
        f"send, receive and delete of {configuration.request_bytes / 1000:.0f} kB, each 64 KB a request; received and "
        f"deleted {received:g} at a time",
    )
    yield Cost(
        "SQS, response queue",
        FRAMES * 3,
        prices["sqs_request"],
        "send, receive and delete, one answer at a time; a client's receives that find nothing are not counted",
    )


def _logs(configuration: Configuration, prices: Mapping[str, Price]) -> Cost:
    return Cost(
        "CloudWatch Logs",
        FRAMES * configuration.log_bytes / GB,
        prices["logs_ingestion"],
        f"{configuration.log_bytes} bytes a frame of both functions; keeping them is not counted",
    )


def _standing(configuration: Configuration, prices: Mapping[str, Price]) -> Iterable[Cost]:
    yield Cost(
        "SQS, polling of the idle request queue",
        POLLERS * MONTH_SECONDS / POLL_SECONDS,
        prices["sqs_request"],
        f"assumed: Lambda keeps {POLLERS} polls open and each waits {POLL_SECONDS} s",
    )
    for name, environments, memory in (
        ("face-detection", configuration.detection_provisioned, configuration.detection_memory_mb),
        ("face-recognition", configuration.recognition_provisioned, configuration.recognition_memory_mb),
    ):
        if environments:
            yield Cost(
                f"Lambda, provisioned concurrency of {name}",
                environments * MONTH_SECONDS * memory / 1024,
                prices[f"provisioned_{configuration.architecture}"],
                f"{environments} with {memory} MB, the whole month",
            )
    if configuration.image_bytes:
        yield Cost(
            "ECR, the image",
            configuration.image_bytes / GB,
            prices["ecr_storage"],
            "one image, as if it did not compress; each earlier one that is kept adds the layers that differ",
        )
    if configuration.gallery_bytes:
        yield Cost(
            "S3, the gallery",
            configuration.gallery_bytes / GB,
            prices["s3_storage"],
            "one version; each earlier one that is kept adds as much",
        )
    if configuration.gallery_check_seconds:
        yield Cost(
            "S3, looking for a new gallery",
            MONTH_SECONDS / configuration.gallery_check_seconds,
            prices["s3_read"],
            f"one recogniser that is never idle asks every {configuration.gallery_check_seconds:g} s",
        )
    if configuration.endpoint_zones:
        yield Cost(
            "VPC, interface endpoints",
            configuration.endpoint_zones * MONTH_SECONDS / 3600,
            prices["endpoint_hour"],
            f"{configuration.endpoint_zones} subnets, each in a zone of its own; what goes through is not counted",
        )
    if configuration.alarms:
        yield Cost("CloudWatch alarms", configuration.alarms, prices["alarm"])
    if configuration.dashboards:
        yield Cost("CloudWatch dashboards", configuration.dashboards, prices["dashboard"])


def _notes(prices: Mapping[str, Price], of_region: str, read: str, region: str) -> Iterable[str]:
    yield f"Prices of {of_region} in US dollars without tax, read {read}; deploy/prices.json names the page of each."
    if region and region != of_region:
        yield f"Prices in {region} differ from those of {of_region}, which are used here."
    unverified = [name for name, price in prices.items() if not price.verified]
    if unverified:
        yield (
            f"{len(unverified)} of {len(prices)} prices could not be read on AWS's own page, which fills them in by a "
            f"script: compare before relying on them."
        )
    yield "The free tier is not subtracted."
    yield (
        "Not counted: data transfer, data through VPC endpoints, cold starts, retries, requests to KMS, and keeping "
        "logs."
    )
