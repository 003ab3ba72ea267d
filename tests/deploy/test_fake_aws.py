"""The fake AWS behaves as AWS does wherever `faceq deploy` depends on it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from deploy.cloudformation import Stack
from tests.aws_server import REGION
from tests.deploy.aws_calls import read
from tests.deploy.cloud import Cloud
from tests.polling import eventually

DEPLOY = Path(__file__).parents[2] / "deploy"
TEMPLATE, BASE = (DEPLOY / "template.yaml").read_text(), (DEPLOY / "base.yaml").read_text()
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": {"mediaType": "application/json", "size": 2, "digest": f"sha256:{'0' * 64}"},
    "layers": [],
}


#: Resources that exist only if a parameter asks for them.
OPTIONAL = {
    "PublicUrlPermission", "PublicInvokePermission", "FunctionSecurityGroup", "EndpointSecurityGroup", "SqsEndpoint",
    "S3Endpoint", "FailedFramesAlarm", "OldestFrameAlarm", "DetectionErrorsAlarm", "RecognitionErrorsAlarm",
    "CloudWatchDashboard",
}  # fmt: skip


def state(cloud: Cloud, stack: str = "faceq") -> str:
    return str(cloud.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"])


def change(cloud: Cloud, stack: str, body: str, kind: str, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
    """Create a change set; return its changes."""
    cloud.client("cloudformation").create_change_set(
        StackName=stack, ChangeSetName="one", ChangeSetType=kind, TemplateBody=body, Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
    )  # fmt: skip
    found = cloud.client("cloudformation").describe_change_set(
        StackName=stack, ChangeSetName="one", IncludePropertyValues=True
    )
    return [one["ResourceChange"] for one in found["Changes"]]


def execute(cloud: Cloud, stack: str) -> None:
    client = cloud.client("cloudformation")
    client.execute_change_set(StackName=stack, ChangeSetName="one")
    eventually(lambda: not state(cloud, stack).endswith("_IN_PROGRESS"))
    client.delete_change_set(StackName=stack, ChangeSetName="one")


@pytest.fixture
def parameters(cloud: Cloud) -> dict[str, str]:
    """Parameters of the main stack. The base stack and the image exist already."""
    change(cloud, "base", BASE, "CREATE", {"Name": "faceq"})
    execute(cloud, "base")
    image = cloud.client("ecr").put_image(
        repositoryName="faceq", imageManifest=json.dumps(MANIFEST), imageTag="0" * 12
    )["image"]
    uri = cloud.client("ecr").describe_repositories()["repositories"][0]["repositoryUri"]
    return {"ImageUri": f"{uri}@{image['imageId']['imageDigest']}", "Release": "1"}


@pytest.fixture
def deployed(cloud: Cloud, parameters: dict[str, str]) -> dict[str, str]:
    change(cloud, "faceq", TEMPLATE, "CREATE", parameters)
    execute(cloud, "faceq")
    assert state(cloud) == "CREATE_COMPLETE"
    return parameters


@pytest.fixture
def all_options(cloud: Cloud, parameters: dict[str, str]) -> dict[str, str]:
    """Parameters with a value for each option; the network, key and topic that they name exist."""
    ec2 = cloud.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{one}.0/24")["Subnet"]["SubnetId"] for one in range(2)]
    return {
        **parameters,
        "Release": "2",
        "Gallery": "faceq-gallery",
        "Architecture": "arm64",
        "UrlAuthType": "NONE",
        "DetectionReserve": "5",
        "RecognitionReserve": "12",
        "DetectionProvisioned": "2",
        "RecognitionProvisioned": "1",
        "VpcId": vpc,
        "SubnetIds": ",".join(subnets),
        "RouteTableIds": ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"],
        "KmsKeyArn": cloud.client("kms").create_key()["KeyMetadata"]["Arn"],
        "AlarmTopicArn": cloud.client("sns").create_topic(Name="alarms")["TopicArn"],
        "Dashboard": "true",
    }


def function(cloud: Cloud) -> tuple[int, str]:
    """Return the memory and the version of face-recognition behind its alias."""
    found = cloud.client("lambda").get_function_configuration(FunctionName="face-recognition", Qualifier="live")
    return found["MemorySize"], found["Version"]


def reasons(cloud: Cloud, status: str) -> list[tuple[str, str]]:
    events = cloud.client("cloudformation").describe_stack_events(StackName="faceq")["StackEvents"]
    return [
        (one["LogicalResourceId"], one.get("ResourceStatusReason", ""))
        for one in events
        if one["ResourceStatus"] == status
    ]


def test_a_change_set_lists_changed_properties_and_replaced_resources(cloud: Cloud, deployed: dict[str, str]) -> None:
    changes = change(cloud, "faceq", TEMPLATE, "UPDATE", {**deployed, "Release": "2", "RecognitionMemory": "2048"})
    by_name = {one["LogicalResourceId"]: one for one in changes}
    targets = [one["Target"] for one in by_name["FaceRecognition"]["Details"]]
    memory = next(one for one in targets if one["Name"] == "MemorySize")
    assert (memory["BeforeValue"], memory["AfterValue"], memory["RequiresRecreation"]) == ("1769", "2048", "Never")
    assert by_name["FaceRecognitionVersion"]["Replacement"] == "True"
    assert by_name["FaceRecognition"]["Replacement"] == "False"
    execute(cloud, "faceq")
    assert function(cloud) == (2048, "2")


def test_a_change_set_without_changes_fails_with_awss_reason(cloud: Cloud, deployed: dict[str, str]) -> None:
    assert change(cloud, "faceq", TEMPLATE, "UPDATE", deployed) == []
    found = cloud.client("cloudformation").describe_change_set(StackName="faceq", ChangeSetName="one")
    assert found["Status"] == "FAILED"
    assert "didn't contain changes" in found["StatusReason"]


def test_a_failed_update_is_rolled_back(cloud: Cloud, deployed: dict[str, str]) -> None:
    """Resources that changed before the failed one are restored, and the events contain AWS's reason."""
    change(cloud, "faceq", TEMPLATE, "UPDATE", {**deployed, "Release": "2", "RecognitionMemory": "2048"})
    cloud.break_resource("FaceRecognitionAlias", "there is no quota left")
    execute(cloud, "faceq")
    assert state(cloud) == "UPDATE_ROLLBACK_COMPLETE"
    assert function(cloud) == (1769, "1")
    ((resource, reason),) = reasons(cloud, "UPDATE_FAILED")
    assert resource == "FaceRecognitionAlias"
    assert "there is no quota left" in reason


