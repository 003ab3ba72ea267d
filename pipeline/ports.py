"""What the pipeline asks of the outside world, as contracts.

Each implementation lives in `adapters`, one file per technology, and passes the suite of its port in
`tests/conformance`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: The most bytes of UTF-8 that one queue message may hold, attributes included (SQS, since August 2025).
MAX_MESSAGE_BYTES = 1_048_576

#: An upright RGB picture: (H, W, 3) uint8, H and W at least 1.
Image: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Face:
    """One face as the detector sees it, in pixels of the upright image.

    Parameters
    ----------
    box : (4,) float32
        x1, y1, x2, y2 with x1 < x2 and y1 < y2. May reach outside the image.
    score : float
        How sure the detector is, 0 to 1.
    landmarks : (5, 2) float32
        x, y of the left eye, right eye, nose, left and right corner of the mouth, as the viewer sees left and right.

    """

    box: NDArray[np.float32]
    score: float
    landmarks: NDArray[np.float32]

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        x1, y1, x2, y2 = self.box.tolist()
        return float((x2 - x1) * (y2 - y1))


class FaceDetector(Protocol):
    """Finds faces. One call at a time; an instance is not shared between threads."""

    def detect(self, image: Image) -> list[Face]:
        """Return every face in `image`, largest box first; an empty list where there is none.

        Any image is answered, also one smaller than a face. Raises nothing of its own.
        """
        ...


class FaceEmbedder(Protocol):
    """Turns face crops into vectors whose Euclidean distance says how alike two faces are.

    One call at a time; an instance is not shared between threads.

    Attributes
    ----------
    model : str
        Id of the weights, as a gallery records it: `vggface2`, `casia-webface`, `dlib`, `stand-in`, `file-<8 hex>`.
    preprocessing : str
        Id of how a crop is cut and normalised, a key of `pipeline.embed.PREPROCESSINGS`.
    dimensions : int
        Length of a vector.
    threshold : float
        The model's own limit: a nearest person further away than this is nobody we know. Euclidean distance, > 0.

    """

    model: str
    preprocessing: str
    dimensions: int
    threshold: float

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed crops of shape (n, S, S, 3) uint8 RGB, S as the preprocessing says, into (n, dimensions) float32.

        n may be 0. The result is finite, deterministic, and does not depend on what else is in the batch beyond
        1e-5. Vectors have unit length where the model was trained so (facenet), else the length it gives (dlib).
        """
        ...


class MessageSender(Protocol):
    """Sends to one queue."""

    def send(self, body: str) -> None:
        """Put `body` on the queue; return when the queue has it (at least once).

        Raises
        ------
        TransientError
            The queue cannot be reached or refuses for now.
        ValueError
            `body` is empty, longer than `MAX_MESSAGE_BYTES`, or holds a character that SQS refuses, such as U+0000.

        """
        ...


class ArtifactStore(Protocol):
    """A few named blobs, such as a gallery. Names are plain file names; a path in a name is a ValueError.

    Safe to use from several processes. A reader sees the old or the new content of a blob, never a mixture, also
    when the writer is killed at any point.
    """

    def read(self, name: str) -> bytes:
        """Return the content of `name`. Raises FileNotFoundError if there is none, TransientError if unreachable."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Replace `name` by `content` as one step. Raises TransientError if it cannot."""
        ...

    def delete(self, name: str) -> None:
        """Remove `name`; nothing happens if there is none. Raises TransientError if it cannot."""
        ...

    def names(self) -> Sequence[str]:
        """Return the names that exist, sorted. Raises TransientError if unreachable."""
        ...

    def version(self, name: str) -> str | None:
        """Return a token that changes whenever `name` is written, None if there is none. Cheap: no content is read."""
        ...
