"""All environment variables that faceq reads. No other module reads them; the rest of the code receives values.

A command's argument takes precedence over the variable, and the variable over the default.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.errors import SetupError
from pipeline.images import MAX_PIXELS
from template.lambda_facts import MB_PER_PROCESSOR

REQUEST_QUEUE_URL = "REQUEST_QUEUE_URL"
RESPONSE_QUEUE_URL = "RESPONSE_QUEUE_URL"
#: Where face-recognition sends frames that failed on every attempt.
DEAD_LETTER_QUEUE_URL = "DEAD_LETTER_QUEUE_URL"
#: Name of the queue where the request queue moves messages after their last attempt; it calls face-recognition, too.
EXHAUSTED_QUEUE = "EXHAUSTED_QUEUE"
AWS_REGION = "AWS_REGION"
#: How often the queue delivers a message before it moves it to the exhausted queue; deploy/template.yaml sets it.
MAX_RECEIVE_COUNT = "MAX_RECEIVE_COUNT"
#: `onnx` (default) or `torch`.
FACEQ_ENGINE = "FACEQ_ENGINE"
#: `auto` (default), `vggface2`, `casia-webface`, `dlib`, `stand-in`, or the path of a weight file.
FACEQ_MODEL = "FACEQ_MODEL"
#: Folder of the installed models.
FACEQ_MODELS_DIR = "FACEQ_MODELS_DIR"
#: Folder of the gallery.
FACEQ_GALLERY_DIR = "FACEQ_GALLERY_DIR"
#: `s3://<bucket>/<prefix>`: where functions on AWS read the gallery. It takes precedence over the folder.
FACEQ_GALLERY = "FACEQ_GALLERY"
#: Folder of the running stack's state and logs.
FACEQ_STATE_DIR = "FACEQ_STATE_DIR"
#: Side of the smallest face to look for, in pixels of the frame.
FACEQ_MIN_FACE_SIZE = "FACEQ_MIN_FACE_SIZE"
#: Width times height of the largest frame to decode.
FACEQ_MAX_PIXELS = "FACEQ_MAX_PIXELS"
#: `true` looks for faces in the three other turns of a frame that shows none as it is; `false` (default) does not.
FACEQ_TRY_ROTATIONS = "FACEQ_TRY_ROTATIONS"
#: Threads of one function process. By default the virtual processors that Lambda gives for the memory size.
FACEQ_THREADS = "FACEQ_THREADS"
#: `true` (default) or `false`: whether the functions' logs contain the names of people and of files.
#: deploy/template.yaml sets it from its parameter LogNames, which is false on AWS.
FACEQ_LOG_NAMES = "FACEQ_LOG_NAMES"

#: Values for the template's parameters when containers run the service: `Name=Value`, separated by spaces.
FACEQ_PARAMETERS = "FACEQ_PARAMETERS"
#: The ports of this machine for the containers' function URL, Lambda API and queues.
FACEQ_PORT = "FACEQ_PORT"
FACEQ_API_PORT = "FACEQ_API_PORT"
FACEQ_QUEUE_PORT = "FACEQ_QUEUE_PORT"

ENGINES = ("onnx", "torch")
DEFAULT_REGION = "us-east-1"

#: A bucket's name and a prefix of keys. (S3 user guide, "General purpose bucket naming rules")
_S3_PLACE: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([\w.-]+(?:/[\w.-]+)*)/?", re.ASCII)


@dataclass(frozen=True)
class S3Place:
    """A prefix of keys in an S3 bucket; the prefix has no slash at either end."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


@dataclass(frozen=True)
class Paths:
    """The folders of the user's models, gallery and running stack; the platform's default where no variable is set."""

    models: Path
    gallery: Path
    state: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Paths":
        """Read the three folder variables."""
        import platformdirs  # part of faceq[local]: the functions get their folders from variables

        return cls(
            models=_folder(environ, FACEQ_MODELS_DIR) or platformdirs.user_cache_path("faceq") / "models",
            gallery=_folder(environ, FACEQ_GALLERY_DIR) or _default_gallery(),
            state=_folder(environ, FACEQ_STATE_DIR) or platformdirs.user_state_path("faceq"),
        )


