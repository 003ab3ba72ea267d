"""The recognisers that faceq knows: their names, thresholds, licences and sources.

Functions import this when they start, so it needs the standard library only.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final

from adapters.models.checksums import sha256_of
from pipeline.errors import SetupError

AUTO: Final = "auto"
VGGFACE2: Final = "vggface2"
CASIA_WEBFACE: Final = "casia-webface"
DLIB: Final = "dlib"
STAND_IN: Final = "stand-in"

_FILE_ID = re.compile("file-[0-9a-f]{8}")


@dataclass(frozen=True)
class KnownModel:
    """What we know of a recogniser before it is downloaded.

    Parameters
    ----------
    id : str
        What settings and galleries call it.
    preprocessing : str
        A key of `pipeline.embed.PREPROCESSINGS`.
    dimensions : int
        Length of an embedding.
    threshold : float
        Largest Euclidean distance between two embeddings of one person.
    licence, source : str
        Of the weights.
    download_bytes : int
        Size of the download.
    description : str
        Short, for lists.

    """

    id: str
    preprocessing: str
    dimensions: int
    threshold: float
    licence: str
    source: str
    download_bytes: int
    description: str


_RELEASE = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9"

#: The thresholds are for comparing one face with many people, where a wrong name costs more than an `Unknown`:
#:
#: vggface2: in 50 photos of 8 people, the same person's photos are at most 0.682 apart, different people's at least
#: 0.718, and those of strangers who look alike 0.78. Other projects publish thresholds of about 1.04 to 1.18 for these
#: weights. They are for comparing two faces, and accept 4 to 17 of 100 pairs of strangers.
#: casia-webface: the two most similar strangers in facenet-pytorch's test table are 0.993 apart, with vggface2 0.886.
#: This threshold is higher than vggface2's by less than that ratio, because casia-webface is less accurate.
#: dlib: its author publishes 0.6 for comparing two faces. Compared with 14 photos of 6 people, 3 of 46 strangers' faces
#: come within 0.6 and 1 within 0.5. The same person's photos are at most 0.28 apart there.
#: stand-in: one crop at two JPEG qualities is at most 0.05 apart, one moved by two pixels 0.06, another face 0.7.
CATALOGUE: Final[Mapping[str, KnownModel]] = MappingProxyType(
    {
        model.id: model
        for model in (
            KnownModel(
                id=VGGFACE2,
                preprocessing="facenet-160",
                dimensions=512,
                threshold=0.7,
                licence="MIT",
                source=f"{_RELEASE}/20180402-114759-vggface2.pt",
                download_bytes=111_898_327,
                description="FaceNet trained on VGGFace2",
            ),
            KnownModel(
                id=CASIA_WEBFACE,
                preprocessing="facenet-160",
                dimensions=512,
                threshold=0.75,
                licence="MIT",
                source=f"{_RELEASE}/20180408-102900-casia-webface.pt",
                download_bytes=115_887_415,
                description="FaceNet trained on CASIA-WebFace",
            ),
            KnownModel(
                id=DLIB,
                preprocessing="dlib-160",
                dimensions=128,
                threshold=0.5,
                licence="CC0-1.0",
                source="face-recognition-models 0.3.0 on the Python package index",
                download_bytes=100_149_358,
                description="dlib's ResNet; needs faceq[dlib]",
            ),
            KnownModel(
                id=STAND_IN,
                preprocessing="facenet-160",
                dimensions=512,
                threshold=0.1,
                licence="MIT",
                source="random numbers from a fixed seed",
                download_bytes=0,
                description="random weights, for tests only",
            ),
        )
    }
)


def model_id(name: str) -> str:
    """Return the id of a model, given its id or the path of its weight file.

    The id of a weight file is `file-` and the first 8 hex digits of its SHA-256. Raises SetupError if there is no such
    model or the file cannot be read.
    """
    if name in CATALOGUE or _FILE_ID.fullmatch(name):
        return name
    if not name.endswith((".pt", ".pth")):
        raise SetupError(
            "unknown_model",
            f"There is no model {name!r}. Take one of {', '.join(CATALOGUE)}, or the path of a .pt or .pth file.",
        )
    try:
        return f"file-{sha256_of(Path(name))[:8]}"
    except OSError as error:
        raise SetupError("not_readable", f"The weights {name} cannot be read: {error.strerror}.") from error


def check_dlib() -> None:
    """Raise SetupError if the Python module that runs dlib's models is missing."""
    if find_spec("dlib") is None:
        raise SetupError("no_dlib", "The model 'dlib' needs a package. Run: pip install '.[dlib]'")
