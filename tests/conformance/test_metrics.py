"""Every MetricsRecorder keeps the contract of its port."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest

from adapters.metrics_emf import EmfMetrics
from pipeline.metrics import Metric
from pipeline.ports import MetricsRecorder
from tests.fakes import MemoryMetrics

Reports = Sequence[Mapping[str, Sequence[float]]]


@dataclass
class Recorder:
    """A recorder, and what it has reported: the values of each metric, by flush."""

    metrics: MetricsRecorder
    reports: Callable[[], Reports]


@pytest.fixture(params=["memory", "emf"])
def recorder(request: pytest.FixtureRequest) -> Recorder:
    if request.param == "memory":
        memory = MemoryMetrics()
        return Recorder(memory, lambda: memory.flushed)
    stream = io.StringIO()

    def lines() -> Reports:
        documents = [json.loads(line) for line in stream.getvalue().splitlines()]
        return [
            {metric["Name"]: document[metric["Name"]] for metric in document["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
            for document in documents
        ]

    return Recorder(EmfMetrics("a-function", stream), lines)


def test_a_flush_reports_sums_of_counts_and_each_duration(recorder: Recorder) -> None:
    recorder.metrics.count(Metric.FACES, 2)
    recorder.metrics.count(Metric.FRAMES_ACCEPTED)
    recorder.metrics.count(Metric.FACES)
    recorder.metrics.milliseconds(Metric.COMPUTE_MILLISECONDS, 1.5)
    recorder.metrics.milliseconds(Metric.COMPUTE_MILLISECONDS, 0)
    assert recorder.reports() == []
    recorder.metrics.flush()
    assert recorder.reports() == [{"Faces": [3], "FramesAccepted": [1], "ComputeMilliseconds": [1.5, 0]}]


def test_each_flush_reports_what_was_new(recorder: Recorder) -> None:
    recorder.metrics.count(Metric.FACES)
    recorder.metrics.flush()
    recorder.metrics.flush()
    recorder.metrics.count(Metric.FRAMES_REFUSED)
    recorder.metrics.flush()
    assert recorder.reports() == [{"Faces": [1]}, {"FramesRefused": [1]}]


def test_nothing_is_not_reported(recorder: Recorder) -> None:
    recorder.metrics.flush()
    recorder.metrics.count(Metric.FACES, 0)
    recorder.metrics.flush()
    recorder.metrics.count(Metric.FACES, 0)
    recorder.metrics.count(Metric.FRAMES_ACCEPTED)
    recorder.metrics.flush()
    assert recorder.reports() == [{"FramesAccepted": [1]}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1])
def test_a_duration_is_finite_and_not_negative(recorder: Recorder, value: float) -> None:
    with pytest.raises(ValueError, match="ComputeMilliseconds"):
        recorder.metrics.milliseconds(Metric.COMPUTE_MILLISECONDS, value)
    recorder.metrics.flush()
    assert recorder.reports() == []


def test_a_count_is_no_duration_and_is_not_negative(recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="Faces"):
        recorder.metrics.milliseconds(Metric.FACES, 1)
    with pytest.raises(ValueError, match="ComputeMilliseconds"):
        recorder.metrics.count(Metric.COMPUTE_MILLISECONDS)
    with pytest.raises(ValueError, match="Faces"):
        recorder.metrics.count(Metric.FACES, -1)
