"""The page for operators lists exactly the metrics that the functions report."""

import re
from pathlib import Path

from pipeline.metrics import METRICS, Metric

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def test_each_metric_has_a_row_with_its_unit_and_its_functions() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w-]+) \| .+ \|$", PAGE, re.MULTILINE)
    assert {name: (unit, functions) for name, unit, functions in rows} == {
        metric.value: (metric.unit, "both" if len(functions) == len(METRICS) else functions[0])
        for metric in Metric
        if (functions := [function for function, metrics in METRICS.items() if metric in metrics])
    }
