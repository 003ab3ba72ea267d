"""Whatever a template contains, it is described or refused in one line."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from template.permissions import openness, statements
from template.reader import read_service
from template.resources import Template
from template.rules import Finding, findings
from template.yaml_nodes import TemplateError

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
def test_a_template_that_is_wrong_in_any_way_is_described_or_refused(resources: Any, condition: Any) -> None:
    """A template that users changed may be wrong in any way. They get one line, never a traceback."""
    text = json.dumps({"Conditions": {"Yes": condition}, "Resources": resources})
    for describe in (openness, statements, rules_and_model):
        problem, described = "", []
        try:
            described = describe(Template(text, {}))
        except TemplateError as error:
            problem = str(error)
        assert "\n" not in problem
        assert all(str(line) for line in described)


def rules_and_model(template: Template) -> list[Finding]:
    found = findings(template, read_service(template))
    assert all(finding.reason and finding.remedy for finding in found)
    return found
