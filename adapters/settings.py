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

ENGINES = ("onnx", "torch")
DEFAULT_REGION = "us-east-1"
#: The ports of a stack without a name: of the function URL, the Lambda API and the queues.
DEFAULT_PORT: Final = 8000
DEFAULT_API_PORT: Final = 8001
DEFAULT_QUEUE_PORT: Final = 9324
#: More threads than any machine has processors for.
MAX_THREADS: Final = 1024
#: The largest value of a number without a limit of its own.
_MAX_NUMBER: Final = 999_999_999

#: What reads a variable. `docs/settings.md` has one table for each.
ALL: Final = "every way to run the service"
LAPTOP: Final = "the commands and `faceq up`"
CONTAINERS: Final = "the containers"
TEMPLATE: Final = "the functions, from deploy/template.yaml"


@dataclass(frozen=True)
class Variable:
    """A variable, for the documentation.

    Parameters
    ----------
    name : str
    read_by : str
        `ALL`, `LAPTOP`, `CONTAINERS` or `TEMPLATE`.
    default : str
        What applies if the variable is not set or empty.
    description : str
        What it sets and which values it accepts, in Markdown.

    """

    name: str
    read_by: str
    default: str
    description: str


#: Every variable, filled by `_variable` below.
VARIABLES: Final[dict[str, Variable]] = {}


def _variable(name: str, read_by: str, default: str, description: str) -> str:
    VARIABLES[name] = Variable(name, read_by, default, description)
    return name


FACEQ_MODEL: Final = _variable(
    "FACEQ_MODEL",
    ALL,
    "`auto`",
    "The recogniser: `auto`, `vggface2`, `casia-webface`, `dlib`, `stand-in`, or the path of a weight file. Containers "
    "take it when their image is built.",
)
FACEQ_ENGINE: Final = _variable(
    "FACEQ_ENGINE",
    ALL,
    "`onnx`",
    "What runs the networks: `onnx` or `torch`. Containers take it when their image is built.",
)
FACEQ_GALLERY_DIR: Final = _variable(
    "FACEQ_GALLERY_DIR",
    ALL,
    "`gallery` in the clone, or the user's data folder; a folder of its own for a stack with a name",
    "Folder of the gallery.",
)
FACEQ_MIN_FACE_SIZE: Final = _variable(
    "FACEQ_MIN_FACE_SIZE",
    ALL,
    "20",
    "Side of the smallest face to look for, in pixels of the frame, at least 12.",
)
FACEQ_MAX_PIXELS: Final = _variable(
    "FACEQ_MAX_PIXELS", ALL, f"{MAX_PIXELS}", "Width times height of the largest frame to decode, at least 1."
)
FACEQ_THREADS: Final = _variable(
    "FACEQ_THREADS",
    ALL,
    "the virtual processors that Lambda gives for the function's memory",
    f"Threads of one function process, 1 to {MAX_THREADS}.",
)
FACEQ_TRY_ROTATIONS: Final = _variable(
    "FACEQ_TRY_ROTATIONS",
    ALL,
    "`false`",
    "`true` looks for faces in the three other turns of a frame that shows none as it is; `false` does not.",
)
FACEQ_LOG_NAMES: Final = _variable(
    "FACEQ_LOG_NAMES",
    ALL,
    "`true`; on AWS `false`",
    "`true` or `false`: whether the functions' logs contain the names of people and of files. On AWS the template sets "
    "it from its parameter LogNames.",
)
FACEQ_PARAMETERS: Final = _variable(
    "FACEQ_PARAMETERS",
    ALL,
    "none",
    "Values for the template's parameters: `Name=Value`, separated by spaces. `faceq up --parameter` takes precedence. "
    "On AWS, use `faceq deploy`.",
)
FACEQ_PORT: Final = _variable(
    "FACEQ_PORT",
    ALL,
    f"{DEFAULT_PORT}; for a stack with a name a free port",
    "Port of the function URL on this machine.",
)
FACEQ_API_PORT: Final = _variable(
    "FACEQ_API_PORT",
    ALL,
    f"{DEFAULT_API_PORT}; a free port for a stack with a name or with a free function URL",
    "Port of the Lambda API on this machine. The commands find the containers there.",
)
FACEQ_QUEUE_PORT: Final = _variable(
    "FACEQ_QUEUE_PORT",
    ALL,
    f"{DEFAULT_QUEUE_PORT}; a free port for a stack with a name or with a free function URL",
    "Port of the queues (SQS) on this machine.",
)

