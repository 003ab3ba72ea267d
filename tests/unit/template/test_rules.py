"""AWS's rules about what goes together: who refuses what, and what puts it right."""

import json
from pathlib import Path

import pytest

from template.reader import read_service
from template.resources import SECTIONS, Template
from template.rules import INLINE_BYTES, MOST, Finding, Severity, findings

TEMPLATE = (Path(__file__).parents[3] / "deploy" / "template.yaml").read_text()


def changed(before: str = "", after: str = "", **parameters: str) -> Template:
    assert before in TEMPLATE
    return Template(TEMPLATE.replace(before, after) if before else TEMPLATE, parameters)


def added(resources: str, **parameters: str) -> Template:
    return changed("\nOutputs:\n", f"{resources}\nOutputs:\n", **parameters)


def found(template: Template) -> list[Finding]:
    return findings(template, read_service(template))


def refused(template: Template) -> list[Finding]:
    """What `faceq deploy` refuses."""
    return [finding for finding in found(template) if finding.severity is not Severity.ADVISED]


def only(template: Template) -> Finding:
    (finding,) = refused(template)
    return finding


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"UrlAuthType": "NONE"},
        {"BatchSize": "100", "BatchingWindow": "5", "RequestVisibilityTimeout": "185"},
        {"RecognitionReserve": "12", "RecognitionProvisioned": "10", "Gallery": "bucket"},
        {"VpcId": "vpc-0a", "SubnetIds": "subnet-0a", "RouteTableIds": "rtb-0a"},
    ],
)
def test_the_shipped_template_breaks_no_rule(parameters: dict[str, str]) -> None:
    assert found(changed(**parameters)) == []


#: Where the policy lets the recogniser send.
ANSWERS_TO = """Resource:
                  - !GetAtt ResponseQueue.Arn
                  - !GetAtt DeadLetterQueue.Arn"""
LOOP = """
  Loop:
    Type: AWS::Lambda::EventSourceMapping
    Properties: {{EventSourceArn: {queue}, FunctionName: {function}}}
"""


@pytest.mark.parametrize(
    ("queue", "function", "words"),
    [
        (
            "!GetAtt ResponseQueue.Arn",
            "!Ref FaceRecognition",
            "ResponseQueue calls face-recognition, which may send to ResponseQueue",
        ),
        (
            "!GetAtt DeadLetterQueue.Arn",
            "!Ref FaceRecognition",
            "DeadLetterQueue calls face-recognition, which may send to DeadLetterQueue",
        ),
        (
            "!GetAtt RequestQueue.Arn",
            "!Ref FaceDetectionAlias",
            "RequestQueue calls face-detection, which may send to RequestQueue",
        ),
        (
            "!GetAtt ResponseQueue.Arn",
            "!Sub '${FaceDetection.Arn}:live'",
            "ResponseQueue calls face-detection, which may send to ResponseQueue",
        ),
        (
            "'arn:aws:sqs:eu-west-1:000000000000:faceq-resp-queue'",
            "face-recognition",
            "ResponseQueue calls face-recognition, which may send to ResponseQueue",
        ),
    ],
)
def test_a_queue_that_calls_a_function_which_sends_to_it_is_refused(queue: str, function: str, words: str) -> None:
    template = added(LOOP.format(queue=queue, function=function), RequestVisibilityTimeout="300")
    (refusal,) = [one for one in refused(template) if "without end" in one.reason]
    assert words in refusal.reason
    assert "Take the event source mapping Loop out" in refusal.remedy


def test_a_loop_over_two_functions_is_refused() -> None:
    """The response queue calls the detector, which may send to the request queue only."""
    text = TEMPLATE.replace("                  - !GetAtt ResponseQueue.Arn\n", "", 1).replace(
        "\nOutputs:\n", LOOP.format(queue="!GetAtt ResponseQueue.Arn", function="!Ref FaceDetection") + "\nOutputs:\n"
    )
    (refusal,) = [one for one in refused(Template(text, {})) if "without end" in one.reason]
    assert (
        "RequestQueue calls face-recognition, which may send to ResponseQueue, which calls face-detection, which may "
        "send to RequestQueue" in refusal.reason
    )
    assert "RequestQueueMapping or Loop" in refusal.remedy


