"""What is said of a template before it is deployed, and what is refused."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.function_image import LAMBDA_BYTES, Image
from deploy.function_image import read as image_of
from deploy.resolve import SECTIONS, Symbol, Template, load, read
from deploy.review import (
    INLINE_BYTES,
    MOST,
    S3_BYTES,
    Refusal,
    openness,
    refusals,
    statements,
)
from pipeline.errors import BadInput

TEMPLATE = (Path(__file__).parents[3] / "deploy" / "template.yaml").read_text()
BASE = (Path(__file__).parents[3] / "deploy" / "base.yaml").read_text()
RECORDED = json.loads(Path(__file__).with_name("image.json").read_text())


@pytest.fixture
def image() -> Image:
    """An image that can be deployed."""
    said = copy.deepcopy(RECORDED)
    found = image_of(said["inspect"], said["history"], "linux/amd64")
    return replace(found, labels={**found.labels, "faceq.model": "dlib"})


def changed(before: str = "", after: str = "", **parameters: str) -> Template:
    assert before in TEMPLATE
    return read(TEMPLATE.replace(before, after) if before else TEMPLATE, parameters)


def added(resources: str, **parameters: str) -> Template:
    return changed("\nOutputs:\n", f"{resources}\nOutputs:\n", **parameters)


def small(resources: dict[str, Any], conditions: dict[str, Any] | None = None, **parameters: str) -> Template:
    declared = {
        "Prefix": {"Type": "String", "Default": "faceq"},
        "Zones": {"Type": "CommaDelimitedList", "Default": "a, b"},
        "Most": {"Type": "Number", "Default": 3},
        "Needed": {"Type": "String"},
    }
    content = {"Parameters": declared, "Conditions": conditions or {}, "Resources": resources}
    return read(json.dumps(content), parameters)


def value(node: Any, **parameters: str) -> Any:
    mappings = {"Sizes": {"small": {"MB": 128}}}
    content = {
        "Parameters": {
            "Prefix": {"Type": "String", "Default": "faceq"},
            "Zones": {"Type": "CommaDelimitedList", "Default": "a, b"},
            "Most": {"Type": "Number", "Default": 3},
            "Needed": {"Type": "String"},
        },
        "Mappings": mappings,
        "Conditions": {"Yes": {"Fn::Equals": [1, "1"]}, "No": {"Fn::Not": [{"Condition": "Yes"}]}},
        "Resources": {"X": {"Type": "T", "Properties": {"Key": node}}, "Queue": {"Type": "AWS::SQS::Queue"}},
    }
    return read(json.dumps(content), parameters).resources["X"].properties.get("Key", "gone")


def only(template: Template, image: Image | None = None, **how: bool) -> Refusal:
    (found,) = refusals(template, image, **how)
    return found


# Reading


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"Ref": "Prefix"}, "faceq"),
        ({"Ref": "Zones"}, ["a", "b"]),
        ({"Ref": "Most"}, "3"),
        ({"Ref": "Needed"}, "<Needed>"),
        ({"Ref": "AWS::Partition"}, "aws"),
        ({"Ref": "AWS::Region"}, "<Region>"),
        ({"Ref": "AWS::NoValue"}, "gone"),
        ({"Ref": "Queue"}, Symbol("Queue")),
        ({"Fn::GetAtt": ["Queue", "Arn"]}, Symbol("Queue", "Arn")),
        ([1, {"Ref": "AWS::NoValue"}, {"a": {"Ref": "AWS::NoValue"}, "b": True}], [1, {"b": True}]),
        ({"Fn::Sub": "${Prefix}-${Queue.Arn}-${!Literal}-${AWS::Region}"}, "faceq-${Queue.Arn}-${Literal}-<Region>"),
        ({"Fn::Sub": ["${Other}-${Prefix}", {"Other": {"Ref": "Queue"}}]}, "${Queue}-faceq"),
        ({"Fn::If": ["Yes", 1, 2]}, 1),
        ({"Fn::If": ["No", 1, {"Ref": "Prefix"}]}, "faceq"),
        ({"Fn::If": ["No", 1, {"Ref": "AWS::NoValue"}]}, "gone"),
        ({"Fn::Join": ["-", ["a", {"Ref": "Prefix"}, True]]}, "a-faceq-true"),
        ({"Fn::Select": ["1", {"Ref": "Zones"}]}, "b"),
        ({"Fn::Split": [",", "x,y"]}, ["x", "y"]),
        ({"Fn::FindInMap": ["Sizes", "small", "MB"]}, 128),
        ({"Fn::ImportValue": "other"}, {"Fn::ImportValue": "other"}),
    ],
)
def test_values_are_resolved(node: Any, expected: Any) -> None:
    assert value(node) == expected


def test_given_parameters_take_the_place_of_the_defaults() -> None:
    assert value({"Ref": "Zones"}, Zones="") == []
    assert value({"Fn::Sub": "${Prefix}:${Needed}:${AWS::Region}"}, Needed="n", **{"AWS::Region": "eu-west-1"}) == (
        "faceq:n:eu-west-1"
    )


@pytest.mark.parametrize(
    ("condition", "is_there"),
    [
        ({"Fn::Equals": [{"Ref": "Most"}, 3]}, True),
        ({"Fn::Not": [{"Fn::Equals": [{"Ref": "Prefix"}, ""]}]}, True),
        ({"Fn::And": [{"Fn::Equals": ["a", "a"]}, {"Fn::Equals": ["a", "b"]}]}, False),
        ({"Fn::Or": [{"Fn::Equals": ["a", "a"]}, {"Fn::Equals": ["a", "b"]}]}, True),
        ({"Condition": "Other"}, False),
    ],
)
def test_a_resource_with_a_false_condition_is_not_there(condition: Any, is_there: bool) -> None:
    template = small(
        {"X": {"Type": "T", "Condition": "Wanted"}}, {"Wanted": condition, "Other": {"Fn::Equals": [True, "false"]}}
    )
    assert ("X" in template.resources) is is_there


def test_short_forms_are_the_long_ones() -> None:
    text = "Resources: {X: {Type: T, Properties: {A: !Ref B, C: !GetAtt B.Arn, D: !Sub '${B}', E: !If [F, 1, 2]}}}"
    assert load(text)["Resources"]["X"]["Properties"] == {
        "A": {"Ref": "B"}, "C": {"Fn::GetAtt": ["B", "Arn"]}, "D": {"Fn::Sub": "${B}"}, "E": {"Fn::If": ["F", 1, 2]},
    }  # fmt: skip


def test_a_date_stays_text() -> None:
    """CloudFormation takes an unquoted policy version as text; YAML would make a date of it."""
    assert load("Resources: {X: {Version: 2012-10-17}}")["Resources"]["X"]["Version"] == "2012-10-17"


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "text", "Resources: 1", "Resources: {X: {}}", "Resources: {X: {Type: T, Condition: None}}",
     "Conditions: {C: {Ref: X}}\nResources: {X: {Type: T, Condition: C}}",
     "Resources: {X: {Type: T, Properties: {A: !If [a]}}}",
     "Conditions: {C: {Condition: C}}\nResources: {X: {Type: T, Condition: C}}"],
)  # fmt: skip
def test_what_is_no_template_is_one_line(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(text, {})
    assert "\n" not in str(caught.value)


texts = st.sampled_from(
    ["Ref", "Fn::Sub", "Fn::If", "Fn::GetAtt", "Fn::Join", "Fn::Select", "Condition", "X", "Y", "Yes", "AWS::NoValue",
     "${X.Arn}", "*", "sqs:SendMessage", "Allow", "arn:aws:sqs:::q", "", "1"]
)  # fmt: skip
keys = st.sampled_from(
    ["Policies", "PolicyDocument", "Statement", "Effect", "Action", "Resource", "Principal", "Condition", "Role",
     "Roles", "FunctionName", "EventSourceArn", "BatchSize", "ScalingConfig", "Environment", "Variables",
     "Architectures", "AuthType", "TargetFunctionArn", "VpcConfig", "SubnetIds", "Queues", "QueueName", "Timeout",
     "ManagedPolicyArns", "ProvisionedConcurrencyConfig", "SecurityGroupIngress", "RepositoryPolicyText", "Ref",
     "Fn::Sub", "Fn::If"]
)  # fmt: skip
nodes = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | texts, inner, max_size=4),
    max_leaves=12,
)
kinds = st.sampled_from(
    ["AWS::Lambda::Function", "AWS::Lambda::Alias", "AWS::Lambda::Url", "AWS::Lambda::Permission", "AWS::IAM::Role",
     "AWS::Lambda::EventSourceMapping", "AWS::IAM::Policy", "AWS::SQS::Queue", "AWS::SQS::QueuePolicy",
     "AWS::S3::Bucket", "AWS::S3::BucketPolicy", "AWS::ECR::Repository", "AWS::EC2::SecurityGroup"]
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(["X", "Y", "Z"]), st.fixed_dictionaries({"Type": kinds, "Properties": nodes}), min_size=1
    ),
    nodes,
)
def test_whatever_stands_in_a_template_is_told_or_refused(resources: Any, condition: Any) -> None:
    """A template that people changed may be wrong in any way; then it is one line, never a traceback."""
    text = json.dumps({"Conditions": {"Yes": condition}, "Resources": resources})
    try:
        template = read(text, {})
    except BadInput:
        return
    assert all(isinstance(line, str) for line in openness(template))
    assert all(statement.words for statement in statements(template))
    assert all(refusal.mend for refusal in refusals(template))


# Who may do what


def test_statements_are_told_in_words() -> None:
    words = [statement.words for statement in statements(changed(Gallery="bucket"))]
    assert words == [
        "face-detection may send messages to RequestQueue, ResponseQueue",
        "face-detection may open log streams in and write log lines to FaceDetectionLogs",
        "face-recognition may receive messages from, delete messages from and read the attributes of RequestQueue",
        "face-recognition may send messages to ResponseQueue",
        "face-recognition may open log streams in and write log lines to FaceRecognitionLogs",
        "face-recognition may read the objects bucket/gallery/*",
        "face-recognition may list the bucket bucket, only where s3:prefix StringLikeIfExists gallery/*",
    ]


def test_unknown_actions_are_shown_as_they_are_and_wildcards_flagged() -> None:
    template = changed("Action: sqs:SendMessage", "Action: [sqs:SendMessage, sns:Publish, 's3:*']")
    words = statements(template)[0].words
    assert words.startswith("face-detection may send messages to and call sns:Publish and s3:* on RequestQueue")
    assert words.endswith("(WIDE: an action with a wildcard)")


def test_a_denial_is_no_permission_and_never_wide() -> None:
    policy = {"Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}}
    template = small({"R": {"Type": "AWS::IAM::Role", "Properties": {"Policies": [{"PolicyDocument": policy}]}}})
    (statement,) = statements(template)
    assert (statement.words, statement.wide) == ("R must not call * on any resource", ())


# What is open


def test_a_signed_url_is_open_to_who_holds_the_permissions() -> None:
    url, queues = openness(changed())
    assert "face-detection (AWS_IAM) takes signed requests only" in url
    assert queues.startswith("DeadLetterQueue, RequestQueue and ResponseQueue: no queue policy")


def test_a_public_url_is_open_to_anybody_and_somebody_pays() -> None:
    url, _ = openness(changed(UrlAuthType="NONE"))
    assert "ANYBODY" in url
    assert "you pay" in url
    assert "lambda:InvokeFunctionUrl" in url
    assert "lambda:InvokeFunction " in url


def test_a_public_url_without_both_permissions_answers_nobody() -> None:
    url, *_ = openness(changed("      InvokedViaFunctionUrl: true\n", "      SourceAccount: '1'\n", UrlAuthType="NONE"))
    assert "ANYBODY" in url  # the permission is there, though wider
    lacking = changed("Action: lambda:InvokeFunction\n", "Action: lambda:GetFunction\n", UrlAuthType="NONE")
    assert "answers 403: everybody lacks lambda:InvokeFunction." in openness(lacking)[0]


def test_other_permissions_policies_and_trust_are_told() -> None:
    lines = openness(
        added(
            """
  Partner:
    Type: AWS::Lambda::Permission
    Properties: {FunctionName: !Ref FaceRecognition, Action: lambda:InvokeFunction, Principal: "123456789012"}
  Topic:
    Type: AWS::SQS::QueuePolicy
    Properties:
      Queues: [!Ref ResponseQueue]
      PolicyDocument: {Statement: [{Effect: Allow, Principal: "*", Action: sqs:ReceiveMessage, Resource: "*"}]}
  Open: {Type: "AWS::S3::Bucket"}
  OpenPolicy:
    Type: AWS::S3::BucketPolicy
    Properties:
      Bucket: !Ref Open
      PolicyDocument:
        Statement: {Effect: Allow, Principal: {AWS: "arn:aws:iam::1:root"}, Action: s3:GetObject, Resource: "*"}
  Foreign:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument:
        Statement: {Effect: Allow, Principal: {Service: [ec2.amazonaws.com]}, Action: sts:AssumeRole}
