"""The checks of `faceq doctor --target aws`: the stack, its functions, what calls them, and what they may do.

Every check only reads; none changes anything.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from adapters.artifacts_s3 import PREFIX
from adapters.aws_errors import translated_aws_errors
from adapters.settings import FACEQ_GALLERY
from client.checks import Check
from client.cloudwatch_logs import log_group
from client.deployed_stack import ALIAS, Deployed, account, deployed, session
from client.queue_operations import depths, queue_name
from pipeline.errors import FaceqError
from pipeline.gallery_storage import MANIFEST
from template.model import EventSourceMapping, ServiceTemplate
from template.permissions import ON_INTERFACES, WITHOUT_RESOURCES
from template.reader import TEMPLATE_FILE, read_service
from template.resources import QUEUE, Template
from template.values import Symbol, Value

if TYPE_CHECKING:
    import boto3
    from botocore.client import BaseClient

_T = TypeVar("_T")

#: Statuses of a stack whose resources are as its template says.
#: (CloudFormation user guide, "Stack status codes")
_COMPLETE: Final = frozenset(
    {"CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"}
)
#: Error codes for a queue that does not exist, in SQS's query protocol and in its JSON protocol.
_NO_QUEUE: Final = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")
_NOT_FOUND: Final = "ResourceNotFoundException"
_GALLERY_FOLDER: Final = f"{PREFIX}/"
#: What a function's role needs, on any resource, so that Lambda can attach the function to a VPC.
VPC_ACTIONS: Final = tuple(sorted(WITHOUT_RESOURCES | ON_INTERFACES))
#: What everyone must be allowed if a function URL is public, since October 2025. (Lambda developer guide, "Control
#: access to Lambda function URLs")
_PUBLIC_ACTIONS: Final = frozenset({"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"})


@dataclass(frozen=True)
class NeededActions:
    """Actions that a role needs on a resource.

    Parameters
    ----------
    actions : tuple of str
        In IAM's notation, such as `sqs:SendMessage`.
    resource : str
        ARN, or `*`.
    context : Mapping of str to str
        Values of the condition keys that IAM sees with these calls, by key.

    """

    actions: tuple[str, ...]
    resource: str
    context: Mapping[str, str]


def checks(stack: str, region: str | None, profile: str | None) -> Iterator[Check]:
    """Check a stack on AWS. If AWS refuses a call, yield a failed check with the reason.

    Raises BadInput as `session` does.
    """
    aws = session(region, profile)
    try:
        identity = account(aws)
        yield Check("identity", True, f"{identity.arn}, in {identity.region}")
        target = deployed(aws, stack)
    except FaceqError as error:  # nothing else can be checked
        yield Check("aws", False, error.message)
        return
    groups: dict[str, Callable[[], Iterator[Check]]] = {
        "stack": lambda: stack_checks(aws.client("cloudformation"), target),
        "functions": lambda: function_checks(aws.client("lambda"), target),
        "url": lambda: url_checks(aws.client("lambda"), target),
        "mappings": lambda: trigger_checks(aws.client("lambda"), aws.client("sqs"), target),
        "queues": lambda: queue_checks(aws.client("sqs"), target),
        "gallery": lambda: gallery_checks(aws.client("s3"), target),
        "permissions": lambda: permission_checks(aws, target),
    }
    for name, group in groups.items():
        try:
            with translated_aws_errors():
                yield from group()
        except FaceqError as error:
            yield Check(name, False, error.message)


@cache
def described_service(target: Deployed) -> ServiceTemplate:
    """Return the service that deploy/template.yaml describes, with the names and queue URLs of the deployed stack."""
    folder = target.request_queue_url.rpartition("/")[0]

    def created(symbol: Symbol, kind: str, name: str) -> Value:
        return f"{folder}/{name}" if kind == QUEUE and not symbol.attribute else symbol

    parameters = {"Prefix": target.stack, "Gallery": target.gallery}
    return read_service(Template(TEMPLATE_FILE.read_text(), parameters, created))


def stack_checks(cloudformation: "BaseClient", target: Deployed) -> Iterator[Check]:
    """Check the status of the stack."""
    (description,) = cloudformation.describe_stacks(StackName=target.stack)["Stacks"]
    status = str(description["StackStatus"])
    if status in _COMPLETE:
        yield Check("stack", True, f"{target.stack} is {status}")
    elif status == "UPDATE_ROLLBACK_COMPLETE":
        yield Check("stack", None, f"{target.stack} went back to the previous release: faceq deploy history")
    elif status.endswith("_IN_PROGRESS"):
        yield Check("stack", None, f"{target.stack} is {status}; wait for it: faceq deploy status")
    else:
        yield Check("stack", False, f"{target.stack} is {status}: faceq deploy")


def function_checks(lambda_client: "BaseClient", target: Deployed) -> Iterator[Check]:
    """Check that all functions can be called, and run the same image."""
    images: dict[str, str] = {}
    for name in described_service(target).functions:
        function = _function(lambda_client, name)
        if function is None:
            yield Check(name, False, f"the function {name} with the alias {ALIAS} does not exist: faceq deploy")
            continue
        configuration = function["Configuration"]
        code = function.get("Code", {})
        images[name] = code.get("ResolvedImageUri", code.get("ImageUri", ""))
        state = configuration.get("State", "Active")
        update = configuration.get("LastUpdateStatus", "Successful")
        reason = configuration.get("StateReason") or configuration.get("LastUpdateStatusReason") or ""
        # Inactive: not called for weeks; the next call wakes it. (Lambda developer guide, "Lambda function states")
        passed = state in {"Active", "Inactive"} and update == "Successful"
        size = f"version {configuration['Version']}, {configuration['MemorySize']} MB, {configuration['Timeout']} s"
        problem = "" if passed else f". {reason or 'It cannot be called yet'}: faceq deploy status"
        yield Check(name, passed, f"{state}, last update {update}, {size}{problem}")
    if len(images) > 1:
        digests = {uri.partition("@")[2] or uri for uri in images.values()}
        same = len(digests) == 1
        names = " and ".join(sorted(digests))
        yield Check("image", same, f"all run {names}" if same else f"they run different images, {names}: faceq deploy")


def url_checks(lambda_client: "BaseClient", target: Deployed) -> Iterator[Check]:
    """Check that the function URL is the stack's, and who may post to it."""
    function = described_service(target).function_urls[0].function
    url = _or_none(
        lambda: lambda_client.get_function_url_config(FunctionName=function, Qualifier=ALIAS),
        _NOT_FOUND,
    )
    if url is None:
        yield Check("url", False, f"the alias {ALIAS} of {function} has no function URL: faceq deploy")
        return
    address, auth_type = str(url["FunctionUrl"]), str(url["AuthType"])
    if address != target.function_url or auth_type != target.auth_type:
        yield Check("url", False, f"it is {address} ({auth_type}), the stack says otherwise: faceq deploy")
    elif auth_type == "AWS_IAM":
        yield Check("url", True, f"{address} accepts signed frames only")
    elif missing := _PUBLIC_ACTIONS - _actions_allowed_to_everyone(lambda_client, function):
        yield Check("url", False, f"it is public, but its policy lacks {' and '.join(sorted(missing))}: faceq deploy")
    else:
        yield Check("url", None, f"{address} accepts frames from anyone, at your cost")


