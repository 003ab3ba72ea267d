"""Entry point of the function `face-detection`. All is loaded here, in Lambda's init phase, never in a request."""

import os
from collections.abc import Mapping

from adapters.lambda_entry import log_json
from adapters.settings import REQUEST_QUEUE_URL, RESPONSE_QUEUE_URL, ModelSettings, QueueSettings
from adapters.wiring import face_detection_collaborators
from pipeline.handlers.detect_faces import handle
from pipeline.messages import Json

log_json("face-detection")
_collaborators = face_detection_collaborators(
    ModelSettings.from_environment(os.environ),
    QueueSettings.from_environment(os.environ, REQUEST_QUEUE_URL, RESPONSE_QUEUE_URL),
)


def handler(event: Mapping[str, Json], _context: object) -> dict[str, Json]:
    """Handle one invocation."""
    return handle(event, _collaborators)
