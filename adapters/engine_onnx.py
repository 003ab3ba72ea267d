"""Face detection and recognition with ONNX Runtime."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.models.installed import InstalledDetector, InstalledModel
from pipeline.detect import Cascade
from pipeline.embed import PREPROCESSINGS, standardise
from pipeline.errors import SetupError
from pipeline.ports import FaceDetector, FaceEmbedder

# ONNX Runtime reads this variable when it is imported. Without it, versions from 1.29 on write an id of this machine
# into the home folder and report to Microsoft.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

#: How many faces are embedded together. More would cost memory and save no time.
_BATCH = 8


def detector(files: InstalledDetector, min_face_size: int, threads: int) -> FaceDetector:
    """Load MTCNN's three networks. Raises SetupError if a file is missing or broken."""
    pnet, rnet, onet = (_Network(files.files[name], threads, "faceq models get") for name in ("pnet", "rnet", "onet"))
    return Cascade(pnet, rnet, onet, min_face_size)


def embedder(model: InstalledModel, threads: int) -> FaceEmbedder:
    """Load InceptionResnetV1. Raises SetupError if the file is missing or broken."""
    return _Embedder(model, _Network(model.files["onnx"], threads, f"faceq models get {model.id}"))


class _Network:
    """One ONNX graph with a single input, as a function of arrays.

    Parameters
    ----------
    path : Path
        The ONNX file.
    threads : int
    command : str
        Installs the file again; part of the error message if the file is broken.

    """

    def __init__(self, path: Path, threads: int, command: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # Idle threads sleep instead of spinning, because two functions and a queue share the laptop's processors.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's error classes have no other common base
            raise SetupError(
                "broken_model", f"The model file {path} cannot be loaded. Delete it, then run: {command}"
            ) from error
        self._input = self._session.get_inputs()[0].name

    def __call__(self, values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        outputs: list[NDArray[np.float32]] = self._session.run(None, {self._input: values})
        return outputs


class _Embedder:
    def __init__(self, model: InstalledModel, network: _Network) -> None:
        self.model = model.id
        self.preprocessing = model.preprocessing
        self.dimensions = model.dimensions
        self.threshold = model.threshold
        self._size = PREPROCESSINGS[model.preprocessing].size
        self._network = network

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        vectors = np.empty((len(crops), self.dimensions), np.float32)
        for start in range(0, len(crops), _BATCH):
            batch = standardise(crops[start : start + _BATCH])
            (vectors[start : start + len(batch)],) = self._network(batch)
        return vectors
