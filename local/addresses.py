"""The account, names and addresses under which this machine plays the template's resources."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from template.model import ServiceTemplate
from template.parameters import declared_parameters
from template.reader import TEMPLATE_FILE, read_playable
from template.values import Symbol, Value

#: The account that local ARNs and queue URLs carry: ElasticMQ's default, so all local endpoints agree.
ACCOUNT: Final = "000000000000"
#: The name of the stack: part of the names of resources that the template does not name.
_STACK: Final = "faceq"
#: The template's parameter that decides whether the functions log names.
_LOG_NAMES: Final = "LogNames"


def queue_url(endpoint: str, name: str) -> str:
    """Return the URL of queue `name` at a local `endpoint` such as `http://127.0.0.1:9324`."""
    return f"{endpoint.rstrip('/')}/{ACCOUNT}/{name}"


def local_values(region: str, sqs_endpoint: str) -> Callable[[Symbol, str, str], Value]:
    """Return what references to resources give on this machine: a `template.intrinsic_functions.CreatedValue`."""

    def value(symbol: Symbol, kind: str, name: str) -> Value:
        match kind, symbol.attribute:
            case "AWS::SQS::Queue", "" | "QueueUrl":
                return queue_url(sqs_endpoint, name)
            case "AWS::SQS::Queue", "Arn":
                return f"arn:aws:sqs:{region}:{ACCOUNT}:{name}"
            case ("AWS::SQS::Queue", "QueueName") | ("AWS::Lambda::Function" | "AWS::Logs::LogGroup", ""):
                return name
            # An alias goes by its function, without a qualifier: the laptop has one version of each.
            case ("AWS::Lambda::Function", "Arn") | ("AWS::Lambda::Alias", ""):
                return f"arn:aws:lambda:{region}:{ACCOUNT}:function:{name}"
            case "AWS::IAM::Role", "Arn":
                return f"arn:aws:iam::{ACCOUNT}:role/{name}"
        return symbol

    return value


def read_local_template(
    parameters: Mapping[str, str],
    region: str,
    sqs_endpoint: str,
    file: Path = TEMPLATE_FILE,
    *,
    log_names: bool = True,
) -> ServiceTemplate:
    """Read a template for the local account, with its queues at `sqs_endpoint`.

    `log_names` is the value of the parameter LogNames, if the template declares it and `parameters` does not set it.
    It is true by default, unlike on AWS, because the logs stay on this machine.

    Raises
    ------
    TemplateError
        The laptop cannot play the template, or AWS would refuse it.
    OSError
        There is no such file.

    """
    text = file.read_text()
    defaults = {"AWS::Region": region, "AWS::AccountId": ACCOUNT, "AWS::StackName": _STACK}
    if _LOG_NAMES in declared_parameters(text):
        defaults[_LOG_NAMES] = "true" if log_names else "false"
    return read_playable(text, {**defaults, **parameters}, local_values(region, sqs_endpoint))