FACEQ_NAME: Final = _variable(
    "FACEQ_NAME",
    LAPTOP,
    "none",
    "Name of the stack on this machine, as with `--name`: up to 31 of a-z, 0-9 and `-`. A stack with a name has its "
    "own state, logs, ports and gallery.",
)
FACEQ_STATE_DIR: Final = _variable(
    "FACEQ_STATE_DIR",
    LAPTOP,
    "the user's state folder",
    "Folder of the running stack's state and logs. Those of a stack with a name are below `stacks` in it.",
)
FACEQ_MODELS_DIR: Final = _variable(
    "FACEQ_MODELS_DIR",
    LAPTOP,
    "`models` in the user's cache folder",
    "Folder of the installed models. The image sets its own.",
)

FACEQ_IMAGE: Final = _variable(
    "FACEQ_IMAGE", CONTAINERS, "`faceq-function`", "Name of the image that the functions' containers run."
)
FACEQ_GATEWAY_IMAGE: Final = _variable(
    "FACEQ_GATEWAY_IMAGE", CONTAINERS, "`faceq-gateway`", "Name of the image that the gateway's container runs."
)
FACEQ_USER: Final = _variable(
    "FACEQ_USER", CONTAINERS, "`65532:65532`", "User and group that read the gallery in the containers."
)
FACEQ_TORCH_INDEX: Final = _variable(
    "FACEQ_TORCH_INDEX", CONTAINERS, "none", "With the engine `torch`: the package index with PyTorch's CPU wheels."
)
FACEQ_GALLERY_OF_HOST: Final = _variable(
    "FACEQ_GALLERY_OF_HOST",
    CONTAINERS,
    "the value of `FACEQ_GALLERY_DIR`",
    "What the gateway shows as the gallery's folder. docker-compose.yml sets it.",
)

FACEQ_GALLERY: Final = _variable(
    "FACEQ_GALLERY",
    TEMPLATE,
    "none",
    "`s3://BUCKET/PREFIX`: where functions on AWS read the gallery. It takes precedence over the folder; `faceq up` "
    "refuses it.",
)
REQUEST_QUEUE_URL: Final = _variable(
    "REQUEST_QUEUE_URL", TEMPLATE, "required by both functions", "The queue that face-detection sends to."
)
RESPONSE_QUEUE_URL: Final = _variable(
    "RESPONSE_QUEUE_URL", TEMPLATE, "required by both functions", "The queue of the answers."
)
DEAD_LETTER_QUEUE_URL: Final = _variable(
    "DEAD_LETTER_QUEUE_URL", TEMPLATE, "none", "Where face-recognition sends frames that failed on every attempt."
)
EXHAUSTED_QUEUE: Final = _variable(
    "EXHAUSTED_QUEUE",
    TEMPLATE,
    "none",
    "Name of the queue where the request queue moves messages after their last attempt; it calls face-recognition, "
    "too.",
)
MAX_RECEIVE_COUNT: Final = _variable(
    "MAX_RECEIVE_COUNT",
    TEMPLATE,
    "5",
    "How often the request queue delivers a message before it moves it to the exhausted queue, at least 1.",
)
AWS_REGION: Final = _variable(
    "AWS_REGION", TEMPLATE, "`AWS_DEFAULT_REGION`, or `us-east-1`", "The region; Lambda sets it."
)

