"""Stand-ins for the outside world, for unit tests. Each passes the conformance suite of its port."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.ports import ArtifactStore, Face, FaceDetector, FaceEmbedder, Image


class MemoryStore(ArtifactStore):
    """Artifacts in a dictionary."""

    def __init__(self) -> None:
        self._blobs: dict[str, tuple[int, bytes]] = {}
        self._writes = 0

    def read(self, name: str) -> bytes:
        if _plain(name) not in self._blobs:
            raise FileNotFoundError(name)
        return self._blobs[name][1]

    def write(self, name: str, content: bytes) -> None:
        self._writes += 1
        self._blobs[_plain(name)] = (self._writes, content)

    def delete(self, name: str) -> None:
        self._blobs.pop(_plain(name), None)

    def names(self) -> Sequence[str]:
        return sorted(self._blobs)

    def version(self, name: str) -> str | None:
        return str(self._blobs[name][0]) if _plain(name) in self._blobs else None


class PatchDetector(FaceDetector):
    """Takes each bright patch on a dark ground for a face."""

    def detect(self, image: Image) -> list[Face]:
        bright = (image.max(axis=2) > 127).astype(np.uint8)
        _, _, stats, centres = cv2.connectedComponentsWithStats(bright)
        faces = [
            Face(np.array([x, y, x + width, y + height], np.float32), 1.0, np.tile(centre, (5, 1)).astype(np.float32))
            for (x, y, width, height, _), centre in zip(stats[1:].tolist(), centres[1:], strict=True)
        ]
        return sorted(faces, key=lambda face: -face.area)


class ColourEmbedder(FaceEmbedder):
    """Knows faces by their colour: the vector is the mean of red, green and blue, of unit length."""

    def __init__(self, model: str = "stand-in", preprocessing: str = "facenet-160") -> None:
        self.model = model
        self.preprocessing = preprocessing
        self.dimensions = 3
        self.threshold = 0.3

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        colours = crops.reshape(len(crops), -1, 3).mean(axis=1, dtype=np.float64) + 1e-6
        unit: NDArray[np.float32] = (colours / np.linalg.norm(colours, axis=1, keepdims=True)).astype(np.float32)
        return unit


def _plain(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a plain file name")
    return name
