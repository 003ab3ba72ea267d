"""Entry point of the function `face-recognition`. Lambda imports it in the init phase, which loads everything."""

import os
import time
from collections.abc import Mapping

from adapters import json_log
from adapters.settings import RESPONSE_QUEUE_URL, ModelSettings, QueueSettings
from adapters.wiring import current_gallery, load_embedder, queue_sender
from pipeline.handlers.recognise_faces import Collaborators, handle
from pipeline.messages import Json

json_log.set_up("face-recognition")
_models = ModelSettings.from_environment(os.environ)
_queues = QueueSettings.from_environment(os.environ, RESPONSE_QUEUE_URL)
_embedder = load_embedder(_models)
_collaborators = Collaborators(
    embedder=_embedder,
    gallery=current_gallery(_models, _embedder),
    responses=queue_sender(_queues, _queues.response_queue_url),
    clock=time.perf_counter,
    max_receive_count=_queues.max_receive_count,
)


def handler(event: Mapping[str, Json], _context: object) -> dict[str, Json]:
    """Handle one invocation."""
    return handle(event, _collaborators)
