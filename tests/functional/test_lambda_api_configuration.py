"""The descriptions that boto3 gets of the template's resources, checked against botocore's model of the Lambda API."""

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from local.addresses import local_values
from local.http_server import listen
from local.lambda_api import application
from local.runtimes.embedded import EmbeddedRuntime
from template.model import ServiceTemplate
from template.reader import read_playable

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "deploy" / "template.yaml").read_text()
REGION, ACCOUNT = "eu-central-1", "000000000000"
ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:"
QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:faceq-req-queue"
ADDRESS = "http://127.0.0.1:8000/"
DIGEST = "0123456789abcdef" * 4
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/faceq@sha256:{DIGEST}"


def read(text: str = SHIPPED, **parameters: str) -> ServiceTemplate:
    pseudo_parameters = {"AWS::Region": REGION, "AWS::AccountId": ACCOUNT, "AWS::StackName": "faceq"}
    created = local_values(REGION, "http://127.0.0.1:9324")
    return read_playable(text, {**pseudo_parameters, **parameters}, created)


def many(functions: int) -> ServiceTemplate:
    """Return a template with this many functions and mappings."""
    resources = ["  Q: {Type: AWS::SQS::Queue, Properties: {QueueName: q}}"]
    for number in range(functions):
        code = f"FunctionName: f{number}, PackageType: Image, ImageConfig: {{Command: [a.b]}}"
        resources.append(f"  F{number}: {{Type: AWS::Lambda::Function, Properties: {{{code}}}}}")
        ends = f"FunctionName: f{number}, EventSourceArn: !GetAtt Q.Arn"
        resources.append(f"  M{number}: {{Type: AWS::Lambda::EventSourceMapping, Properties: {{{ends}}}}}")
    return read("Resources:\n" + "\n".join(resources))


@dataclass
class Api:
    """A boto3 client of the server. It checks the JSON of every answer against the output shape of its operation."""

    client: Any  # boto3 has no types
    endpoint: str
    sent: list[Any] = field(default_factory=list)

    async def __call__(self, operation: str, **arguments: object) -> dict[str, Any]:
        answer: dict[str, Any] = await asyncio.to_thread(lambda: getattr(self.client, operation)(**arguments))
        assert answer.pop("ResponseMetadata")["HTTPStatusCode"] == 200
        return answer

    async def refusal(self, operation: str, **arguments: object) -> tuple[str, str]:
        """Return the code and the message of the error in the answer."""
        with pytest.raises(ClientError) as caught:
            await self(operation, **arguments)
        error = caught.value.response["Error"]
        return error["Code"], error["Message"]

    def check(self, operation_model: Any, response_dict: Any, **_: object) -> None:
        if response_dict["status_code"] == 200:
            sent = json.loads(response_dict["body"])
            self.sent.append(sent)
            check_shape(sent, operation_model.output_shape, operation_model.name)


PYTHON = {
    "structure": {dict}, "map": {dict}, "list": {list}, "string": {str},
    "integer": {int}, "long": {int}, "timestamp": {int, float}, "boolean": {bool},
}  # fmt: skip


def check_shape(value: Any, shape: Any, where: str) -> None:
    """Fail unless a value conforms to botocore's model."""
    assert type(value) in PYTHON[shape.type_name], where
    if shape.type_name == "structure":
        assert set(shape.required_members) <= set(value) <= set(shape.members), where
        for name, member in value.items():
            check_shape(member, shape.members[name], f"{where}.{name}")
    elif shape.type_name in {"list", "map"}:
        for item in value if shape.type_name == "list" else value.values():
            check_shape(item, shape.member if shape.type_name == "list" else shape.value, f"{where}[]")
    elif shape.type_name == "string":
        assert not shape.enum or value in shape.enum, where
        pattern = shape.metadata.get("pattern", ".*")
        if r"\p{" not in pattern:  # a Java pattern, for tags
            assert re.fullmatch(pattern, value, re.DOTALL), f"{where}: {value}"


Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    runners = []

    async def start(template: ServiceTemplate) -> Api:
        runtime = EmbeddedRuntime(
            template.functions.values(), task_root=ROOT, logs=tmp_path, region=REGION, account=ACCOUNT
        )  # not started, because no test here invokes a function
        urls = {url.function: ADDRESS for url in template.function_urls}
        runner, port = await listen(application(runtime, template, urls, region=REGION, account=ACCOUNT), 0)
        runners.append(runner)
        endpoint = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "lambda",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id="local",
            aws_secret_access_key="local",
            config=Config(retries={"total_max_attempts": 1}),
        )
        api = Api(client, endpoint)
        client.meta.events.register("before-parse.lambda", api.check)
        return api

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def api(start: Start) -> Api:
    shipped: Api = await start(read())
    return shipped


