"""The sums of the metrics in the logs of a stack on this machine; a Python program takes Docker's place."""

import io
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.metrics_emf import EmfMetrics
from client.stack_metrics import metric_sums, sums
from client.stack_state import CONTAINERS, write_record
from pipeline.errors import BadInput
from pipeline.metrics import METRICS, Metric
from pipeline.ports import MetricsRecorder
from tests.builders import stack_record

Record = Callable[[MetricsRecorder], object]


def line(function: str, record: Record) -> str:
    stream = io.StringIO()
    metrics = EmfMetrics(function, stream)
    record(metrics)
    metrics.flush()
    return stream.getvalue()


def accepted(faces: int) -> str:
    def record(metrics: MetricsRecorder) -> None:
        metrics.count(Metric.FRAMES_ACCEPTED)
        metrics.count(Metric.FACES, faces)
        metrics.milliseconds(Metric.COMPUTE_MILLISECONDS, 1.5)
        metrics.milliseconds(Metric.COMPUTE_MILLISECONDS, 2)

    return line("face-detection", record)


def test_the_lines_of_each_function_are_summed() -> None:
    named = line("face-recognition", lambda metrics: metrics.count(Metric.ANSWERED_NAME, 3))
    found = sums([accepted(1), "START", named, "2026-11-26T09:41:07.123Z face-detection/1 id " + accepted(2)])
    assert found.keys() == METRICS.keys()
    assert found["face-detection"] == {
        "FramesAccepted": 2, "FramesRefused": 0, "FramesNotQueued": 0, "AnsweredNoFace": 0, "Faces": 3,
        "ComputeMilliseconds": 7,
    }  # fmt: skip
    assert found["face-recognition"]["AnsweredName"] == 3
    assert all(isinstance(found["face-detection"][name], int) for name in ("FramesAccepted", "FramesRefused"))


def test_a_function_of_another_template_is_summed_too() -> None:
    assert sums([line("a-third", lambda metrics: metrics.count(Metric.FACES))])["a-third"] == {"Faces": 1}


def test_metrics_of_others_and_lines_that_quote_a_metric_do_not_count() -> None:
    quoted = '{"message":"detected","file":"{\\"_aws\\":{\\"x\\":1}}"}'
    other = accepted(1).replace('"Namespace":"faceq"', '"Namespace":"other"')
    cut = accepted(1)[:100]
    assert sums([quoted, other, cut]) == sums([])


def test_a_stack_of_processes_is_summed_since_its_start(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    stack = stack_record(logs=str(logs))
    (logs / "face-detection.log.1").write_text(accepted(1))
    os.utime(logs / "face-detection.log.1", (1, 1))  # of the run before
    (logs / "face-recognition.log.1").write_text(line("face-recognition", lambda m: m.count(Metric.FACES, 5)))
    (logs / "face-recognition.log").write_text(line("face-recognition", lambda m: m.count(Metric.FACES, 7)))
    (logs / "face-detection.log").write_text(f"2026-11-26T09:41:07.123Z face-detection/1 id {accepted(2)}")
    write_record(stack, tmp_path)
    os.utime(tmp_path / "stack.json", (2, 2))  # face-recognition has filled a file since then
    found = metric_sums(stack, tmp_path)
    assert found["face-detection"]["Faces"] == 2
    assert found["face-recognition"]["Faces"] == 12


def test_a_stack_of_containers_is_summed_from_dockers_logs(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text(f"face-detection-1  | {accepted(4)}gateway-1  | ready\n")
    program = f"import sys; assert 'all' in sys.argv; print(open({str(tmp_path / 'lines')!r}).read())"
    stack = stack_record(runtime=CONTAINERS, logs=shlex.join([sys.executable, "-c", program]))
    assert metric_sums(stack, tmp_path)["face-detection"]["Faces"] == 4


def test_without_docker_the_sums_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no command `docker`"):
        metric_sums(stack_record(runtime=CONTAINERS, logs="no-such-program logs"), tmp_path)
