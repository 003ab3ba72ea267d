"""What `faceq doctor --target aws` looks at: the stack, its functions, what calls them, and what they may do.

Every look is a call that reads; nothing is changed.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from adapters.aws_errors import translated_aws_errors
from cli.doctor_command import Check
from client.deployed_stack import Deployed, account, deployed, session
from pipeline.errors import FaceqError
from pipeline.gallery_storage import MANIFEST

if TYPE_CHECKING:
    import boto3
    from botocore.client import BaseClient

DETECTION: Final = "face-detection"
RECOGNITION: Final = "face-recognition"
#: What clients and the queue call.
ALIAS: Final = "live"
#: The folder of the gallery in its bucket.
GALLERY_PREFIX: Final = "gallery/"

_Found = TypeVar("_Found")

#: Statuses of a stack whose resources are as its template says.
#: (CloudFormation user guide, "Stack status codes")
_WELL: Final = frozenset(
    {"CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"}
)
#: A queue that is not there, in SQS's query protocol and in its JSON protocol.
_NO_QUEUE: Final = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")
#: What Lambda needs of a function's role to reach a VPC, on any resource. (Lambda developer guide, "Giving Lambda
#: functions access to resources in an Amazon VPC")
_VPC_ACTIONS: Final = (
    "ec2:CreateNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:DeleteNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
)


#: What a public URL needs since October 2025. (Lambda developer guide, "Control access to Lambda function URLs")
_PUBLIC_ACTIONS: Final = frozenset({"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"})


@dataclass(frozen=True)
class Calls:
    """Actions that a role needs on a resource; `context` is what IAM's conditions see, by key."""

    actions: tuple[str, ...]
    resource: str
    context: Mapping[str, str]


def checks(stack: str, region: str | None, profile: str | None) -> Iterator[Check]:
    """Look at a stack on AWS. What cannot be looked at is a bad check with the reason; none raises."""
    aws = session(region, profile)
    try:
        identity = account(aws)
        yield Check("identity", True, f"{identity.arn}, in {identity.region}")
        there = deployed(aws, stack)
    except FaceqError as error:  # without these there is nothing to look at
        yield Check("aws", False, error.message)
        return
    looks = (_stack, _functions, _url, _mappings, _queues, _gallery, _permissions)
    for look in looks:
        try:
            with translated_aws_errors():
                yield from look(aws, there)
        except FaceqError as error:
            yield Check(look.__name__.lstrip("_"), False, error.message)


def _stack(aws: "boto3.Session", there: Deployed) -> Iterator[Check]:
    (found,) = aws.client("cloudformation").describe_stacks(StackName=there.stack)["Stacks"]
    status = str(found["StackStatus"])
    if status in _WELL:
        yield Check("stack", True, f"{there.stack} is {status}")
    elif status == "UPDATE_ROLLBACK_COMPLETE":
        yield Check("stack", None, f"{there.stack} went back to the release before: faceq deploy history")
    elif status.endswith("_IN_PROGRESS"):
        yield Check("stack", None, f"{there.stack} is {status}: wait for it, faceq deploy status")
    else:
        yield Check("stack", False, f"{there.stack} is {status}: faceq deploy")


def _functions(aws: "boto3.Session", _there: Deployed) -> Iterator[Check]:
    images: dict[str, str] = {}
    for name in (DETECTION, RECOGNITION):
        found = _function(aws, name)
        if found is None:
            yield Check(name, False, f"there is no function {name} with the alias {ALIAS}: faceq deploy")
            continue
        configuration = found["Configuration"]
        images[name] = found.get("Code", {}).get("ResolvedImageUri", found.get("Code", {}).get("ImageUri", ""))
        state = configuration.get("State", "Active")
        update = configuration.get("LastUpdateStatus", "Successful")
        reason = configuration.get("StateReason") or configuration.get("LastUpdateStatusReason") or ""
        # Inactive: not called for weeks; the next call wakes it. (Lambda developer guide, "Lambda function states")
        well = state in {"Active", "Inactive"} and update == "Successful"
        size = f"version {configuration['Version']}, {configuration['MemorySize']} MB, {configuration['Timeout']} s"
        trouble = "" if well else f". {reason or 'It cannot be called yet'}: faceq deploy status"
        yield Check(name, well, f"{state}, last update {update}, {size}{trouble}")
    if len(images) == 2:
        digests = {uri.partition("@")[2] or uri for uri in images.values()}
        same = len(digests) == 1
        shown = " and ".join(sorted(digests))
        yield Check("image", same, f"both run {shown}" if same else f"they run different images, {shown}: faceq deploy")


