"""Creating, updating and deleting each type of resource. Types and operations that are not here are moto's own."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moto.awslambda.models import FunctionUrlConfig, LambdaBackend, LambdaFunction, lambda_backends
from moto.cloudwatch.models import cloudwatch_backends
from moto.ecr.models import Repository, ecr_backends
from moto.iam.models import Role, iam_backends
from moto.logs.models import LogGroup, logs_backends
from moto.s3.models import FakeBucket, s3_backends
from moto.sqs.models import Queue, sqs_backends

from tests.deploy.fake_aws.controls import CONTROLS, ResourceError, handler_message
from tests.deploy.fake_aws.repositories import forget, sync


class OwnResource:
    """A resource that moto's CloudFormation does not know."""

    def __init__(self, physical_resource_id: str, **attributes: str) -> None:
        self.physical_resource_id = physical_resource_id
        self.attributes = attributes

    def get_cfn_attribute(self, name: str) -> str:
        return self.attributes[name]

    def is_created(self) -> bool:
        return True


@dataclass(frozen=True)
class Location:
    account: str
    region: str


Properties = dict[str, Any]


def _functions(location: Location) -> LambdaBackend:
    return lambda_backends[location.account][location.region]


def _configure(function: LambdaFunction, properties: Properties) -> None:
    """Set the properties that moto ignores, with CloudFormation's defaults for those not in the template."""
    function.code = dict(function.code)
    function.environment_vars = {
        name: str(value) for name, value in properties.get("Environment", {}).get("Variables", {}).items()
    }
    function.memory_size = int(properties.get("MemorySize", 128))
    function.timeout = int(properties.get("Timeout", 3))
    function.description = properties.get("Description", "")
    function.role = properties["Role"]
    function.package_type = properties.get("PackageType", "Zip")
    function.architectures = properties.get("Architectures", ["x86_64"])
    function.kms_key_arn = properties.get("KmsKeyArn")
    function.reserved_concurrency = properties.get("ReservedConcurrentExecutions")
    function._vpc_config = properties.get("VpcConfig")
    function.image_config.cmd = properties.get("ImageConfig", {}).get("Command", [])
    function.logging_config = {"LogFormat": "Text", **properties.get("LoggingConfig", {})}
    function.code_or_config_updated = True


def create_function(location: Location, name: str, properties: Properties) -> LambdaFunction:
    if name in _functions(location)._lambdas._functions:
        raise ResourceError(handler_message(f"{name} already exists", "AlreadyExists"))
    function = LambdaFunction.create_from_cloudformation_json(
        name, {"Properties": properties}, location.account, location.region
    )
    _configure(function, properties)
    return function


def update_function(location: Location, function: LambdaFunction, properties: Properties) -> LambdaFunction:
    # Published versions share this dictionary with the function.
    function.code = dict(function.code)
    function.update_function_code(properties["Code"])
    _configure(function, properties)
    return function


def create_version(location: Location, name: str, properties: Properties) -> OwnResource:
    function = _functions(location).get_function(properties["FunctionName"])
    last = getattr(function, "last_version", 0)
    if last and not function.code_or_config_updated:
        raise ResourceError(
            handler_message(
                f"A version for this Lambda function exists ( {last} ). Modify the function to create a new version.",
                "AlreadyExists",
            )
        )
    function.code_or_config_updated = True
    version = _functions(location).publish_version(function.function_name, properties.get("Description", ""))
    function.code_or_config_updated = False
    function.last_version = last + 1  # AWS never reuses a number; moto counts the existing versions
    version.set_version(function.last_version)
    return OwnResource(version.function_arn, Version=str(version.version), FunctionArn=version.function_arn)


def delete_version(location: Location, version: OwnResource) -> None:
    name = version.physical_resource_id.split(":")[-2]
    versions = _functions(location)._lambdas._functions[name]["versions"]
    versions[:] = [one for one in versions if str(one.version) != version.attributes["Version"]]


def create_alias(location: Location, name: str, properties: Properties) -> OwnResource:
    alias = _functions(location).create_alias(
        properties["Name"], properties["FunctionName"], properties["FunctionVersion"], "", ""
    )
    made = OwnResource(alias.arn, AliasArn=alias.arn)
    _provision(location, properties)
    return made


def update_alias(location: Location, alias: OwnResource, properties: Properties) -> OwnResource:
    _functions(location).update_alias(
        properties["Name"], properties["FunctionName"], properties["FunctionVersion"], "", ""
    )
    _provision(location, properties)
    return alias


def _provision(location: Location, properties: Properties) -> None:
    function = _functions(location).get_function(properties["FunctionName"])
    function.provisioned = properties.get("ProvisionedConcurrencyConfig", {})


def delete_alias(location: Location, alias: OwnResource) -> None:
    function, name = alias.physical_resource_id.split(":")[-2:]
    _functions(location).delete_alias(name, function)


