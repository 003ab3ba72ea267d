"""What a million frames cost on AWS, from the dated table `prices.json`, and what a month without frames costs.

An estimate: each row says what was counted and what was assumed. You can check it by hand with the table.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final

from adapters.current_gallery import S3_CHECK_SECONDS
from adapters.settings import FACEQ_GALLERY
from pipeline.metrics import METRICS
from template.lambda_facts import MB_PER_PROCESSOR
from template.model import Function, Queue, ServiceTemplate
from template.resources import Template
from template.values import as_list

FRAMES: Final = 1_000_000
#: AWS bills storage, endpoints and the like by months of 730 hours. (AWS Pricing Calculator)
MONTH_HOURS: Final = 730
MONTH_SECONDS: Final = MONTH_HOURS * 3600
#: Storage and logs are counted in GB of this many bytes, as S3 does. (Amazon S3 FAQs, "How will I be charged")
GB: Final = 2**30
#: Each 64 KB of a request's payload is a request. (Amazon SQS pricing)
SQS_CHUNK: Final = 64 * 2**10
#: Lambda starts with five batches at a time. (Lambda developer guide, "Configuring scaling behavior for SQS event
#: source mappings") We assume that it keeps as many polls open on an idle queue, each as long as SQS allows.
POLLERS: Final = 5
POLL_SECONDS: Final = 20
#: Milliseconds of one frame of 640x480 with one face in each function, with one whole processor: receiving, parsing,
#: computing and sending. A function that is not listed is left out of the estimate, which says so.
#: (bench/results.md, "Where a frame's time goes, dlib on onnx")
MEASURED_MS: Final[Mapping[str, float]] = {"face-detection": 77.0, "face-recognition": 102.0}
_ASSUMED: Final = "as measured locally, not on Lambda (bench/results.md: 640x480, 1 face, dlib on onnx, means)"
#: Bytes of a message on the request queue: about 20 kB a face.
MESSAGE_BYTES: Final = 20_000
#: Bytes that one function logs of a frame, including Lambda's own START, END and REPORT lines and the line with
#: metrics. (Measured: 1,020 and 1,120.)
LOG_BYTES: Final = 1_100


@dataclass(frozen=True)
class Price:
    """One row of the table: dollars for `per` units, and the page that says so."""

    dollars: float
    per: int
    unit: str
    source: str
    verified: bool


@dataclass(frozen=True)
class Cost:
    """One row of an estimate: a quantity in the price's unit, and what was assumed."""

    what: str
    quantity: float
    price: Price
    assumed: str = ""

    @property
    def dollars(self) -> float:
        """What the quantity costs."""
        return self.quantity * self.price.dollars / self.price.per


@dataclass(frozen=True)
class Estimate:
    """What the service costs.

    Parameters
    ----------
    frames : list of Cost
        The parts of what a million frames cost.
    standing : list of Cost
        The parts of what a month costs in which nothing is posted.
    notes : list of str
        Sentences that apply to all rows.

    """

    frames: list[Cost]
    standing: list[Cost]
    notes: list[str]

    @property
    def frames_dollars(self) -> float:
        """What a million frames cost."""
        return sum(cost.dollars for cost in self.frames)

    @property
    def standing_dollars(self) -> float:
        """What a month without frames costs."""
        return sum(cost.dollars for cost in self.standing)


def table() -> tuple[Mapping[str, Price], str, str]:
    """Return the prices by name, their region, and the month in which they were read."""
    content: dict[str, Any] = json.loads(Path(__file__).with_name("prices.json").read_text())
    prices = {
        name: Price(row["price"], row["per"], row["unit"], row["source"], row["verified"])
        for name, row in content["prices"].items()
    }
    return prices, content["region"], content["read"]


def estimate(template: Template, service: ServiceTemplate, image_bytes: int, region: str) -> Estimate:
    """Return what a million frames cost, and a month without any.

    Every frame is taken to have a face, and to reach each function in a call of its own.

    Parameters
    ----------
    template : Template
    service : ServiceTemplate
        What `read_service` returned for the template.
    image_bytes : int
        Size of the image. ECR counts compressed layers, so an uncompressed size is an upper bound.
    region : str
        Where it will run. A note says so if the table's prices are those of another one.

    """
    prices, price_region, read = table()
    return Estimate(
        frames=[*_computing(service, prices), *_queues(service, prices), _logs(service, prices), _metrics(prices)],
        standing=list(_standing(template, service, image_bytes, prices)),
        notes=list(_notes(service, prices, price_region, read, region)),
    )


def milliseconds(function: Function) -> float:
    """Return how long a frame takes in a measured function.

    Lambda gives a share of a processor in proportion to the memory. With less than one, a frame takes longer; more than
    one is not assumed to help.
    """
    return MEASURED_MS[function.name] * max(1.0, MB_PER_PROCESSOR / function.memory_mb)


def _computing(service: ServiceTemplate, prices: Mapping[str, Price]) -> Iterable[Cost]:
    yield Cost(
        "Lambda requests",
        FRAMES * len(service.functions),
        prices["lambda_request"],
        f"one call a frame of each function: {', '.join(service.functions)}",
    )
    for function in service.functions.values():
        if function.name not in MEASURED_MS:
            continue
        kind = "provisioned_duration" if function.provisioned_concurrency else "lambda"
        yield Cost(
            f"Lambda time, {function.name}",
            FRAMES * milliseconds(function) / 1000 * function.memory_mb / 1024,
            prices[f"{kind}_{function.architecture}"],
            f"{milliseconds(function):.0f} ms a frame with {function.memory_mb} MB, {_ASSUMED}"
            + ("; all in provisioned environments" if function.provisioned_concurrency else ""),
        )


