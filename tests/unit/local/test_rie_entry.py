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


@pytest.mark.parametrize(
    ("variables", "logged"),
    [({}, "true"), ({"FACEQ_LOG_NAMES": ""}, "true"), ({"FACEQ_LOG_NAMES": "false"}, "false"),
     ({"FACEQ_LOG_NAMES": "", "FACEQ_PARAMETERS": "LogNames=false"}, "false")],
)  # fmt: skip
def test_a_variable_of_the_container_wins_unless_it_is_empty(
    variables: dict[str, str], logged: str, tmp_path: Path
) -> None:
    """docker-compose.yml passes on every variable, also those that the user has not set."""
    rie = tmp_path / "rie"
    rie.write_text('#!/bin/sh\necho "$FACEQ_LOG_NAMES $AWS_REGION"\n')
    rie.chmod(0o755)
    code = (
        "import os, sys; from local.runtimes.rie_entry import main;"
        f"sys.exit(main([{HANDLER!r}], os.environ, rie={str(rie)!r}))"
    )
    environ = {"AWS_REGION": "eu-west-1", **variables}
    process = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert process.stdout == f"{logged} eu-west-1\n"


def test_the_module_runs_as_a_program() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "local.runtimes.rie_entry", "nothing.handler"],
        env={}, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (process.returncode, process.stderr.count("\n")) == (2, 1), process.stderr
