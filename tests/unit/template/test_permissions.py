"""What a template allows is described in sentences, and what allows too much is flagged."""

import json
from pathlib import Path
from typing import Any

from template.permissions import openness, statements
from template.resources import Template

BASE = (Path(__file__).parents[3] / "deploy" / "base.yaml").read_text()
TEMPLATE = (Path(__file__).parents[3] / "deploy" / "template.yaml").read_text()


def changed(before: str = "", after: str = "", **parameters: str) -> Template:
    assert before in TEMPLATE
    return Template(TEMPLATE.replace(before, after) if before else TEMPLATE, parameters)


def added(resources: str, **parameters: str) -> Template:
    return changed("\nOutputs:\n", f"{resources}\nOutputs:\n", **parameters)


def in_json(resources: dict[str, Any]) -> Template:
    return Template(json.dumps({"Resources": resources}), {})


def test_what_each_function_may_do_is_described_in_words() -> None:
    words = [statement.words for statement in statements(changed(Gallery="bucket"))]
    assert words == [
        "face-detection may send messages to RequestQueue, ResponseQueue",
        "face-detection may open log streams in and write log lines to FaceDetectionLogs",
        "face-recognition may receive messages from, delete messages from and read the attributes of RequestQueue, "
        "ExhaustedQueue",
        "face-recognition may give messages back to RequestQueue",
        "face-recognition may send messages to ResponseQueue, DeadLetterQueue",
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
    template = in_json({"R": {"Type": "AWS::IAM::Role", "Properties": {"Policies": [{"PolicyDocument": policy}]}}})
    (statement,) = statements(template)
    assert (statement.words, statement.wide) == ("R must not call * on any resource", ())


# What is open


def test_a_signed_url_is_open_to_callers_with_the_permissions() -> None:
    url, queues = openness(changed())
    assert "face-detection (AWS_IAM) takes signed requests only" in url
    assert queues.startswith("DeadLetterQueue, ExhaustedQueue, RequestQueue and ResponseQueue: no queue policy")


def test_a_public_url_is_open_to_everyone_at_the_owners_cost() -> None:
    url, _ = openness(changed(UrlAuthType="NONE"))
    assert "ANYBODY" in url
    assert "you pay" in url
    assert "lambda:InvokeFunctionUrl" in url
    assert "lambda:InvokeFunction " in url


def test_a_public_url_without_both_permissions_answers_403() -> None:
    url, *_ = openness(changed("      InvokedViaFunctionUrl: true\n", "      SourceAccount: '1'\n", UrlAuthType="NONE"))
    assert "ANYBODY" in url  # the permission is there, though wider
    lacking = changed("Action: lambda:InvokeFunction\n", "Action: lambda:GetFunction\n", UrlAuthType="NONE")
    assert "answers 403: everybody lacks lambda:InvokeFunction." in openness(lacking)[0]


def test_other_permissions_policies_and_trust_are_listed() -> None:
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
        "DeadLetterQueue, ExhaustedQueue and RequestQueue: no queue policy, so only callers with permissions in this "
        "account reach them.",
        "Open: public access is NOT blocked (BlockPublicAcls, BlockPublicPolicy, IgnorePublicAcls, "
        "RestrictPublicBuckets).",
        "ec2.amazonaws.com may act as Foreign.",
        "Topic (AWS::SQS::QueuePolicy) may let others in: faceq does not read such policies.",
        "OpenPolicy (AWS::S3::BucketPolicy) may let others in: faceq does not read such policies.",
    ]


def test_an_open_repository_and_an_open_port_are_listed() -> None:
    template = in_json(
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
        "Closed: no repository policy, so only callers with permissions in this account pull from it.",
        "ANYBODY may call ecr:BatchGetImage on Shared.",
        "Group takes connections from ANYWHERE on port 443.",
    ]


def test_the_base_stack_opens_only_its_repository_and_only_to_lambda() -> None:
    assert openness(Template(BASE, {})) == [
        "Bucket: no public access.",
        "lambda.amazonaws.com may call ecr:BatchGetImage, ecr:GetDownloadUrlForLayer on Repository under a condition.",
    ]
