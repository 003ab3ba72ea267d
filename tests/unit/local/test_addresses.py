"""A template as this machine plays it: what differs from AWS although the template is the same."""

from pathlib import Path

import pytest

from local.addresses import read_local_template

ENDPOINT = "http://127.0.0.1:9324"


@pytest.mark.parametrize(
    ("parameters", "options", "value"),
    [
        ({}, {}, "true"),
        ({}, {"log_names": False}, "false"),
        ({"LogNames": "false"}, {"log_names": True}, "false"),
        ({"LogNames": "true"}, {"log_names": False}, "true"),
    ],
)
def test_functions_log_names_on_this_machine_unless_a_variable_or_a_parameter_forbids_it(
    parameters: dict[str, str], options: dict[str, bool], value: str
) -> None:
    functions = read_local_template(parameters, "us-east-1", ENDPOINT, **options).functions
    assert {function.environment["FACEQ_LOG_NAMES"] for function in functions.values()} == {value}


def test_a_template_without_the_parameter_is_played_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "template.yaml"
    file.write_text("Resources: {Queue: {Type: AWS::SQS::Queue, Properties: {QueueName: a}}}")
    assert set(read_local_template({}, "us-east-1", ENDPOINT, file).queues) == {"a"}
