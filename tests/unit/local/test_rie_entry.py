"""A function's container gives the emulator the variables that Lambda would set, or reports why it cannot start."""

import subprocess
import sys
from pathlib import Path

import pytest

from local.addresses import read_local_template
from local.runtimes.rie_entry import lambda_variables, main
from template.lambda_facts import RESERVED_VARIABLES

ROOT = Path(__file__).parents[3]
HANDLER = "adapters.lambda_entry.face_detection.handler"


def test_a_function_gets_its_own_variables_and_those_of_lambda() -> None:
    function = read_local_template({"DetectionTimeout": "7"}, "eu-west-1", "http://elasticmq:9324").functions[
        "face-detection"
    ]
    variables = lambda_variables(function, "eu-west-1")
    assert variables["REQUEST_QUEUE_URL"] == "http://elasticmq:9324/000000000000/faceq-req-queue"
    assert variables["AWS_LAMBDA_FUNCTION_NAME"] == "face-detection"
    assert variables["AWS_LAMBDA_FUNCTION_TIMEOUT"] == "17", "RIE's timeout includes the 10 s of an init"
    assert variables["AWS_REGION"] == variables["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert variables["LAMBDA_TASK_ROOT"] == str(ROOT)
    not_reserved = {"AWS_LAMBDA_FUNCTION_TIMEOUT", "TZ"}
    assert variables.keys() - function.environment.keys() - not_reserved <= RESERVED_VARIABLES


@pytest.mark.parametrize(
    ("arguments", "parameters", "code", "message"),
    [
        (["nothing.handler"], "", 2, "adapters.lambda_entry.face_detection.handler or "),
        ([], "", 2, "the container's command must be a function's handler"),
        (["x"], "DetectionTimeout=0", 1, "deploy/template.yaml"),
        (["x"], "DetectionTimeout", 1, "write Name=Value"),
        ([HANDLER], "", 1, "cannot run"),
    ],
)
def test_a_container_that_cannot_start_reports_why_in_one_line(
    arguments: list[str],
    parameters: str,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert main(arguments, {"FACEQ_PARAMETERS": parameters}, rie=str(tmp_path / "missing")) == code
    output = capsys.readouterr().err
    assert output.count("\n") == 1, output
    assert message in output


def test_the_module_runs_as_a_program() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "local.runtimes.rie_entry", "nothing.handler"],
        env={}, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (process.returncode, process.stderr.count("\n")) == (2, 1), process.stderr
