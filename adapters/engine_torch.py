"""Face detection and recognition with facenet-pytorch, as the original service runs them.

The tests in tests/parity compare the ONNX engine with this one. It needs `faceq[torch]`.
"""

import sys
from collections.abc import Mapping
from importlib import import_module

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.models.catalogue import STAND_IN
from adapters.models.installed import InstalledDetector, InstalledModel
from adapters.models.weights import read_state_dict
from pipeline.detect import Cascade, Floats, Network, suppress
from pipeline.embed import standardise
from pipeline.errors import SetupError
from pipeline.ports import Face, FaceDetector, FaceEmbedder, Image


def _import_torchvision() -> bool:
    """Import torchvision; return whether its compiled operators work.

    The wheels of the package index are linked against CUDA. With a CPU build of torch their operators do not load, and
    the import fails because torchvision refers to operators that do not exist. If we declare them, the import succeeds.
    facenet-pytorch needs one of them, `nms`, which `_batched_nms` replaces. With a matching build of torch we declare
    and replace nothing.
    """
    try:
        torchvision = import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        torchvision = import_module("torchvision")
    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except RuntimeError:
        return False
    return True


def _batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Replace torchvision.ops.batched_nms; all boxes are of one image here, so `idxs` is not needed."""
    del idxs
    return torch.from_numpy(suppress(boxes.numpy(), scores.numpy(), iou_threshold))


_OPERATORS_WORK = _import_torchvision()

# These import torchvision, so they come after `_import_torchvision`.
import facenet_pytorch  # noqa: E402
from facenet_pytorch.models.utils import detect_face  # noqa: E402

if not _OPERATORS_WORK:
    detect_face.batched_nms = _batched_nms


def detector(files: InstalledDetector, min_face_size: int, threads: int) -> FaceDetector:  # noqa: ARG001
    """Load MTCNN with the weights that facenet-pytorch contains, which are those of `files`."""
    torch.set_num_threads(threads)
    return _Detector(min_face_size)


def embedder(model: InstalledModel, threads: int) -> FaceEmbedder:
    """Load InceptionResnetV1. Raises SetupError if the file is missing or broken, or a tensor has another shape."""
    torch.set_num_threads(threads)
    network = facenet_pytorch.InceptionResnetV1().eval()
    weights = {name: torch.from_numpy(values) for name, values in _weights(model).items()}
    try:
        missing = network.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:  # a weight has another shape
        raise _unsuitable_weights(model) from error
    if any(not name.endswith("num_batches_tracked") for name in missing):  # counters that only training uses
        raise _unsuitable_weights(model)
    return _Embedder(model, network)


def _weights(model: InstalledModel) -> Mapping[str, NDArray[np.generic]]:
    if model.id == STAND_IN:
        from adapters.models.facenet_graph import stand_in_weights

        return stand_in_weights()
    return read_state_dict(model.files["weights"])


def _unsuitable_weights(model: InstalledModel) -> SetupError:
    return SetupError(
        "broken_model", f"The weights of {model.id} do not fit InceptionResnetV1. Run: faceq models get {model.id}"
    )


class _Detector:
    def __init__(self, min_face_size: int) -> None:
        self._mtcnn = facenet_pytorch.MTCNN(keep_all=True, min_face_size=min_face_size)
        pnet, rnet, onet = (_function(network) for network in (self._mtcnn.pnet, self._mtcnn.rnet, self._mtcnn.onet))
        self._cascade = Cascade(pnet, rnet, onet, min_face_size)

    def detect(self, image: Image) -> list[Face]:
        try:
            boxes, scores, landmarks = self._mtcnn.detect(image, landmarks=True)
        except (RuntimeError, IndexError, ValueError):
            # facenet-pytorch raises these errors if an image is smaller than a face (#176) or a proposal is outside
            # the image (#182, deepface#1264). Our cascade runs the same networks in the same order and gives a result.
            return self._cascade.detect(image)
        if boxes is None:
            return []
        return [
            Face(box.astype(np.float32), float(score), points.astype(np.float32))
            for box, score, points in zip(boxes, scores, landmarks, strict=True)
            if (box[2:] > box[:2]).all()
        ]


class _Embedder:
    def __init__(self, model: InstalledModel, network: torch.nn.Module) -> None:
        self.model = model.id
        self.preprocessing = model.preprocessing
        self.dimensions = model.dimensions
        self.threshold = model.threshold
        self._network = network

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not len(crops):
            return np.empty((0, self.dimensions), np.float32)
        with torch.inference_mode():
            vectors: NDArray[np.float32] = self._network(torch.from_numpy(standardise(crops))).numpy()
        return vectors


def _function(network: torch.nn.Module) -> Network:
    def run(values: Floats) -> list[Floats]:
        with torch.inference_mode():
            return [output.numpy() for output in network(torch.from_numpy(values))]

    return run
