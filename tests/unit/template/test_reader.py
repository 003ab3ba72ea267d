"""The template that AWS deploys is the template that is played."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from local.addresses import local_values
from template.model import EventSourceMapping, Permission, Queue, Redrive, ServiceTemplate
from template.reader import read_playable
from template.yaml_nodes import TemplateError

SHIPPED = (Path(__file__).parents[3] / "deploy" / "template.yaml").read_text()


def play(text: str, **parameters: str) -> ServiceTemplate:
    pseudo_parameters = {"AWS::Region": "eu-central-1", "AWS::AccountId": "000000000000", "AWS::StackName": "faceq"}
    created = local_values("eu-central-1", "http://127.0.0.1:9324")
    return read_playable(text, {**pseudo_parameters, **parameters}, created)


def changed(old: str, new: str) -> str:
    assert old in SHIPPED
    return SHIPPED.replace(old, new)


def mapping_of(service: ServiceTemplate, logical_id: str = "RequestQueueMapping") -> EventSourceMapping:
    (mapping,) = [mapping for mapping in service.event_source_mappings if mapping.logical_id == logical_id]
    return mapping


# The shipped template


def test_the_shipped_template_has_the_names_of_the_contract() -> None:
    template = play(SHIPPED)
    assert set(template.functions) == {"face-detection", "face-recognition"}
    assert set(template.queues) == {"faceq-req-queue", "faceq-resp-queue", "faceq-req-exhausted", "faceq-req-dlq"}
    assert [url.function for url in template.function_urls] == ["face-detection"]
    assert template.functions["face-detection"].environment == {
        "REQUEST_QUEUE_URL": "http://127.0.0.1:9324/000000000000/faceq-req-queue",
        "RESPONSE_QUEUE_URL": "http://127.0.0.1:9324/000000000000/faceq-resp-queue",
        "FACEQ_LOG_NAMES": "false",
    }
    assert template.functions["face-recognition"].environment == {
        "REQUEST_QUEUE_URL": "http://127.0.0.1:9324/000000000000/faceq-req-queue",
        "DEAD_LETTER_QUEUE_URL": "http://127.0.0.1:9324/000000000000/faceq-req-dlq",
        "EXHAUSTED_QUEUE": "faceq-req-exhausted",
        "RESPONSE_QUEUE_URL": "http://127.0.0.1:9324/000000000000/faceq-resp-queue",
        "MAX_RECEIVE_COUNT": "5",
        "FACEQ_LOG_NAMES": "false",
    }


def test_the_shipped_mapping_reports_partial_batches_of_ten_without_waiting() -> None:
    mapping = mapping_of(play(SHIPPED))
    assert mapping == EventSourceMapping(
        logical_id="RequestQueueMapping",
        function="face-recognition",
        queue="faceq-req-queue",
        queue_url="http://127.0.0.1:9324/000000000000/faceq-req-queue",
        queue_arn="arn:aws:sqs:eu-central-1:000000000000:faceq-req-queue",
        region="eu-central-1",
        visibility_timeout=180,
        batch_size=10,
        window_seconds=0,
        maximum_concurrency=10,
        report_batch_item_failures=True,
        enabled=True,
    )


def test_the_shipped_template_follows_what_aws_advises() -> None:
    assert play(SHIPPED).advice == []


def test_clients_that_share_the_response_queue_do_not_hide_answers_for_long() -> None:
    assert play(SHIPPED).queues["faceq-resp-queue"].visibility_timeout <= 1


def test_failed_frames_go_by_the_exhausted_queue_to_the_dead_letter_queue() -> None:
    service = play(SHIPPED, MaxReceiveCount="3")
    assert service.queues["faceq-req-queue"].redrive == Redrive("faceq-req-exhausted", 3)
    assert service.queues["faceq-req-exhausted"].redrive == Redrive("faceq-req-dlq", 1000)
    assert service.queues["faceq-req-dlq"].redrive is None
    assert service.dead_letter_queue == service.queues["faceq-req-dlq"]


def test_the_exhausted_queue_calls_the_function_that_answers() -> None:
    mapping = mapping_of(play(SHIPPED), "ExhaustedQueueMapping")
    assert (mapping.queue, mapping.function) == ("faceq-req-exhausted", "face-recognition")
    assert (mapping.report_batch_item_failures, mapping.enabled, mapping.maximum_concurrency) == (True, True, 2)


@pytest.mark.parametrize(
    ("redrives", "end"),
    [
        ({}, None),
        ({"a-req-queue": "b"}, "b"),
        ({"a-req-queue": "b", "b": "c"}, "c"),
        ({"a-req-queue": "elsewhere"}, None),
        ({"a-req-queue": "b", "b": "a-req-queue"}, "a-req-queue"),
    ],
    ids=["none", "one", "chain", "in another template", "circle"],
)
def test_the_dead_letter_queue_is_the_end_of_the_request_queues_chain(
    redrives: dict[str, str], end: str | None
) -> None:
    queues = {
        name: Queue(name, name, 30, 0, 0, Redrive(redrives[name], 5) if name in redrives else None)
        for name in ("a-req-queue", "b", "c")
    }
    found = replace(play(SHIPPED), queues=queues).dead_letter_queue
    assert (found.name if found is not None else None) == end


def test_each_difference_to_aws_is_listed_once() -> None:
    not_played = play(SHIPPED).only_on_aws
    assert len(not_played) == len(set(not_played))
    for word in ("IAM", "CloudWatch", "keep messages", "Encryption", "architecture", "unsigned"):
        assert [sentence for sentence in not_played if word in sentence], word


def test_each_handler_that_the_template_names_is_a_file() -> None:
    for function in play(SHIPPED).functions.values():
        module, name = function.handler.rsplit(".", 1)
        source = Path(__file__).parents[3] / f"{module.replace('.', '/')}.py"
        assert re.search(rf"^(def {name}\(|{name} =)", source.read_text(), re.MULTILINE)


def test_parameters_replace_defaults_everywhere_they_are_used() -> None:
    template = play(SHIPPED, Prefix="cam", RecognitionTimeout="7", RecognitionMemory="512", MaxReceiveCount="2")
    assert set(template.queues) == {"cam-req-queue", "cam-resp-queue", "cam-req-exhausted", "cam-req-dlq"}
    assert template.functions["face-recognition"].timeout_seconds == 7
    assert template.functions["face-recognition"].memory_mb == 512
    assert template.functions["face-recognition"].environment["MAX_RECEIVE_COUNT"] == "2"


def test_a_public_url_adds_permissions_that_are_shown_and_not_checked() -> None:
    assert play(SHIPPED).permissions == ()
    template = play(SHIPPED, UrlAuthType="NONE")
    assert template.function_urls[0].auth_type == "NONE"
    assert template.permissions == (
        Permission(
            "PublicUrlPermission", "face-detection", "lambda:InvokeFunctionUrl", "*", {"FunctionUrlAuthType": "NONE"}
        ),
        Permission(
            "PublicInvokePermission", "face-detection", "lambda:InvokeFunction", "*", {"InvokedViaFunctionUrl": "true"}
        ),
    )
    assert [sentence for sentence in template.only_on_aws if "unsigned" in sentence]


# What is not played and still shown


def test_properties_that_are_not_played_are_kept_for_the_lambda_api() -> None:
    assert play(SHIPPED, ImageUri="repository@sha256:12").functions["face-detection"].unplayed_properties == {
        "Description": "Release local: finds the faces of a posted frame and sends them on.",
        "Code": {"ImageUri": "repository@sha256:12"},
        "Architectures": ["x86_64"],
        "Role": "arn:aws:iam::000000000000:role/faceq-FaceDetectionRole",
        "LoggingConfig": {"LogGroup": "/aws/lambda/face-detection"},
    }


@pytest.mark.parametrize(
    ("old", "new", "unknown"),
    [
        ('Description: !Sub "Release ${Release}: names', 'Description: !Ref ImageUri # "names', "Description"),
        ("Role: !GetAtt FaceRecognitionRole.Arn", "Role: !ImportValue role", "Role"),
        ("LogGroup: !Ref FaceRecognitionLogs", "LogGroup: !GetAtt FaceRecognitionLogs.Arn", "LoggingConfig"),
    ],
)
def test_a_property_that_is_only_known_on_aws_is_none(old: str, new: str, unknown: str) -> None:
    properties = play(changed(old, new)).functions["face-recognition"].unplayed_properties
    assert {name for name, value in properties.items() if value is None} == {
        unknown,
        "Code",
    }  # local runs have no image


def test_no_value_takes_away_a_property_that_is_not_played() -> None:
    functions = play(changed("Architectures: [!Ref Architecture]", "Architectures: !Ref AWS::NoValue")).functions
    assert "Architectures" not in functions["face-recognition"].unplayed_properties


def test_a_role_with_a_name_keeps_it() -> None:
    text = changed(
        "Type: AWS::IAM::Role\n    Properties:\n", "Type: AWS::IAM::Role\n    Properties:\n      RoleName: r\n"
    )
    assert play(text).functions["face-detection"].unplayed_properties["Role"] == "arn:aws:iam::000000000000:role/r"


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"Nothing": "1"}, "has no parameter Nothing"),
        ({"BatchSize": "many"}, "BatchSize is 'many', which is no number"),
        ({"BatchSize": "0"}, "BatchSize is 0, outside 1 to 10000"),
        ({"UrlAuthType": "ALL"}, "UrlAuthType is ALL; allowed are AWS_IAM, NONE"),
        ({"Prefix": "a b"}, "Prefix is 'a b', which does not match"),
        # What AWS refuses on creation
        ({"RequestVisibilityTimeout": "10"}, "Queue visibility timeout: 10 seconds is less than Function timeout: 30"),
        ({"BatchSize": "11"}, "a batch of 11 needs a batching window of at least 1 s"),
        ({"RecognitionConcurrency": "1"}, "outside 2 to 1000"),
    ],
)
def test_a_wrong_parameter_says_what_is_wrong(parameters: Mapping[str, str], problem: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(problem)):
        play(SHIPPED, **parameters)


@pytest.mark.parametrize(
    ("parameters", "advice"),
    [
        ({"RequestVisibilityTimeout": "100"}, "less than 180 s"),
        ({"BatchingWindow": "1"}, "less than 181 s"),
        ({"MaxReceiveCount": "4"}, "maxReceiveCount of 4"),
    ],
)
def test_what_aws_takes_and_advises_against_is_listed(parameters: Mapping[str, str], advice: str) -> None:
    assert [sentence for sentence in play(SHIPPED, **parameters).advice if advice in sentence]


# What cannot be played


@pytest.mark.parametrize(
    ("old", "new", "line_of", "problem"),
    [
        ("Type: AWS::Logs::LogGroup", "Type: AWS::SNS::Topic", "Type: AWS::SNS::Topic", "AWS::SNS::Topic"),
        ("Timeout: !Ref DetectionTimeout", "FileSystemConfigs: []", "FileSystemC", "FileSystemConfigs is not"),
        ("VisibilityTimeout: 1\n", "VisibilityTimeout: 1\n      FifoQueue: true\n", "FifoQueue", "FifoQueue is not"),
        ("VisibilityTimeout: 1\n", "VisibilityTimeout: -1\n", "VisibilityTimeout: -1", "whole number from 0 to 43200"),
        ("VisibilityTimeout: 1\n", "VisibilityTimeout: soon\n", "VisibilityTimeout: soon", "must be a whole number"),
        ("VisibilityTimeout: 1\n", "VisibilityTimeout: 1\n      VisibilityTimeout: 2\n", "Timeout: 2", "twice"),
        ("PackageType: Image", "PackageType: Zip", "PackageType: Zip", "set PackageType: Image"),
        ("BatchSize: !Ref BatchSize", "FilterCriteria: {}", "FilterCriteria", "FilterCriteria is not played"),
        ("BatchSize: !Ref BatchSize", "BatchSize: !Ref Sise", "!Ref Sise", "Sise is no parameter and no resource"),
        ("BatchSize: !Ref BatchSize", "BatchSize: !GetAtt A.B", "!GetAtt A.B", "no attribute A.B"),
        ("BatchSize: !Ref BatchSize", "BatchSize: !Cidr [a]", "!Cidr", "only known on AWS"),
        ("[ReportBatchItemFailures]", "[Report]", "[Report]", "knows ReportBatchItemFailures only"),
        ("AuthType: !Ref UrlAuthType", "AuthType: ANY", "AuthType: ANY", "AuthType is AWS_IAM or NONE, not ANY"),
        ("AuthType: !Ref UrlAuthType", "AuthType: NONE\n      InvokeMode: RESPONSE_STREAM", "STREAM", "not stream"),
        ("MAX_RECEIVE_COUNT: !Ref", "AWS_REGION: !Ref", "AWS_REGION:", "AWS_REGION is set by Lambda"),
        ('QueueName: !Sub "${Prefix}-resp-queue"', 'QueueName: "a b"', '"a b"', "is no queue name"),
        ('QueueName: !Sub "${Prefix}-resp-queue"', "DelaySeconds: 0", "ResponseQueue:", "Name the queue"),
        ("!GetAtt DeadLetterQueue.Arn", "arn:aws:sqs:eu-central-1:1:other", ":other", "queue other is not in"),
        ("FunctionName: !Ref FaceRecognition", "FunctionName: other", "FunctionName: other", "FunctionName is other"),
        ("Command: [adapters.lambda_entry.face_detection.handler]", "EntryPoint: [a]", "EntryPoint", "one word"),
    ],
)  # fmt: skip
def test_what_cannot_be_played_is_an_error_with_its_line(old: str, new: str, line_of: str, problem: str) -> None:
    text = changed(old, new)
    with pytest.raises(TemplateError, match=re.escape(problem)) as error:
        play(text)
    near = "\n".join(text.splitlines()[error.value.line - 2 : error.value.line + 2])
    assert line_of in near
    assert str(error.value).startswith(f"line {error.value.line}: ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a CloudFormation template"),
        ("- a", "not a CloudFormation template"),
        ("a: [", "not YAML"),
        ("Parameters: {}", "not a CloudFormation template"),
        ("Transform: AWS::Serverless-2016-10-31\nResources: {}", "faceq reads no transforms"),
        ("Resources: {A: {Properties: {}}}", "has no Type"),
        ("Resources: [1]", "A map from names to values"),
    ],
)
def test_what_is_no_template_is_an_error(text: str, problem: str) -> None:
    with pytest.raises(TemplateError, match=problem):
        play(text)


# Intrinsic functions


def queue_name(expression: str, rest: str = "", **parameters: str) -> str:
    text = f"{rest}\nResources:\n  Q:\n    Type: AWS::SQS::Queue\n    Properties:\n      QueueName: {expression}\n"
    return next(iter(play(text, **parameters).queues))


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("plain", "plain"),
        ("!Ref P", "p"),
        ("{Ref: P}", "p"),
        ('!Sub "${P}-x"', "p-x"),
        ('{"Fn::Sub": "${P}-x"}', "p-x"),
        ('!Sub ["${A}-${P}", {A: !Ref AWS::Region}]', "eu-central-1-p"),
        ('!Sub "${AWS::AccountId}"', "000000000000"),
        ('!Join ["-", [a, !Ref P, 1]]', "a-p-1"),
        ("!If [Yes, !Ref P, other]", "p"),
        ("!If [No, other, !If [Both, b, c]]", "c"),
    ],
)
def test_short_and_long_forms_resolve_alike(expression: str, name: str) -> None:
    rest = (
        "Parameters: {P: {Type: String, Default: p}}\n"
        'Conditions: {"Yes": !Equals [!Ref P, p], "No": !Not [!Condition "Yes"], '
        'Both: !And [!Condition "Yes", !Condition "No"]}'
    )
    assert queue_name(expression, rest) == name


def test_no_value_takes_a_property_away() -> None:
    text = SHIPPED.replace("VisibilityTimeout: 1\n", "VisibilityTimeout: !Ref AWS::NoValue\n")
    assert play(text).queues["faceq-resp-queue"].visibility_timeout == 30


def test_a_resource_whose_condition_does_not_hold_is_not_there() -> None:
    text = changed(
        "  ResponseQueue:\n    Type",
        "  Other:\n    Condition: PublicUrl\n    Type: AWS::SNS::Topic\n  ResponseQueue:\n    Type",
    )
    assert "faceq-resp-queue" in play(text).queues
    with pytest.raises(TemplateError, match="AWS::SNS::Topic"):
        play(text, UrlAuthType="NONE")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("InvokedViaFunctionUrl: true", "OnlyOn: Sundays", "PublicInvokePermission: OnlyOn is not played"),
        ("Action: lambda:InvokeFunctionUrl", "SourceAccount: 1", "PublicUrlPermission: Set Action"),
        (
            "FunctionName: !Ref FaceDetectionAlias\n      Action",
            "FunctionName: f\n      Action",
            "FunctionName is f, wh",
        ),
    ],
)
def test_a_permission_that_is_not_understood_is_an_error(old: str, new: str, problem: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(problem)):
        play(changed(old, new), UrlAuthType="NONE")


def test_a_disabled_mapping_is_read_as_such() -> None:
    assert not mapping_of(play(changed("BatchSize: !Ref BatchSize", "Enabled: false"))).enabled


@pytest.mark.parametrize(
    "name", ["_HANDLER", "AWS_REGION", "AWS_LAMBDA_FUNCTION_NAME", "AWS_SESSION_TOKEN", "LAMBDA_TASK_ROOT"]
)
def test_a_variable_that_lambda_sets_cannot_be_set(name: str) -> None:
    with pytest.raises(TemplateError, match=f"the variable {name} is set by Lambda"):
        play(changed("MAX_RECEIVE_COUNT:", f"{name}:"))


@pytest.mark.parametrize("name", ["PATH", "LANG", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH"])
def test_a_variable_that_lambda_sets_and_lets_functions_change_can_be_set(name: str) -> None:
    """Lambda developer guide, "Working with Lambda environment variables": defined, and not reserved."""
    function = play(changed("MAX_RECEIVE_COUNT:", f"{name}:")).functions["face-recognition"]
    assert function.environment[name] == "5"


def test_further_queues_do_not_hide_the_two_of_the_contract() -> None:
    """Clients find them by the ends of their names."""
    another = "  Another: {Type: AWS::SQS::Queue, Properties: {QueueName: faceq-liveness-queue}}\n\nOutputs:\n"
    service = play(changed("\nOutputs:\n", f"\n{another}"), Prefix="cam")
    assert service.request_queue == service.queues["cam-req-queue"]
    assert service.response_queue == service.queues["cam-resp-queue"]
    twice = play(changed("\nOutputs:\n", f"\n{another}".replace("liveness-queue", "b-req-queue")))
    assert twice.request_queue is None


def test_a_template_in_json_is_read_too() -> None:
    properties = '{"QueueName": {"Fn::Sub": "${AWS::Region}-q"}}'
    text = f'{{"Resources": {{"Q": {{"Type": "AWS::SQS::Queue", "Properties": {properties}}}}}}}'
    assert set(play(text).queues) == {"eu-central-1-q"}