def create_url(location: Location, name: str, properties: Properties) -> OwnResource:
    function = _functions(location).get_function(properties["TargetFunctionArn"])
    config = function.create_url_config({"AuthType": properties["AuthType"]})
    config.url = CONTROLS.url
    config.qualifier = properties.get("Qualifier", "$LATEST")
    arn = ":".join(filter(None, [function.function_arn, properties.get("Qualifier")]))
    return OwnResource(arn, FunctionUrl=config.url, FunctionArn=arn)


def update_url(location: Location, url: OwnResource, properties: Properties) -> OwnResource:
    _functions(location).get_function(properties["TargetFunctionArn"]).url_config.update(
        {"AuthType": properties["AuthType"]}
    )
    return url


def delete_url(location: Location, url: OwnResource) -> None:
    _functions(location).get_function(url.physical_resource_id.split(":")[6]).delete_url_config()


def create_permission(location: Location, name: str, properties: Properties) -> OwnResource:
    arn = properties["FunctionName"]
    function = _functions(location).get_function(arn.split(":")[6] if arn.startswith("arn:") else arn.split(":")[0])
    sid = name[:100]
    function.policy.statements.append(
        {
            "Sid": sid,
            "Effect": "Allow",
            "Principal": properties["Principal"],
            "Action": properties["Action"],
            "Resource": arn if arn.startswith("arn:") else function.function_arn,
            "Condition": _permission_condition(properties),
        }
    )
    return OwnResource(sid, Id=sid, function=function.function_name)


def _permission_condition(properties: Properties) -> dict[str, Any]:
    condition: dict[str, Any] = {}
    if "FunctionUrlAuthType" in properties:
        condition["StringEquals"] = {"lambda:FunctionUrlAuthType": properties["FunctionUrlAuthType"]}
    if "InvokedViaFunctionUrl" in properties:
        condition["Bool"] = {"lambda:InvokedViaFunctionUrl": str(properties["InvokedViaFunctionUrl"]).lower()}
    return condition


def delete_permission(location: Location, permission: OwnResource) -> None:
    policy = _functions(location).get_function(permission.attributes["function"]).policy
    policy.statements = [one for one in policy.statements if one.get("Sid") != permission.physical_resource_id]


def create_alarm(location: Location, name: str, properties: Properties) -> OwnResource:
    name = properties.get("AlarmName", name)
    cloudwatch_backends[location.account][location.region].put_metric_alarm(
        name=name,
        namespace=properties["Namespace"],
        metric_name=properties["MetricName"],
        comparison_operator=properties["ComparisonOperator"],
        evaluation_periods=properties["EvaluationPeriods"],
        period=properties["Period"],
        threshold=float(properties["Threshold"]),
        statistic=properties["Statistic"],
        description=properties.get("AlarmDescription", ""),
        dimensions=properties.get("Dimensions", []),
        alarm_actions=properties.get("AlarmActions", []),
        treat_missing_data=properties.get("TreatMissingData"),
    )
    return OwnResource(name, Arn=f"arn:aws:cloudwatch:{location.region}:{location.account}:alarm:{name}")


def update_alarm(location: Location, alarm: OwnResource, properties: Properties) -> OwnResource:
    return create_alarm(location, alarm.physical_resource_id, properties)


def delete_alarm(location: Location, alarm: OwnResource) -> None:
    cloudwatch_backends[location.account][location.region].delete_alarms([alarm.physical_resource_id])


def update_queue(location: Location, queue: Queue, properties: Properties) -> Queue:
    attributes = {name: value for name, value in properties.items() if name not in ("QueueName", "Tags")}
    sqs_backends[location.account][location.region].set_queue_attributes(queue.name, attributes)
    return queue


def create_role(location: Location, name: str, properties: Properties) -> Any:
    name = properties.get("RoleName", name)
    return Role.create_from_cloudformation_json(name, {"Properties": properties}, location.account, location.region)


def update_role(location: Location, role: Any, properties: Properties) -> Any:
    role.assume_role_policy_document = json.dumps(properties["AssumeRolePolicyDocument"])
    for name in list(role.policies):
        role.delete_policy(name)
    for policy in properties.get("Policies", []):
        role.put_policy(policy["PolicyName"], json.dumps(policy["PolicyDocument"]))
    return role


def delete_role(location: Location, role: Any) -> None:
    backend = iam_backends[location.account]["aws"]
    for name in list(role.policies):
        role.delete_policy(name)
    backend.delete_role(role.name)


def update_log_group(location: Location, group: LogGroup, properties: Properties) -> LogGroup:
    logs_backends[location.account][location.region].put_retention_policy(group.name, properties.get("RetentionInDays"))
    return group


def create_repository(location: Location, name: str, properties: Properties) -> Repository:
    made = Repository.create_from_cloudformation_json(
        name, {"Properties": properties}, location.account, location.region
    )
    return update_repository(location, made, properties)