#: Folder in the state folder, with one folder for each stack that has a name.
STACKS: Final = "stacks"
#: A stack's name is part of the names of folders, also where upper and lower case are the same.
_STACK_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}", re.ASCII)
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
    """The folders of the user's models, gallery and running stack; the platform's default where no variable is set.

    A stack with a name has a state folder of its own, and a gallery of its own unless a variable names one.
    """

    models: Path
    gallery: Path
    state: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Paths":
        """Read the three folder variables and the stack's name. Raises SetupError for an invalid name."""
        import platformdirs  # part of faceq[local]: the functions get their folders from variables

        name = stack_name(environ)
        state = _folder(environ, FACEQ_STATE_DIR) or platformdirs.user_state_path("faceq")
        return cls(
            models=_folder(environ, FACEQ_MODELS_DIR) or platformdirs.user_cache_path("faceq") / "models",
            gallery=_folder(environ, FACEQ_GALLERY_DIR) or _default_gallery(name),
            state=state / STACKS / name if name else state,
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
            threads=_number(environ, FACEQ_THREADS, min(processors, os.cpu_count() or 1), 1, MAX_THREADS),
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


def _default_gallery(name: str) -> Path:
    """Return the gallery of a stack: without a name the repository's, which docker-compose.yml mounts, if there is one.

    That of a stack with a name is the same folder in every clone.
    """
    if not name and (repository := Path(__file__).parents[1] / "docker-compose.yml").exists():
        return repository.with_name("gallery")
    import platformdirs

    data = platformdirs.user_data_path("faceq")
    return data / "galleries" / name if name else data / "gallery"


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


def _number(environ: Mapping[str, str], name: str, default: int, least: int, most: int = _MAX_NUMBER) -> int:
    text = environ.get(name)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text[:4000]) < least:  # Python converts at most 4,300 digits
        raise SetupError("bad_setting", f"{name} is '{text}'; set it to a whole number of at least {least}.")
    if len(text) > 4000 or int(text) > most:
        raise SetupError("bad_setting", f"{name} is '{text[:40]}'; set it to a whole number of at most {most}.")
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


def stack_name(environ: Mapping[str, str]) -> str:
    """Return the name of the stack on this machine, empty if it has none. Raises SetupError for an invalid name."""
    name = environ.get(FACEQ_NAME, "")
    if name and not _STACK_NAME.fullmatch(name):
        raise SetupError("bad_setting", f"{FACEQ_NAME} is '{name}'; set it to up to 31 of a-z, 0-9 and '-'.")
    return name


def port(environ: Mapping[str, str], name: str, default: int, least: int = 1) -> int:
    """Read a variable that is a port, `least` to 65535. Raises SetupError for any other value."""
    number = _number(environ, name, default, least)
    if number > 65535:
        raise SetupError("bad_setting", f"{name} is '{number}'; a port is at most 65535.")
    return number


@dataclass(frozen=True)
class Ports:
    """The ports of a stack that is about to start; 0 takes a free one."""

    function_url: int
    lambda_api: int
    queues: int

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str],
        function_url: int | None = None,
        lambda_api: int | None = None,
        queues: int | None = None,
    ) -> "Ports":
        """Read the ports that are not given from the variables. Raises SetupError for an invalid value.

        A stack with a name takes free ports by default. So do the Lambda API and the queues if the function URL does.
        Where the caller gives `function_url` as 0, all three are free ports, whatever the variables are.
        """
        named = bool(stack_name(environ))
        if function_url == 0:
            return cls(0, lambda_api or 0, queues or 0)
        if function_url is None:
            function_url = port(environ, FACEQ_PORT, 0 if named else DEFAULT_PORT, 0)
        free = named or function_url == 0
        if lambda_api is None:
            lambda_api = port(environ, FACEQ_API_PORT, 0 if free else DEFAULT_API_PORT, 0)
        if queues is None:
            queues = port(environ, FACEQ_QUEUE_PORT, 0 if free else DEFAULT_QUEUE_PORT, 0)
        return cls(function_url, lambda_api, queues)
