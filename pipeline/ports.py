"""The ports: what the pipeline needs from outside, as contracts.

Each implementation lives in `adapters`, one file per technology, and passes the suite of its port in
`tests/conformance`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics import Metric

#: Most bytes of UTF-8 in one queue message, attributes included (SQS, since August 2025).
MAX_MESSAGE_BYTES = 1_048_576

#: An upright RGB picture: (H, W, 3) uint8, H and W at least 1.
Image: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face, in pixels of the upright image.

    Parameters
    ----------
    box : (4,) float32
        x1, y1, x2, y2 with x1 < x2 and y1 < y2. May reach outside the image.
    score : float
        Confidence of the detector, 0 to 1.
    landmarks : (5, 2) float32
        x, y of the left eye, right eye, nose, and the left and right corner of the mouth. Left and right are the
        viewer's.

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
        """Return all faces in `image`, largest box first; an empty list if it shows none.

        Works for any image, even one smaller than a face, and raises no error of its own.
        """
        ...


class FaceEmbedder(Protocol):
    """Turns face crops into vectors. The smaller the Euclidean distance of two, the more alike are the faces.

    One call at a time; an instance is not shared between threads.

    Attributes
    ----------
    model : str
        Id of the weights, as galleries record it: `vggface2`, `casia-webface`, `dlib`, `stand-in`, `file-<8 hex>`.
    preprocessing : str
        Id of how a crop is cut and normalised, a key of `pipeline.embed.PREPROCESSINGS`.
    dimensions : int
        Length of a vector.
    threshold : float
        Euclidean distance, > 0. A face further than this from every enrolled photo is unknown. A new gallery takes it
        over from the model.

    """

    model: str
    preprocessing: str
    dimensions: int
    threshold: float

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed a batch of crops.

        Parameters
        ----------
        crops : (n, S, S, 3) uint8
            RGB, S as the preprocessing says; n may be 0.

        Returns
        -------
        (n, dimensions) float32
            Finite and deterministic. The other crops of the batch change a vector by at most 1e-5. Vectors have
            length 1 if the model was trained that way (facenet), else any length (dlib).

        """
        ...


class MessageSender(Protocol):
    """Sends to one queue."""

    def send(self, body: str) -> None:
        """Put `body` on the queue. Returns when the queue has stored it, at least once.

        Raises
        ------
        TransientError
            The queue cannot be reached, or refuses the message at the moment.
        ValueError
            `body` is empty, longer than `MAX_MESSAGE_BYTES`, or contains a character that SQS refuses, such as U+0000.

        """
        ...


class DeliveredMessages(Protocol):
    """Messages that one queue has delivered: gives them back to it, or deletes them before Lambda does."""

    def delete(self, receipt: str) -> None:
        """Delete a message, so that the queue does not deliver it again.

        Parameters
        ----------
        receipt : str
            Receipt handle. One that is no longer valid is ignored.

        Raises
        ------
        TransientError
            The queue cannot be reached or refuses at the moment.

        """
        ...

    def release(self, receipts: Sequence[str]) -> None:
        """Make messages visible again now, before their visibility timeout ends; their receive count stays as it is.

        Parameters
        ----------
        receipts : sequence of str
            Receipt handles. One that is no longer valid is ignored: its message is visible or deleted already.

        Raises
        ------
        TransientError
            The queue cannot be reached or refuses at the moment.

        """
        ...


class MetricsRecorder(Protocol):
    """Collects what an invocation did, and reports it once, at its end. Not shared between threads."""

    def count(self, metric: Metric, number: int = 1) -> None:
        """Add `number`, at least 0, to a metric whose unit is `COUNT`. Raises ValueError for any other number."""
        ...

    def milliseconds(self, metric: Metric, value: float) -> None:
        """Add a duration, finite and at least 0, to a metric whose unit is `MILLISECONDS`; each value is kept.

        Raises ValueError for any other value.
        """
        ...

    def flush(self) -> None:
        """Report what was collected since the last call, if anything. Reporting fails silently: it may lose no frame.

        A metric to which nothing but 0 was added is left out.
        """
        ...


class ArtifactStore(Protocol):
    """A few named blobs, such as those of a gallery.

    Names are plain file names; all methods raise ValueError for a name that contains a path. Several processes may use
    one store. A reader sees either the old or the new content of a blob, never a mixture, even if the writer is killed.
    """

    def read(self, name: str) -> bytes:
        """Return the content of `name`. Raises FileNotFoundError if absent, TransientError if unreachable."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Create `name`, or replace its content, in one step. Raises TransientError if unreachable."""
        ...

    def delete(self, name: str) -> None:
        """Delete `name`, if it exists. Raises TransientError if unreachable."""
        ...

    def names(self) -> Sequence[str]:
        """Return the names of all blobs, sorted. Raises TransientError if unreachable."""
        ...

    def version(self, name: str) -> str | None:
        """Return a token that changes whenever `name` is written; None if it does not exist.

        Cheap, because no content is read. Raises TransientError if unreachable.
        """
        ...