def _actions_allowed_to_everyone(lambda_client: "BaseClient", function: str) -> set[str]:
    """Return the actions that the policy of the function's alias allows to everyone."""
    policy = _or_none(
        lambda: lambda_client.get_policy(FunctionName=function, Qualifier=ALIAS)["Policy"],
        _NOT_FOUND,
    )
    statements = json.loads(policy)["Statement"] if policy is not None else []
    return {statement["Action"] for statement in statements if statement["Principal"] in ("*", {"AWS": "*"})}


def trigger_checks(lambda_client: "BaseClient", sqs: "BaseClient", target: Deployed) -> Iterator[Check]:
    """Check the event source mappings: each queue calls the function that the template names, and no other."""
    pages = lambda_client.get_paginator("list_event_source_mappings")

    def mappings_of(queue_url: str) -> list[dict[str, Any]]:
        return [
            mapping
            for page in pages.paginate(EventSourceArn=_queue_arn(sqs, queue_url))
            for mapping in page["EventSourceMappings"]
        ]

    service = described_service(target)
    foreign = mappings_of(target.response_queue_url)
    for wanted in service.event_source_mappings:
        existing = mappings_of(wanted.queue_url)
        ours = [mapping for mapping in existing if _function_name(mapping["FunctionArn"]) == wanted.function]
        foreign += [mapping for mapping in existing if mapping not in ours]
        if not ours:
            yield Check("trigger", False, f"{wanted.queue} does not call {wanted.function}: faceq deploy")
        for mapping in ours:
            yield _mapping_check(mapping, wanted)
    for mapping in foreign:
        queue, function = mapping["EventSourceArn"].rsplit(":", 1)[-1], _function_name(mapping["FunctionArn"])
        loop = ", and its answers may come back to that queue without end" if function in service.functions else ""
        fix = f"aws lambda delete-event-source-mapping --uuid {mapping['UUID']}"
        yield Check("trigger", False, f"{queue} also calls {function}, which takes messages from others{loop}: {fix}")


