"""Entry point of the function `face-detection`. Its import, in Lambda's init phase, loads everything."""

import os
from collections.abc import Mapping

from adapters import json_log
from adapters.settings import REQUEST_QUEUE_URL, RESPONSE_QUEUE_URL, ModelSettings, QueueSettings
from adapters.wiring import face_detection_collaborators
from pipeline.handlers.detect_faces import handle
from pipeline.messages import Json

json_log.set_up("face-detection")
_collaborators = face_detection_collaborators(
    ModelSettings.from_environment(os.environ),
    QueueSettings.from_environment(os.environ, REQUEST_QUEUE_URL, RESPONSE_QUEUE_URL),
)


def handler(event: Mapping[str, Json], _context: object) -> dict[str, Json]:
    """Handle one invocation."""
    return handle(event, _collaborators)
