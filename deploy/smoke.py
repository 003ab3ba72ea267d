"""The smoke test: post a real frame to the deployed service and compare its answer with this machine's."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from adapters.models.fetch import package_file
from adapters.models.installed import installed_model
from adapters.models.published import ASTRONAUT
from adapters.settings import FACEQ_MODEL, ModelSettings, Paths
from client.deployed_stack import Deployed
from client.frames import Frame, frames
from client.service_client import Outcome, ServiceClient
from client.stack_connections import client_of_deployed_stack, gallery_of_deployed_stack
from pipeline import gallery_storage
from pipeline.embed import PREPROCESSINGS, cut
from pipeline.errors import BadInput, SetupError
from pipeline.gallery import Gallery
from pipeline.images import decode
from pipeline.messages import ERROR, NO_FACE, UNKNOWN
from pipeline.ports import FaceDetector, FaceEmbedder

if TYPE_CHECKING:
    import boto3

#: How long the smoke test waits for an answer, in seconds: enough for a cold start of both functions and a retry.
SMOKE_SECONDS: Final = 120.0
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


class ServiceSmokeTest:
    """The smoke test that a promotion runs.

    It posts one frame and expects the answer that this machine's networks give with the deployed gallery.

    Parameters
    ----------
    session : boto3.Session
    photo : Path or None
        The frame; None takes a photograph that faceq always has.

    Raises
    ------
    BadInput
        The photo does not exist.

    """

    def __init__(self, session: "boto3.Session", photo: Path | None) -> None:
        if photo is not None and not photo.is_file():
            raise BadInput("no_photo", f"There is no file {photo}.")
        self._session = session
        self._photo = photo

    def __call__(self, deployed: Deployed, model: str) -> str:
        """Test a stack whose image has the model of this id; return the answer as one line for the user.

        Raises
        ------
        SmokeError
            There was no answer in time, or another one than expected.
        BadInput
            The photo cannot be read.

        """
        frame = self._frame()
        wanted = self._expected_answer(frame, deployed, model)
        outcome = smoke(client_of_deployed_stack(self._session, deployed), frame, wanted, SMOKE_SECONDS)
        checked = "as on this machine" if wanted is not None else f"not compared, because {model} is not installed here"
        return f"{frame.filename}: {outcome.result} in {outcome.milliseconds:.0f} ms, {checked}"

    def _frame(self) -> Frame:
        if self._photo is None:
            photo = package_file(ASTRONAUT, Paths.from_environment(os.environ).models)
            return Frame(photo.name, photo.read_bytes())
        frame = next(frames([self._photo]))
        if frame.problem is not None:
            raise BadInput("bad_frame", f"{self._photo}: {frame.problem}")
        return frame

    def _expected_answer(self, frame: Frame, deployed: Deployed, model: str) -> str | None:
        """Return the answer that this machine gives; None if the model is not installed here."""
        from adapters import wiring  # loads the networks' runtime

        settings = ModelSettings.from_environment({**os.environ, FACEQ_MODEL: model})
        try:
            installed_model(model, settings.models)
        except SetupError:
            return None
        gallery = gallery_storage.load(gallery_of_deployed_stack(self._session, deployed))
        return expected(frame, wiring.load_detector(settings), wiring.load_embedder(settings), gallery)


def _is_too_early(outcome: Outcome) -> bool:
    """Return whether the service was not reachable yet: a new function URL works everywhere only after some seconds."""
    problem = outcome.problem or ""
    return "cannot be reached" in problem or problem.startswith("HTTP 403")