def is_recent(text: str) -> bool:
    """Return whether a text is a time during this test, in the API's format."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000", text)
    return abs(datetime.now(UTC) - datetime.fromisoformat(text)) < timedelta(minutes=2)


# Functions


async def test_a_function_is_described_as_in_the_template(api: Api) -> None:
    answer = await api("get_function", FunctionName="face-recognition")
    assert is_recent(answer["Configuration"].pop("LastModified"))
    assert answer == {
        "Configuration": {
            "FunctionName": "face-recognition",
            "FunctionArn": f"{ARN}face-recognition",
            "Role": f"arn:aws:iam::{ACCOUNT}:role/faceq-FaceRecognitionRole",
            "Description": "Release local: names the faces of queued frames and answers.",
            "Timeout": 30,
            "MemorySize": 1769,
            "Version": "$LATEST",
            "Environment": {
                "Variables": {
                    "REQUEST_QUEUE_URL": f"http://127.0.0.1:9324/{ACCOUNT}/faceq-req-queue",
                    "RESPONSE_QUEUE_URL": f"http://127.0.0.1:9324/{ACCOUNT}/faceq-resp-queue",
                    "DEAD_LETTER_QUEUE_URL": f"http://127.0.0.1:9324/{ACCOUNT}/faceq-req-dlq",
                    "EXHAUSTED_QUEUE": "faceq-req-exhausted",
                    "MAX_RECEIVE_COUNT": "5",
                    "FACEQ_LOG_NAMES": "false",
                }
            },
            "TracingConfig": {"Mode": "PassThrough"},
            "State": "Active",
            "LastUpdateStatus": "Successful",
            "PackageType": "Image",
            "ImageConfigResponse": {"ImageConfig": {"Command": ["adapters.lambda_entry.face_recognition.handler"]}},
            "Architectures": ["x86_64"],
            "EphemeralStorage": {"Size": 512},
            "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
            "LoggingConfig": {"LogFormat": "Text", "LogGroup": "/aws/lambda/face-recognition"},
        },
        "Code": {"RepositoryType": "ECR"},
    }


async def test_properties_that_are_not_emulated_are_described_too(start: Start) -> None:
    extras = """
      EphemeralStorage: {Size: 1024}
      TracingConfig: {Mode: Active}
      Tags: [{Key: team, Value: cameras}]
      Timeout: !Ref DetectionTimeout"""
    text = SHIPPED.replace("\n      Timeout: !Ref DetectionTimeout", extras)
    key = "arn:aws:kms:eu-central-1:000000000000:key/1"
    parameters = {"Architecture": "arm64", "ImageUri": IMAGE, "DetectionTimeout": "9", "DetectionReserve": "7"}
    api = await start(read(text, **parameters, KmsKeyArn=key))
    answer = await api("get_function", FunctionName="face-detection")
    assert answer["Code"] == {"RepositoryType": "ECR", "ImageUri": IMAGE, "ResolvedImageUri": IMAGE}
    assert answer["Tags"] == {"team": "cameras"}
    assert answer["Concurrency"] == {"ReservedConcurrentExecutions": 7}
    configuration = answer["Configuration"]
    assert configuration["CodeSha256"] == DIGEST
    assert configuration["Architectures"] == ["arm64"]
    assert configuration["EphemeralStorage"] == {"Size": 1024}
    assert configuration["TracingConfig"] == {"Mode": "Active"}
    assert configuration["KMSKeyArn"] == key
    assert configuration["Timeout"] == 9
    assert await api("get_function_concurrency", FunctionName="face-detection") == answer["Concurrency"]
    assert await api("get_function_concurrency", FunctionName="face-recognition") == {}


async def test_the_digest_of_a_tag_is_not_invented(start: Start) -> None:
    api = await start(read(ImageUri="repository:tag"))
    answer = await api("get_function", FunctionName="face-detection")
    assert answer["Code"] == {"RepositoryType": "ECR", "ImageUri": "repository:tag"}
    assert "CodeSha256" not in answer["Configuration"]


async def test_unknown_values_are_left_out_and_not_replaced_by_defaults(start: Start) -> None:
    text = SHIPPED.replace("Architectures: [!Ref Architecture]", "Architectures: [!ImportValue architecture]")
    text = text.replace("LogGroup: !Ref", "LogGroup: !ImportValue").replace(" Role: !GetAtt", " Role: !ImportValue")
    configuration = await (await start(read(text)))("get_function_configuration", FunctionName="face-detection")
    assert not {"Role", "Architectures", "LoggingConfig", "CodeSha256", "CodeSize", "RevisionId"} & set(configuration)


async def test_missing_properties_get_the_defaults_of_aws(start: Start) -> None:
    api = await start(many(1))
    configuration = await api("get_function_configuration", FunctionName="f0")
    assert (configuration["Timeout"], configuration["MemorySize"], configuration["Description"]) == (3, 128, "")
    assert configuration["LoggingConfig"]["LogGroup"] == "/aws/lambda/f0"
    assert not {"Role", "Environment", "CodeSha256"} & set(configuration)


@pytest.mark.parametrize(
    ("function", "more", "arn"),
    [
        ("face-detection", {}, f"{ARN}face-detection"),
        (f"{ACCOUNT}:function:face-detection", {}, f"{ARN}face-detection"),
        (f"{ARN}face-detection", {}, f"{ARN}face-detection"),
        ("face-detection:$LATEST", {}, f"{ARN}face-detection:$LATEST"),
        (f"{ARN}face-detection:$LATEST", {}, f"{ARN}face-detection:$LATEST"),
        ("face-detection", {"Qualifier": "$LATEST"}, f"{ARN}face-detection:$LATEST"),
    ],
)
async def test_each_form_of_a_function_name_works(api: Api, function: str, more: dict[str, str], arn: str) -> None:
    configuration = await api("get_function_configuration", FunctionName=function, **more)
    assert configuration["FunctionArn"] == arn
    assert (await api("get_function", FunctionName=function, **more))["Configuration"] == configuration


@pytest.mark.parametrize(
    "operation",
    [
        "get_function",
        "get_function_configuration",
        "get_function_concurrency",
        "get_function_url_config",
        "list_function_url_configs",
        "get_policy",
        "list_event_source_mappings",
    ],
)
@pytest.mark.parametrize(
    ("function", "arn"),
    [("other", f"{ARN}other"), (f"{ARN}other", f"{ARN}other"), ("face-detection:7", f"{ARN}face-detection:7")],
)
async def test_an_unknown_function_or_version_is_not_found(api: Api, operation: str, function: str, arn: str) -> None:
    code, message = await api.refusal(operation, FunctionName=function)
    assert (code, message) == ("ResourceNotFoundException", f"Function not found: {arn}")


async def test_the_list_of_functions_leaves_out_their_state(api: Api) -> None:
    listed = (await api("list_functions"))["Functions"]
    assert [function["FunctionName"] for function in listed] == ["face-detection", "face-recognition"]
    for function in listed:
        configuration = await api("get_function_configuration", FunctionName=function["FunctionName"])
        assert configuration == {**function, "State": "Active", "LastUpdateStatus": "Successful"}


async def test_the_list_of_all_versions_has_qualified_arns(api: Api) -> None:
    listed = (await api("list_functions", FunctionVersion="ALL"))["Functions"]
    assert [function["FunctionArn"] for function in listed] == [
        f"{ARN}face-detection:$LATEST",
        f"{ARN}face-recognition:$LATEST",
    ]
    assert await api("list_functions", FunctionVersion="ALL", MasterRegion="us-east-1") == {"Functions": []}


async def test_boto3s_waiters_find_the_functions_ready(api: Api) -> None:
    for name in ("function_active_v2", "function_updated_v2", "function_exists"):
        await asyncio.to_thread(lambda name=name: api.client.get_waiter(name).wait(FunctionName="face-detection"))


# Pages


async def test_boto3s_paginators_return_each_entry_once(start: Start) -> None:
    api = await start(many(120))

    def pages(operation: str, key: str, size: int | None) -> list[list[str]]:
        paginator = api.client.get_paginator(operation).paginate(PaginationConfig={"PageSize": size})
        return [[entry["FunctionArn"] for entry in page[key]] for page in paginator]

    arns = [f"{ARN}f{number}" for number in range(120)]
    for operation, key, size, lengths in [
        ("list_functions", "Functions", None, [50, 50, 20]),
        ("list_functions", "Functions", 10_000, [50, 50, 20]),
        ("list_functions", "Functions", 40, [40, 40, 40]),
        ("list_event_source_mappings", "EventSourceMappings", None, [100, 20]),
        ("list_event_source_mappings", "EventSourceMappings", 60, [60, 60]),
    ]:
        answer = await asyncio.to_thread(pages, operation, key, size)
        assert [len(page) for page in answer] == lengths
        assert [arn for page in answer for arn in page] == arns


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("MaxItems=0", "ValidationException"),
        ("MaxItems=10001", "ValidationException"),
        ("MaxItems=many", "ValidationException"),
        (f"MaxItems={'9' * 5000}", "ValidationException"),
        ("Marker=what", "InvalidParameterValueException"),
        (f"Marker={'9' * 5000}", "InvalidParameterValueException"),
        ("Marker=-1", "InvalidParameterValueException"),
    ],
)
@pytest.mark.parametrize("path", ["functions", "functions/", "event-source-mappings/"])
async def test_an_invalid_page_is_refused(api: Api, path: str, query: str, code: str) -> None:
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"{api.endpoint}/2015-03-31/{path}?{query}") as response,
    ):
        assert response.status == 400
        assert response.headers["x-amzn-ErrorType"] == code


# URLs


async def test_a_functions_url_is_the_local_address(start: Start) -> None:
    cors = 'Cors: {AllowOrigins: ["*"], MaxAge: 5}\n      AuthType: !Ref UrlAuthType'
    api = await start(read(SHIPPED.replace("AuthType: !Ref UrlAuthType", cors)))
    url = await api("get_function_url_config", FunctionName=f"{ARN}face-detection")
    assert await api("list_function_url_configs", FunctionName="face-detection") == {"FunctionUrlConfigs": [url]}
    assert is_recent(url.pop("CreationTime"))
    assert is_recent(url.pop("LastModifiedTime"))
    assert url == {
        "FunctionUrl": ADDRESS,
        "FunctionArn": f"{ARN}face-detection",
        "AuthType": "AWS_IAM",
        "Cors": {"AllowOrigins": ["*"], "MaxAge": 5},
        "InvokeMode": "BUFFERED",
    }


async def test_a_function_without_a_url_has_none(api: Api) -> None:
    code, _ = await api.refusal("get_function_url_config", FunctionName="face-recognition")
    assert code == "ResourceNotFoundException"
    assert await api("list_function_url_configs", FunctionName="face-recognition") == {"FunctionUrlConfigs": []}


# Event source mappings


async def test_the_mapping_is_described_as_in_the_template(api: Api) -> None:
    (mapping,) = (await api("list_event_source_mappings", EventSourceArn=QUEUE))["EventSourceMappings"]
    assert await api("get_event_source_mapping", UUID=mapping["UUID"]) == mapping
    assert abs(datetime.now(UTC) - mapping.pop("LastModified")) < timedelta(minutes=2)
    identifier = mapping.pop("UUID")
    assert mapping == {
        "EventSourceMappingArn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:event-source-mapping:{identifier}",
        "EventSourceArn": QUEUE,
        "FunctionArn": f"{ARN}face-recognition",
        "BatchSize": 10,
        "MaximumBatchingWindowInSeconds": 0,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "ScalingConfig": {"MaximumConcurrency": 10},
        "State": "Enabled",
        "StateTransitionReason": "USER_INITIATED",
    }


async def test_each_mapping_has_a_uuid_of_its_own_that_stays(start: Start) -> None:
    def uuids(answer: dict[str, Any]) -> list[str]:
        return [mapping["UUID"] for mapping in answer["EventSourceMappings"]]

    first, again = await start(many(3)), await start(many(3))
    once = uuids(await first("list_event_source_mappings"))
    assert uuids(await again("list_event_source_mappings")) == once
    assert len(set(once)) == 3


async def test_a_disabled_mapping_with_few_properties_is_described_as_such(start: Start) -> None:
    text = SHIPPED.replace("FunctionResponseTypes: [ReportBatchItemFailures]", "Enabled: false")
    text = text.replace("ScalingConfig:\n        MaximumConcurrency: !Ref RecognitionConcurrency", "Tags: []")
    shipped = await start(read(text))
    (mapping,) = (await shipped("list_event_source_mappings", EventSourceArn=QUEUE))["EventSourceMappings"]
    assert (mapping["State"], mapping["FunctionResponseTypes"]) == ("Disabled", [])
    assert "ScalingConfig" not in mapping


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"FunctionName": "face-recognition"}, 2),
        ({"FunctionName": f"{ARN}face-recognition"}, 2),
        ({"FunctionName": "face-detection"}, 0),
        ({"EventSourceArn": QUEUE}, 1),
        ({"EventSourceArn": QUEUE.replace("req", "resp")}, 0),
        ({"EventSourceArn": QUEUE, "FunctionName": "face-recognition"}, 1),
        ({"EventSourceArn": QUEUE, "FunctionName": "face-detection"}, 0),
    ],
)
async def test_mappings_are_found_by_queue_and_function(api: Api, filters: dict[str, str], count: int) -> None:
    assert len((await api("list_event_source_mappings", **filters))["EventSourceMappings"]) == count


async def test_an_unknown_mapping_is_not_found(api: Api) -> None:
    assert await api.refusal("get_event_source_mapping", UUID=str(uuid.uuid4())) == (
        "ResourceNotFoundException",
        "The resource you requested does not exist.",
    )


# Permissions


async def test_the_policy_of_a_public_url_is_described(start: Start) -> None:
    api = await start(read(UrlAuthType="NONE"))
    assert (await api("get_function_url_config", FunctionName="face-detection"))["AuthType"] == "NONE"
    answer = await api("get_policy", FunctionName="face-detection")
    assert json.loads(answer["Policy"]) == {
        "Version": "2012-10-17",
        "Id": "default",
        "Statement": [
            {
                "Sid": "PublicUrlPermission",
                "Effect": "Allow",
                "Principal": "*",
                "Action": "lambda:InvokeFunctionUrl",
                "Resource": f"{ARN}face-detection",
                "Condition": {"StringEquals": {"lambda:FunctionUrlAuthType": "NONE"}},
            },
            {
                "Sid": "PublicInvokePermission",
                "Effect": "Allow",
                "Principal": "*",
                "Action": "lambda:InvokeFunction",
                "Resource": f"{ARN}face-detection",
                "Condition": {"Bool": {"lambda:InvokedViaFunctionUrl": "true"}},
            },
        ],
    }


@pytest.mark.parametrize(
    ("principal", "statement_principal"),
    [
        ("s3.amazonaws.com", {"Service": "s3.amazonaws.com"}),
        ("'111111111111'", {"AWS": "arn:aws:iam::111111111111:root"}),
        ("arn:aws:iam::111111111111:user/u", {"AWS": "arn:aws:iam::111111111111:user/u"}),
    ],
)
async def test_principals_and_conditions_are_written_as_aws_does(
    start: Start, principal: str, statement_principal: object
) -> None:
    source = f"Principal: {principal}\n      SourceArn: arn:aws:s3:::b\n      SourceAccount: '111111111111'"
    text = SHIPPED.replace('Principal: "*"\n      FunctionUrlAuthType: NONE', source)
    api = await start(read(text, UrlAuthType="NONE"))
    statement = json.loads((await api("get_policy", FunctionName="face-detection"))["Policy"])["Statement"][0]
    assert statement["Principal"] == statement_principal
    assert statement["Condition"] == {
        "ArnLike": {"AWS:SourceArn": "arn:aws:s3:::b"},
        "StringEquals": {"AWS:SourceAccount": "111111111111"},
    }


async def test_a_function_without_permissions_has_no_policy(api: Api) -> None:
    assert await api.refusal("get_policy", FunctionName="face-detection") == (
        "ResourceNotFoundException",
        "The resource you requested does not exist.",
    )


# The rest


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("delete_function", {"FunctionName": "face-detection"}),
        ("update_function_configuration", {"FunctionName": "face-detection", "Timeout": 1}),
        ("create_function_url_config", {"FunctionName": "face-detection", "AuthType": "NONE"}),
        ("delete_event_source_mapping", {"UUID": "0" * 36}),
        ("list_versions_by_function", {"FunctionName": "face-detection"}),
        ("list_aliases", {"FunctionName": "face-detection"}),
        ("get_account_settings", {}),
    ],
)
async def test_operations_that_change_something_and_other_operations_are_refused(
    api: Api, operation: str, arguments: dict[str, Any]
) -> None:
    code, message = await api.refusal(operation, **arguments)
    assert code == "UnknownOperationException"
    assert "is not emulated" in message


async def test_every_answer_is_checked_against_the_model(api: Api) -> None:
    await api("list_functions")
    assert len(api.sent) == 1
    model = api.client.meta.service_model.operation_model("ListFunctions").output_shape
    with pytest.raises(AssertionError, match=r"ListFunctions\.Functions"):
        check_shape({"Functions": [{"Timeout": "30"}]}, model, "ListFunctions")
