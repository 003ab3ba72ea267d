"""The composition root: settings in, ready collaborators out. What is not asked for is not imported."""

import logging
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

from adapters.artifacts_directory import DirectoryStore
from adapters.models.installed import installed_detector, installed_model
from adapters.settings import ModelSettings, QueueSettings, S3Place
from pipeline.embed import PREPROCESSINGS
from pipeline.errors import SetupError, TransientError
from pipeline.gallery import Gallery
from pipeline.gallery_storage import MANIFEST, load
from pipeline.handlers import detect_faces, recognise_faces
from pipeline.ports import ArtifactStore, FaceDetector, FaceEmbedder, MessageSender

#: How long a function takes a gallery on S3 for the newest, in seconds, instead of a request before each batch.
S3_CHECK_SECONDS: Final = 30.0

log = logging.getLogger(__name__)


def check_engine(engine: str) -> None:
    """Raise SetupError if the packages of an engine are missing; none is imported."""
    if engine == "torch" and not all(find_spec(name) for name in ("torch", "torchvision", "facenet_pytorch")):
        raise SetupError("no_torch", "The engine 'torch' needs packages. Run: pip install '.[torch]'")


def detector(settings: ModelSettings) -> FaceDetector:
    """Load MTCNN's three networks. Raises SetupError that names the command to run if they are missing."""
    files = installed_detector(settings.models)
    if settings.engine == "torch":
        check_engine(settings.engine)
        from adapters import engine_torch

        return engine_torch.detector(files, settings.min_face_size, settings.threads)
    from adapters import engine_onnx

    return engine_onnx.detector(files, settings.min_face_size, settings.threads)


def embedder(settings: ModelSettings) -> FaceEmbedder:
    """Load the recogniser. Raises SetupError that names the command to run if it is missing."""
    model = installed_model(settings.model, settings.models)
    if model.id == "dlib":
        from adapters import engine_dlib

        return engine_dlib.embedder(model, settings.threads)
    if settings.engine == "torch":
        check_engine(settings.engine)
        from adapters import engine_torch

        return engine_torch.embedder(model, settings.threads)
    from adapters import engine_onnx

    return engine_onnx.embedder(model, settings.threads)


def gallery_store(settings: ModelSettings) -> ArtifactStore:
    """Return where the gallery is kept. Nothing is asked of it yet."""
    if isinstance(settings.gallery, S3Place):
        import boto3

        from adapters.artifacts_s3 import S3Store, client

        return S3Store(client(boto3.Session()), settings.gallery.bucket, settings.gallery.prefix)
    return DirectoryStore(settings.gallery)


def checked_gallery(settings: ModelSettings) -> Gallery | None:
    """Return the gallery, None if there is none. Raises SetupError if it does not fit the model."""
    gallery = load(gallery_store(settings))
    if gallery is not None:
        model = installed_model(settings.model, settings.models)
        gallery.check_compatible(model.id, model.preprocessing)
    return gallery


class CurrentGallery:
    """The gallery as it is now: read again when it was written since, checked against the embedder.

    A store that cannot be reached leaves the gallery that was read last in use, with a line in the log.

    Parameters
    ----------
    store : ArtifactStore
    model, preprocessing : str
        What the embedder is; a gallery of another kind raises SetupError on each call until it is replaced.
    check_seconds : float
        How long to go without asking whether the gallery was written since; 0 asks on each call.
    clock : callable
        Returns seconds of the wall clock: between two calls a function may be frozen, and any other clock with it.

    """

    def __init__(
        self,
        store: ArtifactStore,
        model: str,
        preprocessing: str,
        check_seconds: float = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._model = model
        self._preprocessing = preprocessing
        self._check_seconds = check_seconds
        self._clock = clock
        self._checked: float | None = None
        self._version: str | None = None
        self._gallery: Gallery | None = None

    def __call__(self) -> Gallery | None:
        """Return the gallery, None where there is none. Raises TransientError if none was ever read."""
        now = self._clock()
        # A wall clock may be set back.
        if self._checked is None or not 0 <= now - self._checked < self._check_seconds:
            try:
                self._read_if_written()
            except TransientError as error:
                if self._gallery is None:
                    raise
                log.warning(
                    "gallery out of reach, the one at hand stays in use",
                    extra={"reason": error.message, "gallery": self._gallery.version},
                )
            self._checked = now
        if self._gallery is not None:
            self._gallery.check_compatible(self._model, self._preprocessing)
        return self._gallery

    def _read_if_written(self) -> None:
        version = self._store.version(MANIFEST)
        if version != self._version:
            # The version is taken before the content: a write in between is noticed by the next check.
            self._gallery = load(self._store)
            self._version = version


def face_detection_collaborators(
    settings: ModelSettings, queues: QueueSettings, clock: Callable[[], float] = time.perf_counter
) -> detect_faces.Collaborators:
    """Put the function `face-detection` together."""
    return detect_faces.Collaborators(
        detector=detector(settings),
        preprocessing=PREPROCESSINGS[installed_model(settings.model, settings.models).preprocessing],
        requests=_sender(queues, queues.request_queue_url),
        responses=_sender(queues, queues.response_queue_url),
        clock=clock,
        max_pixels=settings.max_pixels,
    )


def face_recognition_collaborators(
    settings: ModelSettings, queues: QueueSettings, clock: Callable[[], float] = time.perf_counter
) -> recognise_faces.Collaborators:
    """Put the function `face-recognition` together."""
    loaded = embedder(settings)
    return recognise_faces.Collaborators(
        embedder=loaded,
        gallery=CurrentGallery(
            gallery_store(settings),
            loaded.model,
            loaded.preprocessing,
            check_seconds=S3_CHECK_SECONDS if isinstance(settings.gallery, S3Place) else 0,
        ),
        responses=_sender(queues, queues.response_queue_url),
        clock=clock,
        max_receive_count=queues.max_receive_count,
    )


def _sender(queues: QueueSettings, url: str) -> MessageSender:
    from adapters.queue_sqs import SqsSender, client

    return SqsSender(client(queues.region), url)
