"""What a stack of processes and a stack of containers have in common: the template, the queue URLs, the notices."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from adapters.settings import DEFAULT_REGION
from local.addresses import queue_url, read_local_template
from pipeline.errors import SetupError
from pipeline.gallery import Gallery
from template.model import ServiceTemplate
from template.reader import TEMPLATE_FILE
from template.yaml_nodes import TemplateError

ROOT: Final = Path(__file__).parents[1]


class StackError(SetupError):
    """The stack cannot start or go on."""

    def __init__(self, message: str) -> None:
        super().__init__("stack", message)


def read_template(
    parameters: Mapping[str, str],
    sqs_endpoint: str,
    region: str = DEFAULT_REGION,
    file: Path = TEMPLATE_FILE,
    *,
    log_names: bool = True,
) -> ServiceTemplate:
    """Read the service's template for this machine. Raises StackError that names file and line."""
    name = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    try:
        return read_local_template(parameters, region, sqs_endpoint, file, log_names=log_names)
    except TemplateError as error:
        raise StackError(f"{name}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StackError(f"The template {name} cannot be read: {error}") from None


def queue_urls(service: ServiceTemplate, sqs_endpoint: str) -> dict[str, str]:
    """Return the three queue URLs of a `RunningStack`. Raises StackError if the template lacks a queue of the contract.

    Further queues, which trigger functions of their own, are no part of the contract with clients.
    """
    requests, responses = service.request_queue, service.response_queue
    if requests is None or responses is None:
        raise StackError(
            "Clients find the queues by the ends of their names: name exactly one queue of the template ...-req-queue "
            "and exactly one ...-resp-queue."
        )
    dead_letters = service.dead_letter_queue
    return {
        "request_queue_url": queue_url(sqs_endpoint, requests.name),
        "response_queue_url": queue_url(sqs_endpoint, responses.name),
        "dead_letter_queue_url": queue_url(sqs_endpoint, dead_letters.name) if dead_letters is not None else "",
    }


def gallery_notice(gallery: Gallery | None) -> str | None:
    """Return what the user should know about the gallery when the service starts, None if there is nothing to say."""
    if gallery is None:
        return "Nobody is enrolled yet, so every face is Unknown. Enrol people with: faceq people add NAME PHOTO..."
    return gallery.warning
