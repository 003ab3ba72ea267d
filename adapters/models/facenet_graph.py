"""InceptionResnetV1 as an ONNX graph, built from the weights that facenet-pytorch 2.5.3 publishes.

Szegedy, Ioffe, Vanhoucke, Alemi: Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning,
AAAI 2017, as David Sandberg's facenet trained it and facenet-pytorch ported it. `_LAYERS` describes the architecture:
the graph, the shapes of the weights and the stand-in weights are all derived from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from adapters.models.graph import Graph
from pipeline.errors import SetupError

Weights: TypeAlias = Mapping[str, NDArray[np.generic]]
_Floats: TypeAlias = NDArray[np.float32]

#: Side of a face in pixels, and length of its embedding.
SIZE: Final = 160
DIMENSIONS: Final = 512

#: What BatchNorm adds to the variance: TensorFlow's default, not PyTorch's.
_EPSILON: Final = 1e-3
#: The tensors of a BatchNorm in a state dict. A fourth, `num_batches_tracked`, only matters in training.
_NORM: Final = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class _Unit:
    """A convolution without bias, then BatchNorm, then ReLU."""

    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = False  # with padding that keeps the size


@dataclass(frozen=True)
class _Pool:
    """Max pooling with a window of 3 × 3 and a stride of 2."""


@dataclass(frozen=True)
class _Block:
    """Parallel branches whose outputs are concatenated.

    With a `scale`, the block is residual: the concatenated outputs go through a 1 × 1 convolution with bias, are
    multiplied by `scale` and added to the block's input. ReLU follows if `rectified`.
    """

    branches: tuple[tuple[_Unit | _Pool, ...], ...]
    scale: float | None = None
    rectified: bool = True


def _block35() -> _Block:
    three = _Unit(32, (3, 3), same=True)
    return _Block(((_Unit(32),), (_Unit(32), three), (_Unit(32), three, three)), scale=0.17)


def _block17() -> _Block:
    factored = (_Unit(128), _Unit(128, (1, 7), same=True), _Unit(128, (7, 1), same=True))
    return _Block(((_Unit(128),), factored), scale=0.10)


def _block8(scale: float, rectified: bool) -> _Block:
    factored = (_Unit(192), _Unit(192, (1, 3), same=True), _Unit(192, (3, 1), same=True))
    return _Block(((_Unit(192),), factored), scale, rectified)


#: The layers in order, with their names in facenet-pytorch's state dict.
_LAYERS: Final[Mapping[str, _Unit | _Pool | _Block]] = {
    "conv2d_1a": _Unit(32, (3, 3), stride=2),
    "conv2d_2a": _Unit(32, (3, 3)),
    "conv2d_2b": _Unit(64, (3, 3), same=True),
    "maxpool_3a": _Pool(),
    "conv2d_3b": _Unit(80),
    "conv2d_4a": _Unit(192, (3, 3)),
    "conv2d_4b": _Unit(256, (3, 3), stride=2),
    **{f"repeat_1.{index}": _block35() for index in range(5)},
    "mixed_6a": _Block(
        (
            (_Unit(384, (3, 3), stride=2),),
            (_Unit(192), _Unit(192, (3, 3), same=True), _Unit(256, (3, 3), stride=2)),
            (_Pool(),),
        )
    ),
    **{f"repeat_2.{index}": _block17() for index in range(10)},
    "mixed_7a": _Block(
        (
            (_Unit(256), _Unit(384, (3, 3), stride=2)),
            (_Unit(256), _Unit(256, (3, 3), stride=2)),
            (_Unit(256), _Unit(256, (3, 3), same=True), _Unit(256, (3, 3), stride=2)),
            (_Pool(),),
        )
    ),
    **{f"repeat_3.{index}": _block8(0.20, rectified=True) for index in range(5)},
    "block8": _block8(1.0, rectified=False),
}


def build(weights: Weights) -> onnx.ModelProto:
    """Build the network that turns faces into embeddings.

    Parameters
    ----------
    weights : mapping of str to array
        The state dict of facenet-pytorch's InceptionResnetV1, with or without `logits`.

    Returns
    -------
    onnx.ModelProto
        Input `faces` (n, 3, 160, 160) float32, RGB, (value - 127.5) / 128; output `embeddings` (n, 512) float32 of
        length 1. Every BatchNorm is folded into the layer before it.

    Raises
    ------
    SetupError
        A tensor is missing or does not fit; the message names it.

    """
    graph = Graph("facenet", weights)
    embeddings = _assemble(graph)
    return graph.model({"faces": ("n", 3, SIZE, SIZE)}, {embeddings: ("n", DIMENSIONS)})


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that `build` needs, by name. All are float32."""
    recorder = _ShapeRecorder()
    _assemble(recorder)
    return recorder.shapes


