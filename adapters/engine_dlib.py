"""Face recognition with dlib: a ResNet with 128 dimensions (King 2017), whose weights are in the public domain."""

import dlib
import numpy as np
from numpy.typing import NDArray

from adapters.models.installed import InstalledModel
from pipeline.embed import PREPROCESSINGS
from pipeline.errors import SetupError
from pipeline.ports import FaceEmbedder

#: The network was trained on chips of this size: faces that are rotated and scaled by their eyes and nose, with a
#: margin of a quarter of a face's width (dlib's face_recognition.py example).
_CHIP_SIZE = 150
_CHIP_PADDING = 0.25


def embedder(model: InstalledModel, threads: int) -> FaceEmbedder:  # noqa: ARG001 - dlib's networks run on one thread
    """Load dlib's recogniser and its five-point landmarks. Raises SetupError if a file is missing or broken."""
    return _Embedder(model)


class _Embedder:
    def __init__(self, model: InstalledModel) -> None:
        self.model = model.id
        self.preprocessing = model.preprocessing
        self.dimensions = model.dimensions
        self.threshold = model.threshold
        preprocessing = PREPROCESSINGS[model.preprocessing]
        # The detector's box is at the same place in every crop.
        box = preprocessing.size / (1 + preprocessing.margin)
        start, end = round((preprocessing.size - box) / 2), round((preprocessing.size + box) / 2)
        self._box = dlib.rectangle(start, start, end, end)
        try:
            self._landmarks = dlib.shape_predictor(str(model.files["landmarks"]))
            self._network = dlib.face_recognition_model_v1(str(model.files["recognition"]))
        except RuntimeError as error:
            raise SetupError(
                "broken_model",
                f"The files {model.files['recognition']} and {model.files['landmarks']} cannot be loaded. "
                f"Delete them, then run: faceq models get {model.id}",
            ) from error

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        vectors = np.empty((len(crops), self.dimensions), np.float32)
        for row, crop in enumerate(crops):
            landmarks = self._landmarks(crop, self._box)
            chip = dlib.get_face_chip(crop, landmarks, _CHIP_SIZE, _CHIP_PADDING)
            vectors[row] = self._network.compute_face_descriptor(chip)
        return vectors