def _mapping_check(mapping: Mapping[str, Any], wanted: EventSourceMapping) -> Check:
    state, last_result = str(mapping["State"]), str(mapping.get("LastProcessingResult", ""))
    if state in {"Disabled", "Disabling"}:
        fix = f"aws lambda update-event-source-mapping --uuid {mapping['UUID']} --enabled"
        return Check(
            "trigger", False, f"the event source mapping from {wanted.queue} to {wanted.function} is disabled: {fix}"
        )
    if last_result.startswith("PROBLEM"):
        fix = f"faceq deploy logs --function {wanted.function}"
        return Check("trigger", False, f"{state}, but {last_result}: {fix}")
    return Check("trigger", state == "Enabled" or None, f"{wanted.queue} calls {wanted.function}, {state}")


def queue_checks(sqs: "BaseClient", target: Deployed) -> Iterator[Check]:
    """Check that the queues exist, that failures go where the template says, and that none failed on every attempt."""
    service = described_service(target)
    redrives = {queue.name: queue.redrive for queue in service.queues.values()}
    sources = [mapping.queue_url for mapping in service.event_source_mappings]
    for url in (*sources, target.response_queue_url, target.dead_letter_queue_url):
        name = queue_name(url)
        depth = _or_none(lambda url=url: depths(sqs, [url])[0], *_NO_QUEUE)  # type: ignore[misc] # lambda's default
        if depth is None:
            yield Check("queue", False, f"the queue {name} does not exist: faceq deploy")
        elif url == target.dead_letter_queue_url and depth.visible:
            fix = f"faceq queues peek {name} --target aws, then faceq queues redrive {name} --target aws"
            yield Check("queue", False, f"{name} has messages that failed on every attempt ({depth.visible}): {fix}")
        elif (redrive := redrives.get(name)) is not None and depth.dead_letter_queue != redrive.dead_letter_queue:
            yield Check(
                "queue", False, f"messages of {name} that fail do not go to {redrive.dead_letter_queue}: faceq deploy"
            )
        else:
            yield Check("queue", True, f"{name}: {depth.visible} waiting, {depth.in_flight} in flight")


def gallery_checks(s3: "BaseClient", target: Deployed) -> Iterator[Check]:
    """Check that the bucket has a gallery."""
    if not target.gallery:
        yield Check("gallery", None, "the stack has none, so every face is Unknown")
        return
    manifest = _or_none(
        lambda: s3.head_object(Bucket=target.gallery, Key=f"{_GALLERY_FOLDER}{MANIFEST}"), "404", "NoSuchKey"
    )
    folder = f"s3://{target.gallery}/{_GALLERY_FOLDER}"
    if manifest is None:
        yield Check("gallery", None, f"none in {folder}, so every face is Unknown: faceq people push")
    else:
        yield Check("gallery", True, f"{folder}, changed {manifest['LastModified']:%Y-%m-%d %H:%M} UTC")


def permission_checks(aws: "boto3.Session", target: Deployed) -> Iterator[Check]:
    """Check the roles of all functions."""
    iam, lambda_client = aws.client("iam"), aws.client("lambda")
    for name in described_service(target).functions:
        function = _function(lambda_client, name)
        if function is not None:
            yield from role_checks(iam, name, function["Configuration"], target)