def update_repository(location: Location, repository: Repository, properties: Properties) -> Repository:
    repository.image_scanning_configuration = {
        "scanOnPush": properties.get("ImageScanningConfiguration", {}).get("ScanOnPush", False)
    }
    repository.image_tag_mutability = properties.get("ImageTagMutability", "MUTABLE")
    repository.empty_on_delete = bool(properties.get("EmptyOnDelete"))
    text = properties.get("LifecyclePolicy", {}).get("LifecyclePolicyText")
    if text is not None:
        ecr_backends[location.account][location.region].put_lifecycle_policy(None, repository.name, text)
    return repository


def delete_repository(location: Location, repository: Repository) -> None:
    sync(repository)
    if repository.images and not repository.empty_on_delete:
        raise ResourceError(
            handler_message(
                f"The repository with name '{repository.name}' in registry with id '{location.account}' cannot be "
                "deleted because it still contains images",
                "GeneralServiceException",
            )
        )
    ecr_backends[location.account][location.region].delete_repository(repository.name, force=True)
    forget(repository.name)


def create_bucket(location: Location, name: str, properties: Properties) -> Any:
    if name in s3_backends[location.account]["aws"].buckets:
        raise ResourceError(handler_message(f"{name} already exists", "AlreadyExists"))
    bucket = FakeBucket.create_from_cloudformation_json(
        name, {"Properties": properties}, location.account, location.region
    )
    return update_bucket(location, bucket, properties)


def update_bucket(location: Location, bucket: Any, properties: Properties) -> Any:
    backend = s3_backends[location.account]["aws"]
    if "VersioningConfiguration" in properties:
        backend.put_bucket_versioning(bucket.name, properties["VersioningConfiguration"]["Status"])
    if "PublicAccessBlockConfiguration" in properties:
        backend.put_public_access_block(
            bucket.name,
            {key: str(value).lower() for key, value in properties["PublicAccessBlockConfiguration"].items()},
        )
    return bucket


@dataclass(frozen=True)
class ResourceType:
    create: Callable[[Location, str, Properties], Any] | None = None
    update: Callable[[Location, Any, Properties], Any] | None = None
    delete: Callable[[Location, Any], None] | None = None


RESOURCE_TYPES = {
    "AWS::Lambda::Function": ResourceType(create_function, update_function),
    "AWS::Lambda::Version": ResourceType(create_version, None, delete_version),
    "AWS::Lambda::Alias": ResourceType(create_alias, update_alias, delete_alias),
    "AWS::Lambda::Url": ResourceType(create_url, update_url, delete_url),
    "AWS::Lambda::Permission": ResourceType(create_permission, None, delete_permission),
    "AWS::CloudWatch::Alarm": ResourceType(create_alarm, update_alarm, delete_alarm),
    "AWS::SQS::Queue": ResourceType(None, update_queue),
    "AWS::IAM::Role": ResourceType(create_role, update_role, delete_role),
    "AWS::Logs::LogGroup": ResourceType(None, update_log_group),
    "AWS::ECR::Repository": ResourceType(create_repository, update_repository, delete_repository),
    "AWS::S3::Bucket": ResourceType(create_bucket, update_bucket),
}


def install() -> None:
    """Replace moto's functions with those of this module."""
    # Mappings do nothing here: moto would call the function's container inside SendMessage.
    Queue.lambda_event_source_mappings = property(lambda self: {}, lambda self, value: None)
    LogGroup.get_cfn_attribute = lambda self, name: f"{self.arn}:*"
    configuration, code = LambdaFunction.get_configuration, LambdaFunction.get_code
    mappings = LambdaBackend.list_event_source_mappings
    url = FunctionUrlConfig.to_dict

    def get_configuration(self: LambdaFunction, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**configuration(self, *args, **kwargs), "LoggingConfig": getattr(self, "logging_config", None)}

    def get_code(self: LambdaFunction) -> dict[str, Any]:
        answer = code(self)
        if "ImageUri" in self.code:
            repository = re.sub(r"(@.*|:[^:/]*)$", "", self.code["ImageUri"])  # moto's own expression stops at a port
            answer["Code"]["ResolvedImageUri"] = f"{repository}@sha256:{self.code_sha_256}"
        return dict(answer)

    def list_event_source_mappings(self: LambdaBackend, event_source_arn: str, function_name: str) -> list[Any]:
        # Callers may give a function's name, its name and alias, or its ARN. moto knows only the form that the mapping
        # was created with.
        every = mappings(self, event_source_arn, "")
        return [one for one in every if not function_name or one.function_name.endswith(f":{function_name}")
                or one.function_name == function_name]  # fmt: skip

    def to_dict(self: FunctionUrlConfig) -> dict[str, Any]:
        qualifier = getattr(self, "qualifier", "$LATEST")
        arn = self.function.function_arn + ("" if qualifier == "$LATEST" else f":{qualifier}")
        return {**url(self), "FunctionArn": arn, "InvokeMode": "BUFFERED"}

    LambdaFunction.get_configuration = get_configuration
    LambdaFunction.get_code = get_code
    LambdaBackend.list_event_source_mappings = list_event_source_mappings
    FunctionUrlConfig.to_dict = to_dict