def _queues(service: ServiceTemplate, prices: Mapping[str, Price]) -> Iterable[Cost]:
    redrive_targets = {queue.redrive.dead_letter_queue for queue in service.queues.values() if queue.redrive}
    for queue in _sources(service):
        if queue.name in redrive_targets:  # only frames that failed on every attempt
            continue
        yield Cost(
            f"SQS, {_label(service, queue)}",
            FRAMES * (2 * ceil(MESSAGE_BYTES / SQS_CHUNK) + 1),
            prices["sqs_request"],
            f"send, receive and delete of {MESSAGE_BYTES / 1000:.0f} kB, each 64 KB a request, one message at a time",
        )
    yield Cost(
        "SQS, response queue",
        FRAMES * 3,
        prices["sqs_request"],
        "send, receive and delete, one answer at a time; a client's receives that find nothing are not counted",
    )


def _logs(service: ServiceTemplate, prices: Mapping[str, Price]) -> Cost:
    log_bytes = LOG_BYTES * len(service.functions)
    return Cost(
        "CloudWatch Logs",
        FRAMES * log_bytes / GB,
        prices["logs_ingestion"],
        f"{log_bytes} bytes a frame of all functions; keeping them is not counted",
    )


def _metrics(prices: Mapping[str, Price]) -> Cost:
    return Cost(
        "CloudWatch metrics",
        sum(map(len, METRICS.values())),
        prices["custom_metric"],
        "at most: if the frames spread over a month, and each metric gets a value in every hour of it",
    )


def _standing(
    template: Template, service: ServiceTemplate, image_bytes: int, prices: Mapping[str, Price]
) -> Iterable[Cost]:
    for queue in _sources(service):
        yield Cost(
            f"SQS, polling of the idle {_label(service, queue)}",
            POLLERS * MONTH_SECONDS / POLL_SECONDS,
            prices["sqs_request"],
            f"assumed: Lambda keeps {POLLERS} polls open and each waits {POLL_SECONDS} s",
        )
    for function in service.functions.values():
        if function.provisioned_concurrency:
            yield Cost(
                f"Lambda, provisioned concurrency of {function.name}",
                function.provisioned_concurrency * MONTH_SECONDS * function.memory_mb / 1024,
                prices[f"provisioned_{function.architecture}"],
                f"{function.provisioned_concurrency} with {function.memory_mb} MB, the whole month",
            )
    if image_bytes:
        yield Cost(
            "ECR, the image",
            image_bytes / GB,
            prices["ecr_storage"],
            "one image, as if it did not compress; each earlier one that is kept adds the layers that differ",
        )
    if any(FACEQ_GALLERY in function.environment for function in service.functions.values()):
        yield Cost(
            "S3, looking for a new gallery",
            MONTH_SECONDS / S3_CHECK_SECONDS,
            prices["s3_read"],
            f"one recogniser that is never idle asks every {S3_CHECK_SECONDS:g} s",
        )
    endpoints = [
        endpoint
        for endpoint in template.of("AWS::EC2::VPCEndpoint").values()
        if endpoint.property("VpcEndpointType") == "Interface"
    ]
    if zones := sum(len(as_list(endpoint.property("SubnetIds"))) for endpoint in endpoints):
        yield Cost(
            "VPC, interface endpoints",
            zones * MONTH_HOURS,
            prices["endpoint_hour"],
            f"{zones} subnets, each in a zone of its own; what goes through is not counted",
        )
    if alarms := template.of("AWS::CloudWatch::Alarm"):
        yield Cost("CloudWatch alarms", len(alarms), prices["alarm"])
    if dashboards := template.of("AWS::CloudWatch::Dashboard"):
        yield Cost("CloudWatch dashboards", len(dashboards), prices["dashboard"])


def _sources(service: ServiceTemplate) -> list[Queue]:
    """Return the queues that call functions."""
    names = dict.fromkeys(mapping.queue for mapping in service.event_source_mappings if mapping.enabled)
    return [service.queues[name] for name in names]


def _label(service: ServiceTemplate, queue: Queue) -> str:
    return "request queue" if queue == service.request_queue else f"queue {queue.logical_id}"


def _notes(
    service: ServiceTemplate, prices: Mapping[str, Price], price_region: str, read: str, region: str
) -> Iterable[str]:
    yield (
        f"Prices of {price_region} in US dollars without tax, read {read}; deploy/prices.json names the page of each."
    )
    if region != price_region:
        yield f"Prices in {region} differ from those of {price_region}, which are used here."
    unverified = [name for name, price in prices.items() if not price.verified]
    if unverified:
        yield (
            f"{len(unverified)} of {len(prices)} prices could not be read on AWS's own page, which fills them in by a "
            f"script: compare before relying on them."
        )
    for name in service.functions:
        if name not in MEASURED_MS:
            yield f"Not counted: the time of {name}, which has not been measured (MEASURED_MS in deploy/prices.py)."
    yield "The free tier is not subtracted."
    yield (
        "Not counted: data transfer, data through VPC endpoints, cold starts, retries, frames that fail, requests to "
        "KMS, storing the gallery, and keeping logs."
    )