@dataclass(frozen=True)
class ModelSettings:
    """Which networks to run and how.

    Parameters
    ----------
    engine : str
        One of `ENGINES`.
    model : str
        `auto`, a model's id, or the path of a weight file.
    models : Path
        Folder of the installed models.
    gallery : Path or S3Place
        Where the gallery is kept.
    min_face_size : int
        Side of the smallest face to look for, in pixels, at least 12: the first network's receptive field.
    max_pixels : int
        Width times height of the largest frame to decode, at least 1.
    threads : int
        At least 1.
    try_rotations : bool
        Whether to look for faces in the three other turns of a frame that shows none as it is.

    """

    engine: str
    model: str
    models: Path
    gallery: Path | S3Place
    min_face_size: int
    max_pixels: int
    threads: int
    try_rotations: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "ModelSettings":
        """Read the variables. Raises SetupError for an invalid value."""
        engine = environ.get(FACEQ_ENGINE) or "onnx"
        if engine not in ENGINES:
            raise SetupError("bad_setting", f"{FACEQ_ENGINE} is '{engine}'; set it to one of {', '.join(ENGINES)}.")
        models = _folder(environ, FACEQ_MODELS_DIR)
        gallery = _s3_place(environ, FACEQ_GALLERY) or _folder(environ, FACEQ_GALLERY_DIR)
        if models is None or gallery is None:
            paths = Paths.from_environment(environ)
            models, gallery = paths.models, gallery or paths.gallery
        memory_mb = _number(environ, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 0, 0)
        processors = -(-memory_mb // MB_PER_PROCESSOR) or os.cpu_count() or 1
        return cls(
            engine=engine,
            model=environ.get(FACEQ_MODEL) or "auto",
            models=models,
            gallery=gallery,
            min_face_size=_number(environ, FACEQ_MIN_FACE_SIZE, 20, 12),
            max_pixels=_number(environ, FACEQ_MAX_PIXELS, MAX_PIXELS, 1),
            threads=_number(environ, FACEQ_THREADS, min(processors, os.cpu_count() or 1), 1),
            try_rotations=_switch(environ, FACEQ_TRY_ROTATIONS, default=False),
        )


@dataclass(frozen=True)
class QueueSettings:
    """The queues that a function sends to.

    Parameters
    ----------
    region : str
    request_queue_url, response_queue_url, dead_letter_queue_url : str
        Empty if the function does not use it.
    exhausted_queue : str
        Its name; empty if the request queue moves messages elsewhere after their last attempt.
    max_receive_count : int
        How often the request queue delivers a message before it moves it to another queue; at least 1.

    """

    region: str
    request_queue_url: str
    response_queue_url: str
    dead_letter_queue_url: str
    exhausted_queue: str
    max_receive_count: int

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], *required: str) -> "QueueSettings":
        """Read the variables. Raises SetupError if one that `required` names is not set, or a value is invalid."""
        for name in required:
            if not environ.get(name):
                raise SetupError("bad_setting", f"The variable {name} is not set; deploy/template.yaml sets it.")
        return cls(
            region=environ.get(AWS_REGION) or environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION,
            request_queue_url=environ.get(REQUEST_QUEUE_URL, ""),
            response_queue_url=environ.get(RESPONSE_QUEUE_URL, ""),
            dead_letter_queue_url=environ.get(DEAD_LETTER_QUEUE_URL, ""),
            exhausted_queue=environ.get(EXHAUSTED_QUEUE, ""),
            max_receive_count=_number(environ, MAX_RECEIVE_COUNT, 5, 1),
        )


def _default_gallery() -> Path:
    """Return the repository's folder `gallery`, which docker-compose.yml mounts, or the platform's folder."""
    if (repository := Path(__file__).parents[1] / "docker-compose.yml").exists():
        return repository.with_name("gallery")
    import platformdirs

    return platformdirs.user_data_path("faceq") / "gallery"


def _folder(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]).expanduser().absolute() if environ.get(name) else None


def _s3_place(environ: Mapping[str, str], name: str) -> S3Place | None:
    text = environ.get(name)
    if not text:
        return None
    match = _S3_PLACE.fullmatch(text)
    if match is None:
        raise SetupError("bad_setting", f"{name} is '{text}'; set it to s3://BUCKET/PREFIX.")
    return S3Place(*match.groups())


def _number(environ: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = environ.get(name)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise SetupError("bad_setting", f"{name} is '{text}'; set it to a whole number of at least {least}.")
    return int(text)


def _switch(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = environ.get(name)
    if not text:
        return default
    if text not in {"true", "false"}:
        raise SetupError("bad_setting", f"{name} is '{text}'; set it to true or false.")
    return text == "true"


def log_names(environ: Mapping[str, str]) -> bool:
    """Return whether the functions log the names of people. Raises SetupError unless it is `true` or `false`."""
    return _switch(environ, FACEQ_LOG_NAMES, default=True)


def template_parameters(environ: Mapping[str, str]) -> dict[str, str]:
    """Read FACEQ_PARAMETERS. Raises SetupError for a part that is not Name=Value."""
    pairs = [text.partition("=") for text in environ.get(FACEQ_PARAMETERS, "").split()]
    for name, equals, value in pairs:
        if not name or not equals:
            raise SetupError(
                "bad_setting", f"{FACEQ_PARAMETERS} has '{name}{equals}{value}'; write Name=Value, separated by spaces."
            )
    return {name: value for name, _, value in pairs}


def port(environ: Mapping[str, str], name: str, default: int) -> int:
    """Read a variable that is a port, 1 to 65535. Raises SetupError for any other value."""
    number = _number(environ, name, default, 1)
    if number > 65535:
        raise SetupError("bad_setting", f"{name} is '{number}'; a port is at most 65535.")
    return number
