"""The account, names and addresses under which this machine plays the template's resources."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from template.model import ServiceTemplate
from template.reader import TEMPLATE_FILE, read_playable
from template.values import Symbol, Value

#: The account that local ARNs and queue URLs carry: ElasticMQ's default, so all local endpoints agree.
ACCOUNT: Final = "000000000000"
#: The name of the stack: part of the names of resources that the template does not name.
_STACK: Final = "faceq"


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
    parameters: Mapping[str, str], region: str, sqs_endpoint: str, file: Path = TEMPLATE_FILE
) -> ServiceTemplate:
    """Read a template for the local account, with its queues at `sqs_endpoint`.

    Raises
    ------
    TemplateError
        The laptop cannot play the template, or AWS would refuse it.
    OSError
        There is no such file.

    """
    pseudo_parameters = {"AWS::Region": region, "AWS::AccountId": ACCOUNT, "AWS::StackName": _STACK}
    return read_playable(file.read_text(), {**pseudo_parameters, **parameters}, local_values(region, sqs_endpoint))