def role_checks(iam: "BaseClient", name: str, configuration: Mapping[str, Any], target: Deployed) -> Iterator[Check]:
    """Ask IAM whether the role of function `name` allows each call that the function makes.

    Parameters
    ----------
    configuration : Mapping
        The function's, as GetFunction returns it.

    """
    from botocore.exceptions import ClientError

    denied: list[str] = []
    count = 0
    for needed in needed_actions(name, configuration, target):
        context = [
            {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
            for key, value in needed.context.items()
        ]
        try:
            results = iam.simulate_principal_policy(
                PolicySourceArn=configuration["Role"],
                ActionNames=list(needed.actions),
                ResourceArns=[needed.resource],
                ContextEntries=context,
            )["EvaluationResults"]
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"AccessDenied", "AccessDeniedException"}:
                raise
            yield Check("permissions", None, f"of {name}: not checked, because you lack iam:SimulatePrincipalPolicy")
            return
        count += len(results)
        denied += [
            f"{result['EvalActionName']} on {needed.resource} ({result['EvalDecision']})"
            for result in results
            if result["EvalDecision"] != "allowed"
        ]
    for missing in denied:
        yield Check("permissions", False, f"{name} lacks {missing}: faceq deploy")
    if not denied:
        yield Check("permissions", True, f"{name}'s role allows each of the {count} calls that it makes")


def needed_actions(name: str, configuration: Mapping[str, Any], target: Deployed) -> Iterator[NeededActions]:
    """Yield the actions that function `name` needs, and those that Lambda needs from the function's role.

    The function sends to the queues whose URLs are among its variables. Lambda receives from those that call it. To
    such a queue the function gives messages back if it has the queue's URL.
    """
    service = described_service(target)
    _, partition, _, _, account_id, *_ = str(configuration["Role"]).split(":")

    def queue_arn(url: str) -> str:
        return f"arn:{partition}:sqs:{target.region}:{account_id}:{queue_name(url)}"

    calling_queues = set()
    for mapping in service.event_source_mappings:
        if mapping.function == name:
            calling_queues.add(mapping.queue)
            actions = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
            yield NeededActions(actions, queue_arn(mapping.queue_url), {})
    variables = service.functions[name].environment
    for variable, value in variables.items():
        if variable.endswith("_QUEUE_URL"):
            # A function does not send to a queue that calls it; it gives messages back to that queue.
            action = "sqs:ChangeMessageVisibility" if queue_name(value) in calling_queues else "sqs:SendMessage"
            yield NeededActions((action,), queue_arn(value), {})
    stream = f"arn:{partition}:logs:{target.region}:{account_id}:log-group:{log_group(name)}:log-stream:any"
    yield NeededActions(("logs:CreateLogStream", "logs:PutLogEvents"), stream, {})
    if FACEQ_GALLERY in variables:
        bucket = f"arn:{partition}:s3:::{target.gallery}"
        yield NeededActions(("s3:GetObject",), f"{bucket}/{_GALLERY_FOLDER}{MANIFEST}", {})
        yield NeededActions(("s3:ListBucket",), bucket, {"s3:prefix": _GALLERY_FOLDER + MANIFEST})
    if configuration.get("VpcConfig", {}).get("SubnetIds"):
        yield NeededActions(VPC_ACTIONS, "*", {})
    if configuration.get("KMSKeyArn"):
        yield NeededActions(("kms:Decrypt", "kms:GenerateDataKey"), configuration["KMSKeyArn"], {})


def _or_none(call: Callable[[], _T], *codes: str) -> _T | None:
    """Return the result of a call to AWS; None if AWS answers with one of these error codes."""
    from botocore.exceptions import ClientError

    try:
        return call()
    except ClientError as error:
        if error.response["Error"]["Code"] not in codes:
            raise
        return None


def _function(lambda_client: "BaseClient", name: str) -> dict[str, Any] | None:
    return _or_none(lambda: lambda_client.get_function(FunctionName=name, Qualifier=ALIAS), _NOT_FOUND)


def _queue_arn(sqs: "BaseClient", url: str) -> str:
    return str(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])


def _function_name(arn: str) -> str:
    """Return the name of a function from its ARN, without version or alias."""
    return arn.split(":")[6]