"""
        )
    )
    assert lines[1:] == [
        "123456789012 may call lambda:InvokeFunction on face-recognition.",
        "ANYBODY may call sqs:ReceiveMessage on ResponseQueue.",
        "DeadLetterQueue and RequestQueue: no queue policy, so only who holds permissions in this account reaches "
        "them.",
        "Open: public access is NOT blocked (BlockPublicAcls, BlockPublicPolicy, IgnorePublicAcls, "
        "RestrictPublicBuckets).",
        "arn:aws:iam::1:root may call s3:GetObject on Open.",
        "ec2.amazonaws.com may act as Foreign.",
    ]


def test_a_repository_and_a_port_are_told() -> None:
    template = small(
        {
            "Closed": {"Type": "AWS::ECR::Repository"},
            "Shared": {
                "Type": "AWS::ECR::Repository",
                "Properties": {
                    "RepositoryPolicyText": {
                        "Statement": {"Effect": "Allow", "Principal": "*", "Action": "ecr:BatchGetImage"}
                    }
                },
            },
            "Group": {
                "Type": "AWS::EC2::SecurityGroup",
                "Properties": {"SecurityGroupIngress": [{"CidrIp": "0.0.0.0/0", "FromPort": 443}]},
            },
        }
    )
    assert openness(template) == [
        "Closed: no repository policy, so only who holds permissions in this account pulls from it.",
        "ANYBODY may call ecr:BatchGetImage on Shared.",
        "Group takes connections from ANYWHERE on port 443.",
    ]


def test_what_the_base_stack_opens() -> None:
    assert openness(read(BASE, {})) == [
        "Bucket: no public access.",
        "lambda.amazonaws.com may call ecr:BatchGetImage, ecr:GetDownloadUrlForLayer on Repository under a condition.",
    ]


# What is refused


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"UrlAuthType": "NONE"},
        {"BatchSize": "100", "BatchingWindow": "5", "RequestVisibilityTimeout": "185"},
        {"RecognitionReserve": "10", "RecognitionProvisioned": "10", "Gallery": "bucket"},
        {"VpcId": "vpc-0a", "SubnetIds": "subnet-0a", "RouteTableIds": "rtb-0a"},
    ],
)
def test_the_template_is_not_refused(parameters: dict[str, str], image: Image) -> None:
    assert refusals(changed(**parameters), image) == []


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
def test_a_queue_that_calls_who_sends_to_it_is_refused(queue: str, function: str, words: str) -> None:
    template = added(LOOP.format(queue=queue, function=function), RequestVisibilityTimeout="300")
    (refusal,) = [one for one in refusals(template) if "for ever" in one.reason]
    assert words in refusal.reason
    assert "Take the event source mapping Loop out" in refusal.mend


def test_a_loop_over_two_functions_is_refused() -> None:
    """The response queue calls the detector, which may send to the request queue only."""
    text = TEMPLATE.replace("                  - !GetAtt ResponseQueue.Arn\n", "").replace(
        "\nOutputs:\n", LOOP.format(queue="!GetAtt ResponseQueue.Arn", function="!Ref FaceDetection") + "\nOutputs:\n"
    )
    (refusal,) = [one for one in refusals(read(text, {})) if "for ever" in one.reason]
    assert (
        "RequestQueue calls face-recognition, which may send to ResponseQueue, which calls face-detection, which may "
        "send to RequestQueue" in refusal.reason
    )
    assert "RequestQueueMapping or Loop" in refusal.mend


def test_a_loop_by_a_wildcard_permission_is_refused() -> None:
    template = changed("Resource: !GetAtt ResponseQueue.Arn", "Resource: '*'")
    assert any("RequestQueue calls face-recognition" in one.reason for one in refusals(template))


def test_a_queue_that_calls_who_does_not_send_to_it_is_not_refused() -> None:
    loop = LOOP.format(queue="!GetAtt DeadLetterQueue.Arn", function="!Ref FaceRecognition")
    assert not any("for ever" in one.reason for one in refusals(added(loop)))


def test_a_mapping_that_does_not_run_makes_no_loop() -> None:
    loop = LOOP.format(queue="!GetAtt ResponseQueue.Arn", function="!Ref FaceRecognition")
    assert refusals(added(loop.replace("}\n", ", Enabled: false}\n"))) == []


@pytest.mark.parametrize(
    ("parameters", "reason", "mend"),
    [
        ({"RecognitionTimeout": "31"}, "hides a frame for 180 s", "the parameter RequestVisibilityTimeout to 186"),
        ({"BatchingWindow": "1"}, "hides a frame for 180 s", "the parameter RequestVisibilityTimeout to 181"),
        ({"BatchSize": "11"}, "a batch of 11 needs a batching window", "the parameter BatchingWindow to 1"),
        (
            {"RecognitionReserve": "9"},
            "10 times at once, and 9 are reserved",
            "the parameter RecognitionReserve to 10 or more, or the parameter RecognitionConcurrency to 9 or less.",
        ),
        ({"RecognitionReserve": "0"}, "10 times at once, and 0 are reserved", "RecognitionReserve to 10 or more."),
        (
            {"DetectionReserve": "2", "DetectionProvisioned": "3"},
            "3 are kept warm and 2 reserved",
            "the parameter DetectionReserve to 3",
        ),
        ({"VpcId": "vpc-0a", "RouteTableIds": "rtb-0a"}, "need its subnets", "Set SubnetIds."),
        ({"VpcId": "vpc-0a", "SubnetIds": "subnet-0a"}, "route tables", "Set RouteTableIds."),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(parameters: dict[str, str], reason: str, mend: str) -> None:
    found = only(changed(**parameters))
    assert reason in found.reason
    assert mend in found.mend


def test_a_property_that_is_no_parameter_is_named() -> None:
    found = only(changed("VisibilityTimeout: !Ref RequestVisibilityTimeout", "VisibilityTimeout: 30"))
    assert found.mend == "Set VisibilityTimeout of RequestQueue to 180 or more."


def test_a_variable_of_lambda_is_refused() -> None:
    found = only(changed("          MAX_RECEIVE_COUNT:", "          AWS_REGION: here\n          MAX_RECEIVE_COUNT:"))
    assert "AWS_REGION is set by Lambda" in found.reason


@pytest.mark.parametrize(("inline", "most"), [(True, INLINE_BYTES), (False, S3_BYTES)])
def test_a_template_that_cloudformation_does_not_take_is_refused(inline: bool, most: int) -> None:
    fits, over = (read(TEMPLATE + "#" * (size - len(TEMPLATE.encode())), {}) for size in (most, most + 1))
    assert refusals(fits, inline=inline) == []
    assert f"CloudFormation takes {most:,}" in only(over, inline=inline).reason


@pytest.mark.parametrize("section", SECTIONS)
def test_too_many_entries_are_refused(section: str) -> None:
    entries = {f"E{number}": {"Type": "String", "Value": "x"} for number in range(MOST[section] + 1)}
    text = json.dumps({"Resources": {}, section: entries})
    assert f"has {MOST[section] + 1} {section}" in only(read(text, {})).reason


def test_an_image_that_cannot_run_is_refused(image: Image) -> None:
    big = replace(image, bytes=LAMBDA_BYTES + 1)
    assert "10.0 GiB" in only(changed(), big).reason
    arm = only(changed(), replace(image, platform="linux/arm64"))
    assert "linux/arm64 and the functions are x86_64" in arm.reason
    assert "--platform linux/amd64" in arm.mend
    assert only(changed(Architecture="arm64"), image).mend.endswith("or set the parameter Architecture.")
    assert refusals(changed(Architecture="arm64"), replace(image, platform="linux/arm64")) == []


def test_an_image_that_is_an_index_is_refused() -> None:
    said = copy.deepcopy(RECORDED)
    said["inspect"]["Descriptor"] = {"mediaType": "application/vnd.oci.image.index.v1+json"}
    found = only(changed(), image_of(said["inspect"], said["history"], "linux/amd64"), stand_in=True)
    assert "index of manifests" in found.reason
    assert "faceq image build" in found.mend


@pytest.mark.parametrize("labels", [{}, {"faceq.model": ""}])
def test_an_image_without_a_model_is_refused(image: Image, labels: dict[str, str]) -> None:
    found = only(changed(), replace(image, labels=labels))
    assert found.reason.startswith("Model not found")
    assert found.mend == f"Build it with: faceq image build --tag {image.tags[0]}"


def test_the_stand_in_is_refused_unless_asked_for(image: Image) -> None:
    stand_in = replace(image, labels={"faceq.model": "stand-in"})
    assert "recognises nobody" in only(changed(), stand_in).reason
    assert refusals(changed(), stand_in, stand_in=True) == []
