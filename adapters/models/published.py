"""The published files that faceq uses, each pinned by its size and SHA-256, and where they are published."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from adapters.models.catalogue import CASIA_WEBFACE, CATALOGUE, VGGFACE2


@dataclass(frozen=True)
class PinnedFile:
    """One published file.

    Parameters
    ----------
    path : str
        Its path inside its package, or its URL.
    size : int
        Bytes.
    sha256 : str
        64 hex digits.

    """

    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(urlsplit(self.path).path).name


@dataclass(frozen=True)
class Package:
    """A package of the Python package index and the files that we take from it.

    Parameters
    ----------
    name, version : str
    sha256 : str or None
        Of the archive. None if each platform has its own archive; then only wheels are taken, which run no code.
    files : tuple of PinnedFile

    """

    name: str
    version: str
    sha256: str | None
    files: tuple[PinnedFile, ...]


FACENET_PYTORCH: Final = Package(
    "facenet-pytorch",
    "2.5.3",
    "b8002c3ee7a3af471c433cbda1fdcab9ae2d46a4aac43435ba08259c45ffc884",
    tuple(
        PinnedFile(f"facenet_pytorch/data/{name}.pt", size, sha256)
        for name, size, sha256 in (
            ("pnet", 28_570, "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f"),
            ("rnet", 403_147, "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86"),
            ("onet", 1_559_269, "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d"),
        )
    ),
)
FACE_RECOGNITION_MODELS: Final = Package(
    "face-recognition-models",
    "0.3.0",
    "b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
    (
        PinnedFile(
            "face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
            22_466_066,
            "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        ),
        PinnedFile(
            "face_recognition_models/models/shape_predictor_5_face_landmarks.dat",
            9_150_489,
            "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
        ),
    ),
)
#: Two photographs of people in the public domain, for the demo and the tests.
ASTRONAUT: Final = Package(
    "scikit-image",
    "0.26.0",
    None,
    (
        PinnedFile(
            "skimage/data/astronaut.png", 791_555, "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"
        ),
    ),
)
GRACE_HOPPER: Final = Package(
    "matplotlib",
    "3.11.2",
    None,
    (
        PinnedFile(
            "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
            61_306,
            "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
        ),
    ),
)
#: AWS's Lambda Runtime Interface Emulator, for tests outside containers; the image contains a copy of its own.
RIE: Final = Package(
    "aws-sam-cli",
    "1.170.0",
    "24ebaf5ecba38dc1758089968cb89ab61e124b84e92a344fc7a2771a47f4d0bf",
    (
        PinnedFile(
            "samcli/local/rapid/aws-lambda-rie-x86_64",
            9_265_314,
            "6b1e686e62ab2baf5759c412c4864276ef2a88b094fca53ec070637ccba9b9a5",
        ),
        PinnedFile(
            "samcli/local/rapid/aws-lambda-rie-arm64",
            8_585_378,
            "ec2e5d09633d853834c008b1ef264bf834b258a94d551d2b2074966494b39a21",
        ),
    ),
)
#: facenet-pytorch publishes no checksums for its release files. Other projects pin these sizes and checksums for the
#: same files: eight repositories pin the first checksum, one the second. The second size is right to the byte for a
#: network like the first with 10,575 people instead of 8,631. A file that differs is refused.
RELEASE_FILES: Final[Mapping[str, PinnedFile]] = MappingProxyType(
    {
        VGGFACE2: PinnedFile(
            CATALOGUE[VGGFACE2].source,
            CATALOGUE[VGGFACE2].download_bytes,
            "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
        ),
        CASIA_WEBFACE: PinnedFile(
            CATALOGUE[CASIA_WEBFACE].source,
            CATALOGUE[CASIA_WEBFACE].download_bytes,
            "7a67afdbbc995fce5e10128675e318799a70698c2f433ba75dd7eb9a2f096e7d",
        ),
    }
)


@dataclass(frozen=True)
class Sources:
    """Where the models come from.

    Parameters
    ----------
    detector : Package
        With the weights of the networks P, R and O of MTCNN, in this order.
    dlib : Package
        With dlib's recognition network and its landmarks, in this order.
    releases : Mapping of str to PinnedFile
        Weights that a server publishes, by model id.

    """

    detector: Package = FACENET_PYTORCH
    dlib: Package = FACE_RECOGNITION_MODELS
    releases: Mapping[str, PinnedFile] = field(default_factory=lambda: RELEASE_FILES)


PUBLISHED: Final = Sources()