def _url(aws: "boto3.Session", there: Deployed) -> Iterator[Check]:
    client = aws.client("lambda")
    found = _if_there(
        lambda: client.get_function_url_config(FunctionName=DETECTION, Qualifier=ALIAS), "ResourceNotFoundException"
    )
    if found is None:
        yield Check("url", False, f"the alias {ALIAS} of {DETECTION} has no function URL: faceq deploy")
        return
    auth_type = str(found["AuthType"])
    if found["FunctionUrl"] != there.function_url or auth_type != there.auth_type:
        yield Check("url", False, f"it is {found['FunctionUrl']} ({auth_type}), the stack says otherwise: faceq deploy")
    elif auth_type == "AWS_IAM":
        yield Check("url", True, f"{found['FunctionUrl']} takes signed frames only")
    elif lacking := _PUBLIC_ACTIONS - _allowed_to_all(client):
        yield Check("url", False, f"it is public, but its policy lacks {' and '.join(sorted(lacking))}: faceq deploy")
    else:
        yield Check("url", None, f"{found['FunctionUrl']} takes frames from anybody, at your cost")


def _allowed_to_all(client: "BaseClient") -> set[str]:
    """Return the actions on the detection's alias that anybody is allowed."""
    found = _if_there(
        lambda: client.get_policy(FunctionName=DETECTION, Qualifier=ALIAS)["Policy"], "ResourceNotFoundException"
    )
    statements = json.loads(found)["Statement"] if found is not None else []
    return {statement["Action"] for statement in statements if statement["Principal"] in ("*", {"AWS": "*"})}


def _mappings(aws: "boto3.Session", there: Deployed) -> Iterator[Check]:
    client = aws.client("lambda")
    sqs = aws.client("sqs")
    pages = client.get_paginator("list_event_source_mappings")

    def of(queue_url: str) -> list[dict[str, Any]]:
        found = pages.paginate(EventSourceArn=_arn(sqs, queue_url))
        return [mapping for page in found for mapping in page["EventSourceMappings"]]

    requests = of(there.request_queue_url)
    ours = [mapping for mapping in requests if _name(mapping["FunctionArn"]) == RECOGNITION]
    if not ours:
        yield Check("trigger", False, f"{_tail(there.request_queue_url)} calls no {RECOGNITION}: faceq deploy")
    for mapping in ours:
        state, result = str(mapping["State"]), str(mapping.get("LastProcessingResult", ""))
        enable = f"aws lambda update-event-source-mapping --uuid {mapping['UUID']} --enabled"
        if state in {"Disabled", "Disabling"}:
            yield Check("trigger", False, f"the queue's calls of {RECOGNITION} are switched off: {enable}")
        elif result.startswith("PROBLEM"):
            yield Check("trigger", False, f"{state}, but {result}: faceq deploy logs --function {RECOGNITION}")
        else:
            well = state == "Enabled" or None
            yield Check("trigger", well, f"{_tail(there.request_queue_url)} calls {RECOGNITION}, {state}")
    for mapping in [*(mapping for mapping in requests if mapping not in ours), *of(there.response_queue_url)]:
        queue, function = mapping["EventSourceArn"].rsplit(":", 1)[-1], _name(mapping["FunctionArn"])
        loop = ", which may answer there again, without end" if function in {DETECTION, RECOGNITION} else ""
        cure = f"aws lambda delete-event-source-mapping --uuid {mapping['UUID']}"
        yield Check("trigger", False, f"{queue} also calls {function}, so messages are lost to others{loop}: {cure}")


def _queues(aws: "boto3.Session", there: Deployed) -> Iterator[Check]:
    from client.queue_operations import depths

    sqs = aws.client("sqs")
    for url in (there.request_queue_url, there.response_queue_url, there.dead_letter_queue_url):
        name = _tail(url)
        found = _if_there(lambda url=url: depths(sqs, [url])[0], *_NO_QUEUE)  # type: ignore[misc]
        if found is None:
            yield Check("queue", False, f"there is no queue {name}: faceq deploy")
        elif url == there.dead_letter_queue_url and found.visible:
            cure = f"faceq queues peek {name} --target aws, then faceq queues redrive {name} --target aws"
            yield Check("queue", False, f"{name} holds what failed on every attempt, messages: {found.visible}. {cure}")
        elif url == there.request_queue_url and found.dead_letter_queue != _tail(there.dead_letter_queue_url):
            yield Check(
                "queue", False, f"failures of {name} do not go to {_tail(there.dead_letter_queue_url)}: faceq deploy"
            )
        else:
            yield Check("queue", True, f"{name}: {found.visible} waiting, {found.in_flight} in flight")


