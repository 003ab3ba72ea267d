"""Describe functions, URLs, mappings and permissions of the template in the JSON of the Lambda API.

The names and formats are those of the Lambda API reference, data types FunctionConfiguration, FunctionCodeLocation,
FunctionUrlConfig and EventSourceMappingConfiguration. Which fields AWS sends for a function from an image, and their
defaults, is as recorded on AWS (LocalStack, `test_lambda_api.snapshot.json`). Fields whose value only AWS knows
(CodeSize, RevisionId, the digest of an image given by tag, ...) are left out.
"""

import json
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from template.model import EventSourceMapping, Function, FunctionUrl, Permission
from template.values import Value

#: Fields that ListFunctions does not send. (Lambda API reference, ListFunctions)
_NOT_LISTED: Final = ("State", "LastUpdateStatus")

#: Operator and key of a policy's condition, by the property of AWS::Lambda::Permission that sets it. (Recorded on AWS;
#: the last: Lambda developer guide, "Control access to Lambda function URLs")
_CONDITIONS: Final = {
    "SourceArn": ("ArnLike", "AWS:SourceArn"),
    "SourceAccount": ("StringEquals", "AWS:SourceAccount"),
    "PrincipalOrgID": ("StringEquals", "aws:PrincipalOrgID"),
    "EventSourceToken": ("StringEquals", "lambda:EventSourceToken"),
    "FunctionUrlAuthType": ("StringEquals", "lambda:FunctionUrlAuthType"),
    "InvokedViaFunctionUrl": ("Bool", "lambda:InvokedViaFunctionUrl"),
}


def function_configuration(function: Function, arn: str, modified: datetime) -> dict[str, Value]:
    """Return FunctionConfiguration, as GetFunctionConfiguration sends it.

    Parameters
    ----------
    function : Function
    arn : str
        Qualified if the request is.
    modified : datetime
        The value of `LastModified`.

    """
    properties = function.unplayed_properties
    digest = _digest(function)
    logging = properties.get("LoggingConfig", {})
    fields: dict[str, Value] = {
        "FunctionName": function.name,
        "FunctionArn": arn,
        "Role": properties.get("Role"),
        "CodeSha256": digest,  # of an image: its digest
        "Description": properties.get("Description", ""),
        "Timeout": function.timeout_seconds,
        "MemorySize": function.memory_mb,
        "LastModified": timestamp(modified),
        "Version": "$LATEST",
        "Environment": {"Variables": dict(function.environment)} if function.environment else None,
        "KMSKeyArn": properties.get("KmsKeyArn"),
        "TracingConfig": properties.get("TracingConfig", {"Mode": "PassThrough"}),
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "PackageType": "Image",
        "ImageConfigResponse": {"ImageConfig": {"Command": [function.handler]}},
        "Architectures": properties.get("Architectures", ["x86_64"]),
        "EphemeralStorage": properties.get("EphemeralStorage", {"Size": 512}),
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{function.name}", **logging}
        if isinstance(logging, dict)
        else None,
    }
    return _without_none(fields)


def function_summary(function: Function, arn: str, modified: datetime) -> dict[str, Value]:
    """Return FunctionConfiguration, as ListFunctions sends it; with the parameters of `function_configuration`."""
    fields = function_configuration(function, arn, modified)
    return {name: value for name, value in fields.items() if name not in _NOT_LISTED}


def function_description(function: Function, arn: str, modified: datetime) -> dict[str, Value]:
    """Return what GetFunction sends; with the parameters of `function_configuration`."""
    image, digest = _image(function), _digest(function)
    reserved = function.reserved_concurrency
    fields: dict[str, Value] = {
        "Configuration": function_configuration(function, arn, modified),
        "Code": _without_none(
            {"RepositoryType": "ECR", "ImageUri": image, "ResolvedImageUri": image if digest is not None else None}
        ),
        "Tags": _tags(function),
        "Concurrency": {"ReservedConcurrentExecutions": reserved} if reserved is not None else None,
    }
    return _without_none(fields)


