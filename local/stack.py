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


def read_template(parameters: Mapping[str, str], sqs_endpoint: str, region: str = DEFAULT_REGION) -> ServiceTemplate:
    """Read the service's template for this machine. Raises StackError that names file and line."""
    try:
        return read_local_template(parameters, region, sqs_endpoint)
    except TemplateError as error:
        raise StackError(f"{TEMPLATE_FILE.relative_to(ROOT)}: {error}") from None


def queue_urls(service: ServiceTemplate, sqs_endpoint: str) -> dict[str, str]:
    """Return the three queue URLs of a `RunningStack`. Raises StackError if the template does not name the queues."""
    requests = {mapping.queue for mapping in service.event_source_mappings}
    responses = [name for name in service.queues if name.endswith("-resp-queue")]
    if len(requests) != 1 or len(responses) != 1:
        raise StackError(
            f"deploy/template.yaml has {len(requests)} queues that trigger a function and {len(responses)} queues "
            "whose name ends in -resp-queue. It needs exactly one of each."
        )
    request_queue = requests.pop()
    redrive = service.queues[request_queue].redrive
    return {
        "request_queue_url": queue_url(sqs_endpoint, request_queue),
        "response_queue_url": queue_url(sqs_endpoint, responses[0]),
        "dead_letter_queue_url": queue_url(sqs_endpoint, redrive.dead_letter_queue) if redrive is not None else "",
    }


def gallery_notice(gallery: Gallery | None) -> str | None:
    """Return what the user should know about the gallery when the service starts, None if there is nothing to say."""
    if gallery is None:
        return "Nobody is enrolled yet, so every face is Unknown. Enrol people with: faceq people add NAME PHOTO..."
    return gallery.warning