def _gallery(aws: "boto3.Session", there: Deployed) -> Iterator[Check]:
    if not there.gallery:
        yield Check("gallery", None, "the stack has none, so everybody is Unknown")
        return
    found = _if_there(
        lambda: aws.client("s3").head_object(Bucket=there.gallery, Key=GALLERY_PREFIX + MANIFEST), "404", "NoSuchKey"
    )
    where = f"s3://{there.gallery}/{GALLERY_PREFIX}"
    if found is None:
        yield Check("gallery", None, f"none in {where}, so everybody is Unknown: faceq people push")
    else:
        yield Check("gallery", True, f"{where}, changed {found['LastModified']:%Y-%m-%d %H:%M} UTC")


def _permissions(aws: "boto3.Session", there: Deployed) -> Iterator[Check]:
    sqs = aws.client("sqs")
    queues = {url: _arn(sqs, url) for url in (there.request_queue_url, there.response_queue_url)}
    iam = aws.client("iam")
    for name in (DETECTION, RECOGNITION):
        found = _function(aws, name)
        if found is not None:
            yield from permissions(iam, name, found["Configuration"], queues, there)


def permissions(
    iam: "BaseClient", name: str, configuration: Mapping[str, Any], queues: Mapping[str, str], there: Deployed
) -> Iterator[Check]:
    """Let IAM say whether the role of function `name` may make each call that the function makes.

    Parameters
    ----------
    configuration : Mapping
        The function's, as GetFunction gives it.
    queues : Mapping of str to str
        The queues' ARNs by their URLs.

    """
    from botocore.exceptions import ClientError

    denied: list[str] = []
    count = 0
    for calls in needed(name, configuration, queues, there):
        context = [
            {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
            for key, value in calls.context.items()
        ]
        try:
            results = iam.simulate_principal_policy(
                PolicySourceArn=configuration["Role"],
                ActionNames=list(calls.actions),
                ResourceArns=[calls.resource],
                ContextEntries=context,
            )["EvaluationResults"]
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"AccessDenied", "AccessDeniedException"}:
                raise
            yield Check("permissions", None, f"of {name}: not looked at, you lack iam:SimulatePrincipalPolicy")
            return
        count += len(results)
        denied += [
            f"{result['EvalActionName']} on {calls.resource} ({result['EvalDecision']})"
            for result in results
            if result["EvalDecision"] != "allowed"
        ]
    for what in denied:
        yield Check("permissions", False, f"{name} lacks {what}: faceq deploy")
    if not denied:
        yield Check("permissions", True, f"{name}'s role allows each of the {count} calls that it makes")


def needed(name: str, configuration: Mapping[str, Any], queues: Mapping[str, str], there: Deployed) -> Iterator[Calls]:
    """Yield the calls that function `name` makes, or that Lambda makes with its role."""
    request, response = queues[there.request_queue_url], queues[there.response_queue_url]
    _, partition, _, _, account_id, *_ = str(configuration["Role"]).split(":")
    if name == DETECTION:
        yield Calls(("sqs:SendMessage",), request, {})
    else:
        yield Calls(("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"), request, {})
    yield Calls(("sqs:SendMessage",), response, {})
    stream = f"arn:{partition}:logs:{there.region}:{account_id}:log-group:/aws/lambda/{name}:log-stream:any"
    yield Calls(("logs:CreateLogStream", "logs:PutLogEvents"), stream, {})
    if name == RECOGNITION and there.gallery:
        bucket = f"arn:{partition}:s3:::{there.gallery}"
        yield Calls(("s3:GetObject",), f"{bucket}/{GALLERY_PREFIX}{MANIFEST}", {})
        yield Calls(("s3:ListBucket",), bucket, {"s3:prefix": GALLERY_PREFIX + MANIFEST})
    if configuration.get("VpcConfig", {}).get("SubnetIds"):
        yield Calls(_VPC_ACTIONS, "*", {})
    if configuration.get("KMSKeyArn"):
        yield Calls(("kms:Decrypt", "kms:GenerateDataKey"), configuration["KMSKeyArn"], {})


def _if_there(look: Callable[[], _Found], *codes: str) -> _Found | None:
    """Return what is found; None if AWS says by one of these codes that it is not there."""
    from botocore.exceptions import ClientError

    try:
        return look()
    except ClientError as error:
        if error.response["Error"]["Code"] not in codes:
            raise
        return None


def _function(aws: "boto3.Session", name: str) -> dict[str, Any] | None:
    client = aws.client("lambda")
    return _if_there(lambda: client.get_function(FunctionName=name, Qualifier=ALIAS), "ResourceNotFoundException")


def _arn(sqs: "BaseClient", url: str) -> str:
    return str(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])


def _tail(url: str) -> str:
    """Return the name of a queue."""
    return url.rsplit("/", 1)[-1]


def _name(function_arn: str) -> str:
    """Return the name of a function, without the version or alias behind it."""
    return function_arn.split(":")[6]