def url_configuration(url: FunctionUrl, address: str, arn: str, modified: datetime) -> dict[str, Value]:
    """Return FunctionUrlConfig.

    Parameters
    ----------
    url : FunctionUrl
    address : str
        The URL on this machine.
    arn : str
        The ARN of its function.
    modified : datetime
        The values of `CreationTime` and `LastModifiedTime`.

    """
    fields: dict[str, Value] = {
        "FunctionUrl": address,
        "FunctionArn": arn,
        "AuthType": url.auth_type,
        "Cors": url.unplayed_properties.get("Cors"),
        "CreationTime": timestamp(modified),
        "LastModifiedTime": timestamp(modified),
        "InvokeMode": "BUFFERED",
    }
    return _without_none(fields)


def mapping_configuration(mapping: EventSourceMapping, account: str, modified: datetime) -> dict[str, Value]:
    """Return EventSourceMappingConfiguration.

    Parameters
    ----------
    mapping : EventSourceMapping
    account : str
        The account in its ARNs.
    modified : datetime
        The value of `LastModified`, which this data type has as a number: seconds since 1970.

    """
    prefix = f"arn:aws:lambda:{mapping.region}:{account}"
    # AWS chooses it at random. Here it follows from the template, so that a script can rely on it.
    identifier = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{prefix}:event-source-mapping:{mapping.logical_id}"))
    most = mapping.maximum_concurrency
    fields: dict[str, Value] = {
        "UUID": identifier,
        "EventSourceMappingArn": f"{prefix}:event-source-mapping:{identifier}",
        "EventSourceArn": mapping.queue_arn,
        "FunctionArn": f"{prefix}:function:{mapping.function}",
        "BatchSize": mapping.batch_size,
        "MaximumBatchingWindowInSeconds": mapping.window_seconds,
        "FunctionResponseTypes": ["ReportBatchItemFailures"] if mapping.report_batch_item_failures else [],
        "ScalingConfig": {"MaximumConcurrency": most} if most is not None else None,
        "State": "Enabled" if mapping.enabled else "Disabled",
        "StateTransitionReason": "USER_INITIATED",
        "LastModified": round(modified.timestamp(), 3),
    }
    return _without_none(fields)


def policy(permissions: Iterable[Permission], arn: str) -> str:
    """Return the resource policy of the function `arn` as GetPolicy sends it, a string of JSON."""
    statements = [_statement(permission, arn) for permission in permissions]
    return json.dumps({"Version": "2012-10-17", "Id": "default", "Statement": statements})


def timestamp(moment: datetime) -> str:
    """Return a time in the API's text format: `2026-11-25T01:02:03.000+0000`."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}+0000"


def _statement(permission: Permission, arn: str) -> dict[str, Value]:
    conditions: dict[str, dict[str, Value]] = {}
    for name, value in permission.conditions.items():
        operator, key = _CONDITIONS[name]
        conditions.setdefault(operator, {})[key] = value
    return _without_none(
        {
            "Sid": permission.logical_id,  # CloudFormation generates a longer name from it
            "Effect": "Allow",
            "Principal": _principal(permission.principal),
            "Action": permission.action,
            "Resource": arn,
            "Condition": dict(conditions) or None,
        }
    )


def _principal(principal: str) -> Value:
    """Return the policy's principal for an account, an ARN, a service or everybody (recorded on AWS)."""
    if principal == "*":
        return principal
    if re.fullmatch(r"\d{12}", principal):
        return {"AWS": f"arn:aws:iam::{principal}:root"}
    return {"AWS" if principal.startswith("arn:") else "Service": principal}


def _tags(function: Function) -> Value:
    tags = function.unplayed_properties.get("Tags")
    if not isinstance(tags, list):
        return None
    return {str(tag["Key"]): tag["Value"] for tag in tags if isinstance(tag, dict)}


def _image(function: Function) -> str | None:
    code = function.unplayed_properties.get("Code")
    image = code.get("ImageUri") if isinstance(code, dict) else None
    return image if isinstance(image, str) else None


def _digest(function: Function) -> str | None:
    """Return the image's SHA-256 in hexadecimal if its URI has it; only the registry can resolve a tag."""
    match = re.search(r"@sha256:([0-9a-f]{64})$", _image(function) or "")
    return match[1] if match else None


def _without_none(fields: dict[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in fields.items() if value is not None}
