"""Entry point of the function `face-detection`. Lambda imports it in the init phase, which loads everything."""

import os
import time
from collections.abc import Mapping
from typing import Final

from adapters import json_log
from adapters.metrics_emf import EmfMetrics
from adapters.settings import REQUEST_QUEUE_URL, RESPONSE_QUEUE_URL, ModelSettings, QueueSettings, log_names
from adapters.wiring import embedder_preprocessing, load_detector, queue_sender
from pipeline.handlers.detect_faces import Collaborators, handle
from pipeline.log_events import LogPrivacy
from pipeline.messages import Json

_FUNCTION: Final = "face-detection"

json_log.set_up(_FUNCTION)
_models = ModelSettings.from_environment(os.environ)
_queues = QueueSettings.from_environment(os.environ, REQUEST_QUEUE_URL, RESPONSE_QUEUE_URL)
_collaborators = Collaborators(
    detector=load_detector(_models),
    preprocessing=embedder_preprocessing(_models),
    requests=queue_sender(_queues, _queues.request_queue_url),
    responses=queue_sender(_queues, _queues.response_queue_url),
    clock=time.perf_counter,
    max_pixels=_models.max_pixels,
    try_rotations=_models.try_rotations,
    metrics=EmfMetrics(_FUNCTION),
    privacy=LogPrivacy(log_names(os.environ)),
)


def handler(event: Mapping[str, Json], _context: object) -> dict[str, Json]:
    """Handle one invocation."""
    return handle(event, _collaborators)
