"""The composition root: settings in, ready collaborators out. What is not asked for is not imported."""

import time
from collections.abc import Callable
from importlib.util import find_spec

from adapters import models
from adapters.artifacts_directory import DirectoryStore
from adapters.settings import ModelSettings, QueueSettings
from pipeline.embed import PREPROCESSINGS
from pipeline.errors import ArtifactError
from pipeline.gallery import MANIFEST, Gallery, load
from pipeline.handlers import face_detection, face_recognition
from pipeline.ports import ArtifactStore, FaceDetector, FaceEmbedder, MessageSender


def check_engine(engine: str) -> None:
    """Raise ArtifactError if the packages of an engine are missing; none is imported."""
    if engine == "torch" and not all(find_spec(name) for name in ("torch", "torchvision", "facenet_pytorch")):
        raise ArtifactError("no_torch", "The engine 'torch' needs packages. Run: pip install '.[torch]'")


def detector(settings: ModelSettings) -> FaceDetector:
    """Load MTCNN's three networks. Raises ArtifactError that names the command to run if they are missing."""
    files = models.installed_detector(settings.models)
    if settings.engine == "torch":
        check_engine(settings.engine)
        from adapters import engine_torch

        return engine_torch.detector(files, settings.min_face_size, settings.threads)
    from adapters import engine_onnx

    return engine_onnx.detector(files, settings.min_face_size, settings.threads)


def embedder(settings: ModelSettings) -> FaceEmbedder:
    """Load the recogniser. Raises ArtifactError that names the command to run if it is missing."""
    model = models.installed(settings.model, settings.models)
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
    """Return where the gallery is kept."""
    return DirectoryStore(settings.gallery)


def checked_gallery(settings: ModelSettings) -> Gallery | None:
    """Return the gallery, None if there is none. Raises ArtifactError if it does not fit the model."""
    gallery = load(gallery_store(settings))
    if gallery is not None:
        model = models.installed(settings.model, settings.models)
        gallery.check(model.id, model.preprocessing)
    return gallery


class CurrentGallery:
    """The gallery as it is now: read again when it was written since, checked against the embedder.

    Parameters
    ----------
    store : ArtifactStore
    model, preprocessing : str
        What the embedder is; a gallery of another kind raises ArtifactError on each call until it is replaced.

    """

    def __init__(self, store: ArtifactStore, model: str, preprocessing: str) -> None:
        self._store = store
        self._model = model
        self._preprocessing = preprocessing
        self._version: str | None = None
        self._gallery: Gallery | None = None

    def __call__(self) -> Gallery | None:
        """Return the gallery, None where there is none."""
        version = self._store.version(MANIFEST)
        if version != self._version:
            # The version is taken before the content: a write in between is noticed by the next call.
            self._gallery = load(self._store)
            self._version = version
        if self._gallery is not None:
            self._gallery.check(self._model, self._preprocessing)
        return self._gallery


def face_detection_collaborators(
    settings: ModelSettings, queues: QueueSettings, clock: Callable[[], float] = time.perf_counter
) -> face_detection.Collaborators:
    """Put the function `face-detection` together."""
    return face_detection.Collaborators(
        detector=detector(settings),
        preprocessing=PREPROCESSINGS[models.installed(settings.model, settings.models).preprocessing],
        requests=_sender(queues, queues.request_queue_url),
        responses=_sender(queues, queues.response_queue_url),
        clock=clock,
        max_pixels=settings.max_pixels,
    )


def face_recognition_collaborators(
    settings: ModelSettings, queues: QueueSettings, clock: Callable[[], float] = time.perf_counter
) -> face_recognition.Collaborators:
    """Put the function `face-recognition` together."""
    loaded = embedder(settings)
    return face_recognition.Collaborators(
        embedder=loaded,
        gallery=CurrentGallery(gallery_store(settings), loaded.model, loaded.preprocessing),
        responses=_sender(queues, queues.response_queue_url),
        clock=clock,
        max_receive_count=queues.max_receive_count,
    )


def _sender(queues: QueueSettings, url: str) -> MessageSender:
    from adapters.queue_sqs import SqsSender, client

    return SqsSender(client(queues.region), url)