def test_a_loop_by_a_wildcard_permission_is_refused() -> None:
    template = changed(ANSWERS_TO, "Resource: '*'")
    assert any("RequestQueue calls face-recognition" in one.reason for one in refused(template))


def test_a_queue_that_calls_a_function_which_does_not_send_to_it_is_not_refused() -> None:
    loop = LOOP.format(queue="!GetAtt ExhaustedQueue.Arn", function="!Ref FaceRecognition")
    assert not any("without end" in one.reason for one in refused(added(loop)))


def test_a_mapping_that_does_not_run_makes_no_loop() -> None:
    loop = LOOP.format(queue="!GetAtt ResponseQueue.Arn", function="!Ref FaceRecognition")
    assert refused(added(loop.replace("}\n", ", Enabled: false}\n"))) == []


@pytest.mark.parametrize(
    ("parameters", "reason", "remedy"),
    [
        (
            {"BatchingWindow": "1"},
            "RequestQueue hides a frame for 180 s",
            "the parameter RequestVisibilityTimeout to 181",
        ),
        ({"BatchSize": "11"}, "a batch of 11 needs a batching window", "the parameter BatchingWindow to 1"),
        (
            {"RecognitionReserve": "9"},
            "RequestQueueMapping and ExhaustedQueueMapping may call face-recognition 12 times at once, and 9 are "
            "reserved",
            "the parameter RecognitionReserve to 12 or more, or the parameter RecognitionConcurrency to 7 or less.",
        ),
        ({"RecognitionReserve": "11"}, "12 times at once, and 11 are reserved", "RecognitionConcurrency to 9 or less."),
        ({"RecognitionReserve": "3"}, "12 times at once, and 3 are reserved", "RecognitionReserve to 12 or more."),
        ({"RecognitionReserve": "0"}, "12 times at once, and 0 are reserved", "RecognitionReserve to 12 or more."),
        (
            {"DetectionReserve": "2", "DetectionProvisioned": "3"},
            "3 are kept warm and 2 reserved",
            "the parameter DetectionReserve to 3",
        ),
        ({"VpcId": "vpc-0a", "RouteTableIds": "rtb-0a"}, "need its subnets", "Set SubnetIds."),
        ({"VpcId": "vpc-0a", "SubnetIds": "subnet-0a"}, "route tables", "Set RouteTableIds."),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(parameters: dict[str, str], reason: str, remedy: str) -> None:
    finding = only(changed(**parameters))
    assert reason in finding.reason
    assert remedy in finding.remedy


def test_each_queue_that_hides_its_messages_for_too_short_a_time_is_named() -> None:
    exhausted, requests = sorted(refused(changed(RecognitionTimeout="31")), key=lambda finding: finding.line)
    for finding, queue in ((exhausted, "ExhaustedQueue"), (requests, "RequestQueue")):
        assert finding.reason.startswith(f"{queue} hides a frame for 180 s")
        assert "the parameter RequestVisibilityTimeout to 186" in finding.remedy
        assert "VisibilityTimeout: !Ref RequestVisibilityTimeout" in TEMPLATE.splitlines()[finding.line - 1]
    assert TEMPLATE.splitlines().index("  RequestQueue:") in range(exhausted.line, requests.line)


def test_a_property_that_is_no_parameter_is_named() -> None:
    of_requests = 'mapping")\n      VisibilityTimeout: '
    finding = only(changed(f"{of_requests}!Ref RequestVisibilityTimeout", f"{of_requests}30"))
    assert finding.remedy == "Set VisibilityTimeout of RequestQueue to 180 or more."


def test_a_variable_of_lambda_is_refused() -> None:
    finding = only(changed("          MAX_RECEIVE_COUNT:", "          AWS_REGION: here\n          MAX_RECEIVE_COUNT:"))
    assert "AWS_REGION is set by Lambda" in finding.reason


def test_a_template_that_is_too_long_for_a_call_is_refused() -> None:
    fits, over = (
        Template(TEMPLATE + "#" * (size - len(TEMPLATE.encode())), {}) for size in (INLINE_BYTES, INLINE_BYTES + 1)
    )
    assert refused(fits) == []
    assert "CloudFormation takes 51,200 in a call" in only(over).reason


@pytest.mark.parametrize("section", SECTIONS)
def test_too_many_entries_are_refused(section: str) -> None:
    entries = {f"E{number}": {"Type": "String", "Value": "x"} for number in range(MOST[section] + 1)}
    text = json.dumps({"Resources": {}, section: entries})
    assert f"has {MOST[section] + 1} {section}" in only(Template(text, {})).reason


def severities(**parameters: str) -> set[Severity]:
    return {finding.severity for finding in found(changed(**parameters))}


def test_what_aws_refuses_is_distinguished_from_what_it_accepts() -> None:
    """The laptop stops at the first and advises against the others; `faceq deploy` refuses all but mere advice."""
    assert severities(RequestVisibilityTimeout="29") == {Severity.REFUSED}
    assert severities(RequestVisibilityTimeout="179") == {Severity.HARMFUL}
    assert severities(BatchSize="11") == {Severity.REFUSED}
    assert severities(RecognitionReserve="9") == {Severity.HARMFUL}
    assert severities(DetectionReserve="2", DetectionProvisioned="3") == {Severity.REFUSED}
    assert severities(VpcId="vpc-0a") == {Severity.HARMFUL}
    assert severities(MaxReceiveCount="4") == {Severity.ADVISED}


def test_variables_are_counted_together_with_their_names() -> None:
    def with_variable(size: int) -> Template:
        return changed("          MAX_RECEIVE_COUNT:", f"          X: '{'x' * size}'\n          MAX_RECEIVE_COUNT:")

    environment = read_service(with_variable(0)).functions["face-recognition"].environment
    others = sum(len(name) + len(value) for name, value in environment.items())
    assert refused(with_variable(4096 - others)) == []
    finding = only(with_variable(4097 - others))
    assert (finding.severity, "Lambda takes 4,096" in finding.reason) == (Severity.REFUSED, True)


def test_a_queue_without_a_dead_letter_queue_is_advised_against() -> None:
    start = TEMPLATE.index("      RedrivePolicy:", TEMPLATE.index("  RequestQueue:"))
    policy = TEMPLATE[start : TEMPLATE.index("  ResponseQueue:")]
    (finding,) = found(changed(policy, "\n"))
    assert "RequestQueue has no dead-letter queue" in finding.reason
    assert finding.severity is Severity.ADVISED


def test_a_reserve_without_a_limit_of_the_mapping_is_advised_against() -> None:
    limit = "      ScalingConfig:\n        MaximumConcurrency: !Ref RecognitionConcurrency\n"
    (finding,) = found(changed(limit, "", RecognitionReserve="5"))
    assert "more often at a time than the 5 that are reserved" in finding.reason
    assert finding.severity is Severity.ADVISED


@pytest.mark.parametrize(
    ("parameters", "line_of"),
    [
        ({"BatchingWindow": "1"}, "VisibilityTimeout: !Ref RequestVisibilityTimeout"),
        ({"BatchSize": "11"}, "BatchSize: !Ref BatchSize"),
        ({"RecognitionReserve": "9"}, "MaximumConcurrency: !Ref RecognitionConcurrency"),
        ({"MaxReceiveCount": "4"}, "maxReceiveCount: !Ref MaxReceiveCount"),
    ],
)
def test_a_finding_has_the_line_of_its_property(parameters: dict[str, str], line_of: str) -> None:
    (finding,) = found(changed(**parameters))
    assert line_of in TEMPLATE.splitlines()[finding.line - 1]
