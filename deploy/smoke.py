"""The smoke test: a real frame through the deployed service, and whether it says what this machine says."""

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

#: Wait before a frame that was not taken is posted again, seconds.
AGAIN_SECONDS: Final = 3.0


class SmokeError(SetupError):
    """The deployed service does not answer a frame, or answers it wrongly."""


def expected(frame: Frame, detector: FaceDetector, embedder: FaceEmbedder, gallery: Gallery | None) -> str:
    """Return the answer that a frame must get: what this machine's networks find with the same gallery."""
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
    wanted : str or None
        The name that must come; None where this machine cannot tell, so that any answer but `Error` will do.

    Raises
    ------
    SmokeError
        No answer in time, or another one.

    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        left = deadline - time.monotonic()
        outcome = next(iter(client.send([frame], concurrency=1, timeout_seconds=left)))
        if not _is_too_early(outcome) or time.monotonic() + AGAIN_SECONDS > deadline:
            break
        time.sleep(AGAIN_SECONDS)
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
    """Tell whether a frame was not taken for a reason that passes: a new URL is known everywhere after some seconds."""
    problem = outcome.problem or ""
    return "cannot be reached" in problem or problem.startswith("HTTP 403")