def test_a_failed_creation_leaves_no_resources(cloud: Cloud, parameters: dict[str, str]) -> None:
    """The stack stays in ROLLBACK_COMPLETE and cannot be updated."""
    change(cloud, "faceq", TEMPLATE, "CREATE", parameters)
    cloud.break_resource("FaceRecognition", "no such role")
    execute(cloud, "faceq")
    assert state(cloud) == "ROLLBACK_COMPLETE"
    assert cloud.client("lambda").list_functions()["Functions"] == []
    with pytest.raises(ClientError, match="ROLLBACK_COMPLETE state and can not be updated"):
        change(cloud, "faceq", TEMPLATE, "UPDATE", parameters)


def test_deleting_a_stack_keeps_retained_resources(cloud: Cloud, deployed: dict[str, str]) -> None:
    client = cloud.client("cloudformation")
    client.delete_stack(StackName="faceq")
    client.delete_stack(StackName="base")
    eventually(lambda: client.describe_stacks()["Stacks"] == [])
    assert cloud.client("lambda").list_functions()["Functions"] == []
    assert len(cloud.client("s3").list_buckets()["Buckets"]) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"DetectionMemory": "64"}, "not less than 128"),
        ({"UrlAuthType": "SOME"}, "must be one of"),
        ({"Nonsense": "1"}, "do not exist in the template"),
    ],
)
def test_invalid_parameters_are_refused(
    cloud: Cloud, parameters: dict[str, str], values: dict[str, str], message: str
) -> None:
    with pytest.raises(ClientError, match=message):
        change(cloud, "faceq", TEMPLATE, "CREATE", {**parameters, **values})


def test_a_template_over_the_limit_is_refused(cloud: Cloud) -> None:
    with pytest.raises(ClientError, match="length less than or equal to 51200"):
        change(cloud, "faceq", TEMPLATE + "#" * 51200, "CREATE", {})


def test_a_test_can_make_a_call_fail_once(cloud: Cloud) -> None:
    """The error has AWS's code and message, in the protocol of each service."""
    requests_by_service: dict[str, Callable[[], Any]] = {
        "sts": lambda: cloud.client("sts").get_caller_identity(),
        "ecr": lambda: cloud.client("ecr").describe_repositories(),
        "s3": lambda: cloud.client("s3").list_buckets(),
        "lambda": lambda: cloud.client("lambda").list_functions(),
        "sqs": lambda: cloud.client("sqs").list_queues(),
    }
    for service, send in requests_by_service.items():
        cloud.fail(service, "*", "ExpiredToken", "The security token included in the request is expired", status=403)
        with pytest.raises(ClientError) as refused:
            send()
        assert refused.value.response["Error"]["Code"] == "ExpiredToken", service
        send()


