"""Entry point of the function `face-recognition`. Lambda imports it in the init phase, which loads everything."""

import os
import time
from collections.abc import Mapping
from typing import Final

from adapters import json_log
from adapters.lambda_entry.context import LambdaContext
from adapters.metrics_emf import EmfMetrics
from adapters.settings import REQUEST_QUEUE_URL, RESPONSE_QUEUE_URL, ModelSettings, QueueSettings, log_names
from adapters.wiring import current_gallery, delivered_messages, load_embedder, queue_sender
from pipeline.handlers.recognise_faces import Collaborators, handle
from pipeline.log_events import LogPrivacy
from pipeline.messages import Json
from pipeline.pace import Pace

_FUNCTION: Final = "face-recognition"

json_log.set_up(_FUNCTION)
_models = ModelSettings.from_environment(os.environ)
_queues = QueueSettings.from_environment(os.environ, REQUEST_QUEUE_URL, RESPONSE_QUEUE_URL)
_embedder = load_embedder(_models)
_collaborators = Collaborators(
    embedder=_embedder,
    gallery=current_gallery(_models, _embedder),
    responses=queue_sender(_queues, _queues.response_queue_url),
    requests=delivered_messages(_queues, _queues.request_queue_url),
    dead_letters=queue_sender(_queues, _queues.dead_letter_queue_url) if _queues.dead_letter_queue_url else None,
    exhausted_queue=_queues.exhausted_queue or None,
    clock=time.perf_counter,
    max_receive_count=_queues.max_receive_count,
    pace=Pace(),
    metrics=EmfMetrics(_FUNCTION),
    privacy=LogPrivacy(log_names(os.environ)),
)


def handler(event: Mapping[str, Json], context: LambdaContext) -> dict[str, Json]:
    """Handle one invocation."""
    return handle(event, _collaborators, lambda: context.get_remaining_time_in_millis() / 1000)