def stand_in_weights() -> dict[str, NDArray[np.float32]]:
    """Return weights for tests of shape and speed. They are always the same, and not trained.

    Almost identical pictures get similar embeddings and other pictures different ones, whoever they show.
    """
    random = np.random.Generator(np.random.PCG64(20180402))
    weights: dict[str, NDArray[np.float32]] = {}
    for name, shape in shapes().items():
        if len(shape) > 1:
            # A part that is constant over each filter blurs the picture, so the details that JPEG changes count less.
            values = random.standard_normal(shape, np.float32)
            values += random.standard_normal((*shape[:2], *(1,) * (len(shape) - 2)), np.float32)
            if name != "conv2d_1a.conv.weight":
                # Activations are never negative. Filters whose values sum to zero react to the differences between
                # activations. Other filters would react to what all pictures have in common, more with every layer.
                values -= values.mean(axis=tuple(range(1, values.ndim)), keepdims=True)
            values *= np.float32(1 / np.sqrt(np.prod(shape[1:])))
        elif name.endswith("running_var"):
            values = random.uniform(0.8, 1.2, shape).astype(np.float32)
        elif name.endswith("bn.weight"):
            values = random.uniform(0.9, 1.1, shape).astype(np.float32)
        else:
            values = (0.02 * random.standard_normal(shape)).astype(np.float32)
        weights[name] = values
    return weights


class _ShapeRecorder(Graph):
    """Records which tensors the network needs, and returns ones for each."""

    def __init__(self) -> None:
        super().__init__("facenet", {})
        self.shapes: dict[str, tuple[int, ...]] = {}

    def weight(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        self.shapes[name] = shape
        return np.ones(shape, np.float32)


def _assemble(graph: Graph) -> str:
    """Add the whole network to `graph`; return its output."""
    x, channels = "faces", 3
    for name, layer in _LAYERS.items():
        if isinstance(layer, _Block):
            x, channels = _block(graph, name, layer, x, channels)
        else:
            x, channels = _step(graph, name, layer, x, channels)
    x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x])])
    weight, bias = _folded(graph, graph.weight("last_linear.weight", (DIMENSIONS, channels)), "last_bn")
    x = graph.add("Gemm", [x, *_constants(graph, "last_linear", weight, bias)], transB=1)
    length = graph.add("ReduceL2", [x], axes=[1], keepdims=1)
    # PyTorch's normalize does this too, so that a vector of zeros stays zero.
    length = graph.add("Clip", [length, graph.constant("shortest", np.array(1e-12, np.float32))])
    return graph.rename(graph.add("Div", [x, length]), "embeddings")


def _block(graph: Graph, name: str, block: _Block, x: str, channels: int) -> tuple[str, int]:
    ends: list[str] = []
    stacked = 0
    for index, branch in enumerate(block.branches):
        end, wide = x, channels
        for position, step in enumerate(branch):
            # In the state dict the steps of a branch are numbered, unless it has only one.
            step_name = f"{name}.branch{index}" + (f".{position}" if len(branch) > 1 else "")
            end, wide = _step(graph, step_name, step, end, wide)
        ends.append(end)
        stacked += wide
    out = graph.add("Concat", ends, axis=1)
    if block.scale is None:
        return out, stacked
    weight = graph.weight(f"{name}.conv2d.weight", (channels, stacked, 1, 1)) * np.float32(block.scale)
    bias = graph.weight(f"{name}.conv2d.bias", (channels,)) * np.float32(block.scale)
    out = graph.add("Conv", [out, *_constants(graph, f"{name}.conv2d", weight, bias)], kernel_shape=[1, 1])
    out = graph.add("Add", [out, x])
    return (graph.add("Relu", [out]) if block.rectified else out), channels


def _step(graph: Graph, name: str, step: _Unit | _Pool, x: str, channels: int) -> tuple[str, int]:
    if isinstance(step, _Pool):
        return graph.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2]), channels
    weight = graph.weight(f"{name}.conv.weight", (step.outputs, channels, *step.kernel))
    border = [side // 2 if step.same else 0 for side in step.kernel]
    out = graph.add(
        "Conv",
        [x, *_constants(graph, f"{name}.conv", *_folded(graph, weight, f"{name}.bn"))],
        kernel_shape=step.kernel,
        strides=[step.stride, step.stride],
        pads=[*border, *border],
    )
    return graph.add("Relu", [out]), step.outputs


def _folded(graph: Graph, weight: _Floats, name: str) -> tuple[_Floats, _Floats]:
    """Return the weight and bias of a layer equal to `weight` followed by the BatchNorm `name`."""
    gamma, beta, mean, variance = (
        graph.weight(f"{name}.{part}", weight.shape[:1]).astype(np.float64) for part in _NORM
    )
    if (variance < 0).any():
        raise SetupError("broken_model", f"The weights of facenet do not fit: {name}.running_var is negative.")
    factor = gamma / np.sqrt(variance + _EPSILON)
    folded = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    return folded.astype(np.float32), (beta - mean * factor).astype(np.float32)


def _constants(graph: Graph, name: str, weight: _Floats, bias: _Floats) -> list[str]:
    return [graph.constant(f"{name}.weight", weight), graph.constant(f"{name}.bias", bias)]