def test_an_unknown_access_key_is_refused(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    client = boto3.client(
        "sts", endpoint_url=cloud.endpoint, region_name=REGION, aws_access_key_id="other", aws_secret_access_key="other"
    )
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        client.get_caller_identity()


def test_calls_are_checked_against_botocores_models(cloud: Cloud) -> None:
    """boto3's own calls have no fault; unknown parameters and operations are named."""
    cloud.client("s3").create_bucket(Bucket="some-bucket")
    cloud.client("s3").put_object(Bucket="some-bucket", Key="a/b", Body=b"x")
    cloud.client("s3").list_objects_v2(Bucket="some-bucket", Prefix="a/")
    cloud.client("lambda").list_functions(MaxItems=3)
    cloud.client("sqs").create_queue(QueueName="some-queue", Attributes={"VisibilityTimeout": "3"})
    assert [(call.operation, call.faults) for call in cloud.calls()] == [
        (name, ()) for name in ("CreateBucket", "PutObject", "ListObjectsV2", "ListFunctions", "CreateQueue")
    ]
    assert cloud.calls()[1].parameters["Key"] == "a/b"
    form = b"Action=CreateChangeSet&StackName=x&Wrong=1&ChangeSetType=SOME&Parameters.member.1.ParameterKey=a"
    faults = " ".join(read("cloudformation", "POST", "/", "", {}, form).faults)
    assert 'Missing required parameter in input: "ChangeSetName"' in faults
    assert "Wrong" in faults
    assert "SOME" in faults
    assert read("ecr", "POST", "/", "", {"x-amz-target": "ECR.Nothing"}, b"{}").faults
    assert read("lambda", "GET", "/2015-03-31/nothing", "", {}, b"").faults


def posted(url: str, secret: str | None) -> requests.Response:
    """Post a frame, signed with a secret, or unsigned if it is None."""
    body = json.dumps({"content": "eA==", "request_id": "1", "filename": "a.jpg"})
    request = AWSRequest("POST", url, data=body, headers={"Content-Type": "application/json"})
    if secret is not None:
        SigV4Auth(Credentials("testing", secret), "lambda", REGION).add_auth(request)
    return requests.post(url, data=body, headers=dict(request.headers), timeout=10)


def test_the_function_url_requires_a_signature_and_the_answer_is_on_the_queue(
    cloud: Cloud, deployed: dict[str, str]
) -> None:
    outputs = {
        one["OutputKey"]: one["OutputValue"]
        for one in cloud.client("cloudformation").describe_stacks(StackName="faceq")["Stacks"][0]["Outputs"]
    }
    url = outputs["FunctionUrl"]
    assert [posted(url, secret).status_code for secret in (None, "wrong", "testing")] == [403, 403, 200]
    (message,) = cloud.client("sqs").receive_message(QueueUrl=outputs["ResponseQueueUrl"])["Messages"]
    assert json.loads(message["Body"])["result"] == "Unknown"
    cloud.break_image(deployed["ImageUri"].partition("@")[2])
    assert posted(url, "testing").status_code == 502


def test_drift_is_detected(cloud: Cloud, deployed: dict[str, str]) -> None:
    client = cloud.client("cloudformation")
    cloud.drift("faceq", "FaceRecognition", "MemorySize", "512")
    detection_id = client.detect_stack_drift(StackName="faceq")["StackDriftDetectionId"]
    assert (
        client.describe_stack_drift_detection_status(StackDriftDetectionId=detection_id)["StackDriftStatus"]
        == "DRIFTED"
    )
    (drift,) = client.describe_stack_resource_drifts(StackName="faceq")["StackResourceDrifts"]
    assert drift["PropertyDifferences"][0]["ExpectedValue"] == "1769"


def test_a_message_on_a_mapped_queue_stays_there(cloud: Cloud, deployed: dict[str, str]) -> None:
    """The function URL sends the answers; the event source mapping takes nothing from the queue."""
    queue = cloud.client("sqs").get_queue_url(QueueName="faceq-req-queue")["QueueUrl"]
    cloud.client("sqs").send_message(QueueUrl=queue, MessageBody="a frame")
    mappings = cloud.client("lambda").list_event_source_mappings(FunctionName="face-recognition:live")
    assert {
        (mapping["EventSourceArn"].rsplit(":", 1)[-1], mapping["State"]) for mapping in mappings["EventSourceMappings"]
    } == {("faceq-req-queue", "Enabled"), ("faceq-req-exhausted", "Enabled")}
    assert len(cloud.client("sqs").receive_message(QueueUrl=queue)["Messages"]) == 1


def test_every_option_can_be_switched_on_and_off(
    cloud: Cloud, deployed: dict[str, str], all_options: dict[str, str]
) -> None:
    """VPC, key, reserved and provisioned concurrency, public URL, alarms, dashboard: all together, then none."""
    stack = Stack(cloud.client("cloudformation"), "faceq", poll_seconds=0.05)

    def deploy(parameters: Mapping[str, str]) -> set[str]:
        change_set = stack.create_change_set(TEMPLATE, parameters)
        assert change_set is not None
        stack.execute_change_set(change_set, lambda _event: None)
        return {logical_id for logical_id, _, _ in stack.resources()}

    plain = {logical_id for logical_id, _, _ in stack.resources()}
    assert not OPTIONAL & plain
    assert deploy(all_options) == plain | OPTIONAL
    functions = cloud.client("lambda")
    detection = functions.get_function(FunctionName="face-detection")["Configuration"]
    assert sorted(detection["VpcConfig"]["SubnetIds"]) == sorted(all_options["SubnetIds"].split(","))
    assert functions.get_function_concurrency(FunctionName="face-detection")["ReservedConcurrentExecutions"] == 5
    queue = cloud.client("sqs").get_queue_url(QueueName="faceq-req-queue")["QueueUrl"]
    attributes = cloud.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert attributes["KmsMasterKeyId"] == all_options["KmsKeyArn"]
    assert deploy({**deployed, "Release": "3"}) == plain
