"""What a function's container sets before it becomes the emulator."""

import subprocess
import sys
from pathlib import Path

import pytest

from local.addresses import read_local_template
from local.runtimes.rie_entry import variables
from template.lambda_facts import RESERVED_VARIABLES

ROOT = Path(__file__).parents[3]


def test_a_function_gets_its_own_variables_and_lambdas() -> None:
    template = read_local_template({"DetectionTimeout": "7"}, "eu-west-1", "http://elasticmq:9324")
    given = variables(template.functions["face-detection"], "eu-west-1")
    assert given["REQUEST_QUEUE_URL"] == "http://elasticmq:9324/000000000000/faceq-req-queue"
    assert given["AWS_LAMBDA_FUNCTION_NAME"] == "face-detection"
    assert given["AWS_LAMBDA_FUNCTION_TIMEOUT"] == "17", "RIE counts the 10 s of an init too"
    assert given["AWS_REGION"] == given["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert given["LAMBDA_TASK_ROOT"] == str(ROOT)
    own = template.functions["face-detection"].environment.keys()
    ours = {"AWS_LAMBDA_FUNCTION_TIMEOUT", "TZ"}
    assert given.keys() - own - ours <= RESERVED_VARIABLES


@pytest.mark.parametrize(
    ("arguments", "parameters", "code", "said"),
    [
        (["nothing.handler"], "", 2, "adapters.lambda_entry.face_detection.handler or "),
        ([], "", 2, "the container's command must be a function's handler"),
        (["x"], "DetectionTimeout=0", 1, "deploy/template.yaml"),
        (["x"], "DetectionTimeout", 1, "write Name=Value"),
        (["adapters.lambda_entry.face_detection.handler"], "", 1, "cannot run"),
    ],
)
def test_what_cannot_be_run_is_one_line(arguments: list[str], parameters: str, code: int, said: str) -> None:
    """The last one: beside the image there is no emulator."""
    done = subprocess.run(
        [sys.executable, "-m", "local.runtimes.rie_entry", *arguments],
        env={"FACEQ_PARAMETERS": parameters}, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert said in done.stderr
