"""The account and the addresses under which this machine plays the template's resources."""

from collections.abc import Mapping
from typing import Final

from template.model import ServiceTemplate
from template.reader import TEMPLATE_FILE, read

#: The account that local ARNs and queue URLs carry: ElasticMQ's default, so all local endpoints agree.
ACCOUNT: Final = "000000000000"


def queue_url(endpoint: str, name: str) -> str:
    """Return the URL of queue `name` at a local `endpoint` such as `http://127.0.0.1:9324`."""
    return f"{endpoint.rstrip('/')}/{ACCOUNT}/{name}"


def read_local_template(parameters: Mapping[str, str], region: str, sqs_endpoint: str) -> ServiceTemplate:
    """Read deploy/template.yaml for the local account, with queues at `sqs_endpoint`. Raises TemplateError."""
    return read(TEMPLATE_FILE.read_text(), parameters, region, ACCOUNT, lambda name: queue_url(sqs_endpoint, name))
