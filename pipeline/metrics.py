"""The metrics of the functions: CloudWatch and its alarms read them on AWS, `faceq status` on a laptop.

The names are part of the contract with operators; docs/operations.md lists them. CloudWatch bills each metric of each
function by the month, so there are twelve. The kinds of answers are four names instead of four values of a dimension:
that costs the same, an alarm names one of them directly, and one line can carry all of them. The only dimension is the
function. A dimension such as the person's name or the request id would make a metric of each value.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

#: Where CloudWatch shows the metrics.
NAMESPACE: Final = "faceq"
#: The two units that we use. (CloudWatch API reference, MetricDatum)
COUNT: Final = "Count"
MILLISECONDS: Final = "Milliseconds"


class Metric(StrEnum):
    """The name of a metric."""

    FRAMES_ACCEPTED = "FramesAccepted"
    FRAMES_REFUSED = "FramesRefused"
    FRAMES_NOT_QUEUED = "FramesNotQueued"
    ANSWERED_NAME = "AnsweredName"
    ANSWERED_UNKNOWN = "AnsweredUnknown"
    ANSWERED_NO_FACE = "AnsweredNoFace"
    ANSWERED_ERROR = "AnsweredError"
    FACES = "Faces"
    BATCHES_CUT_BY_TIME = "BatchesCutByTime"
    COMPUTE_MILLISECONDS = "ComputeMilliseconds"

    @property
    def unit(self) -> str:
        """`COUNT`; or `MILLISECONDS`, whose values are kept one by one."""
        return MILLISECONDS if self is Metric.COMPUTE_MILLISECONDS else COUNT


#: The metrics of each function.
METRICS: Final[Mapping[str, tuple[Metric, ...]]] = {
    "face-detection": (
        Metric.FRAMES_ACCEPTED,
        Metric.FRAMES_REFUSED,
        Metric.FRAMES_NOT_QUEUED,
        Metric.ANSWERED_NO_FACE,
        Metric.FACES,
        Metric.COMPUTE_MILLISECONDS,
    ),
    "face-recognition": (
        Metric.ANSWERED_NAME,
        Metric.ANSWERED_UNKNOWN,
        Metric.ANSWERED_ERROR,
        Metric.FACES,
        Metric.BATCHES_CUT_BY_TIME,
        Metric.COMPUTE_MILLISECONDS,
    ),
}
