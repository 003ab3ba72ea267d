"""The composition root: build what the functions and the commands need from the settings.

Only the technology that the settings choose is imported.
"""

from importlib.util import find_spec

from adapters.artifacts_directory import DirectoryStore
from adapters.current_gallery import S3_CHECK_SECONDS, CurrentGallery
from adapters.models.installed import installed_detector, installed_model
from adapters.settings import ModelSettings, QueueSettings, S3Place
from pipeline.embed import PREPROCESSINGS, Preprocessing
from pipeline.errors import SetupError
from pipeline.gallery import Gallery
from pipeline.gallery_storage import load
from pipeline.ports import ArtifactStore, DeliveredMessages, FaceDetector, FaceEmbedder, MessageSender


def check_engine(engine: str) -> None:
    """Raise SetupError if the packages of an engine are not installed. Imports none of them."""
    if engine == "torch" and not all(find_spec(name) for name in ("torch", "torchvision", "facenet_pytorch")):
        raise SetupError("no_torch", "The engine 'torch' needs packages. Run: pip install '.[torch]'")


def load_detector(settings: ModelSettings) -> FaceDetector:
    """Load MTCNN's three networks. Raises SetupError that names the command to run if they are missing."""
    files = installed_detector(settings.models)
    if settings.engine == "torch":
        check_engine(settings.engine)
        from adapters import engine_torch

        return engine_torch.detector(files, settings.min_face_size, settings.threads)
    from adapters import engine_onnx

    return engine_onnx.detector(files, settings.min_face_size, settings.threads)


def load_embedder(settings: ModelSettings) -> FaceEmbedder:
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


def embedder_preprocessing(settings: ModelSettings) -> Preprocessing:
    """Return how faces must be cut for the recogniser. Raises SetupError if the recogniser is not installed."""
    return PREPROCESSINGS[installed_model(settings.model, settings.models).preprocessing]


def gallery_store(settings: ModelSettings) -> ArtifactStore:
    """Return the store that keeps the gallery. Sends no request yet."""
    if isinstance(settings.gallery, S3Place):
        import boto3

        from adapters.artifacts_s3 import S3Store, s3_client

        return S3Store(s3_client(boto3.Session()), settings.gallery.bucket, settings.gallery.prefix)
    return DirectoryStore(settings.gallery)


def current_gallery(settings: ModelSettings, embedder: FaceEmbedder) -> CurrentGallery:
    """Return the gallery as a running function uses it: one on S3 is checked for changes less often."""
    return CurrentGallery(
        gallery_store(settings),
        embedder.model,
        embedder.preprocessing,
        check_seconds=S3_CHECK_SECONDS if isinstance(settings.gallery, S3Place) else 0,
    )


def checked_gallery(settings: ModelSettings) -> Gallery | None:
    """Return the gallery, None if there is none. Raises SetupError if it does not fit the model."""
    gallery = load(gallery_store(settings))
    if gallery is not None:
        model = installed_model(settings.model, settings.models)
        gallery.check_compatible(model.id, model.preprocessing)
    return gallery


def delivered_messages(settings: QueueSettings, queue_url: str) -> DeliveredMessages:
    """Return what gives messages back to one queue, or deletes them. Sends no request yet."""
    from adapters.queue_sqs import SqsDeliveredMessages, sqs_client

    return SqsDeliveredMessages(sqs_client(settings.region), queue_url)


def queue_sender(settings: QueueSettings, queue_url: str) -> MessageSender:
    """Return a sender to one queue. Sends no request yet."""
    from adapters.queue_sqs import SqsSender, sqs_client

    return SqsSender(sqs_client(settings.region), queue_url)
