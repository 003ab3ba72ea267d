"""The smoke test: post a real frame to the deployed service and compare its answer with this machine's."""

import time
from typing import Final

import numpy as np

from client.frames import Frame
from client.service_client import Outcome, ServiceClient
from pipeline.embed import PREPROCESSINGS, cut
from pipeline.errors import SetupError
from pipeline.gallery import Gallery
from pipeline.images import decode
from pipeline.messages import ERROR, NO_FACE, UNKNOWN
from pipeline.ports import FaceDetector, FaceEmbedder

#: Pause before a frame that the service refused is posted again, in seconds.
_RETRY_SECONDS: Final = 3.0


class SmokeError(SetupError):
    """The deployed service does not answer a frame, answers it wrongly, or runs another image than the pushed one."""


def expected(frame: Frame, detector: FaceDetector, embedder: FaceEmbedder, gallery: Gallery | None) -> str:
    """Return the answer that a frame must get: the one that this machine's networks give with the same gallery."""
    image = decode(frame.content)
    faces = detector.detect(image)
    if not faces:
        return NO_FACE
    if gallery is None:
        return UNKNOWN
    crops = np.stack([cut(image, face, PREPROCESSINGS[embedder.preprocessing]) for face in faces])
    names = [match.name for match in gallery.nearest(embedder.embed(crops))]
    return next((name for name in names if name is not None), UNKNOWN)


def smoke(client: ServiceClient, frame: Frame, wanted: str | None, timeout_seconds: float) -> Outcome:
    """Post a frame and wait for its answer.

    Parameters
    ----------
    client : ServiceClient
    frame : Frame
    wanted : str or None
        The expected answer. None if this machine cannot compute it; then every answer but `Error` passes.
    timeout_seconds : float
        How long to wait for the answer, with all attempts.

    Raises
    ------
    SmokeError
        There was no answer in time, or another one than expected.

    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        remaining = deadline - time.monotonic()
        outcome = next(iter(client.send([frame], concurrency=1, timeout_seconds=remaining)))
        if not _is_too_early(outcome) or time.monotonic() + _RETRY_SECONDS > deadline:
            break
        time.sleep(_RETRY_SECONDS)
    if outcome.result is None:
        raise SmokeError("smoke_failed", f"The smoke test got no answer: {(outcome.problem or '').rstrip('.')}.")
    if outcome.result == ERROR or (wanted is not None and outcome.result != wanted):
        reason = (outcome.answer or {}).get("error")
        raise SmokeError(
            "smoke_failed",
            f"The smoke test's frame {frame.filename} was answered '{outcome.result}'"
            + (f" ({reason})" if reason else f"; this machine answers '{wanted}'")
            + ".",
        )
    return outcome


def _is_too_early(outcome: Outcome) -> bool:
    """Return whether the service was not reachable yet: a new function URL works everywhere only after some seconds."""
    problem = outcome.problem or ""
    return "cannot be reached" in problem or problem.startswith("HTTP 403")
