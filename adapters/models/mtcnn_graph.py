"""MTCNN's three networks as ONNX graphs, made from facenet-pytorch 2.5.3's weights.

Zhang, Zhang, Li, Qiao: Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks, IEEE
Signal Processing Letters 23(10), 2016. `pipeline.detect.Network` says what goes in and what comes out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ArtifactError

#: Old enough for every ONNX Runtime that the project allows, new enough for every operator used.
_OPSET: Final = 13
_IR_VERSION: Final = 8


class Graph:
    """An ONNX graph in the making; every method that adds something returns the name of its output.

    Parameters
    ----------
    name : str
        What the model is called in its file and in errors.
    weights : mapping of str to array
        The trained tensors, named as in PyTorch's state dict.

    """

    def __init__(self, name: str, weights: Mapping[str, NDArray[np.generic]]) -> None:
        self._name = name
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def weight(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return a trained tensor. Raises ArtifactError if it is missing, of another shape or not finite float32."""
        values = self._weights.get(name)
        if values is None:
            raise ArtifactError("broken_model", f"The weights of {self._name} lack the tensor {name!r}.")
        if values.shape != shape or values.dtype != np.float32:
            raise ArtifactError(
                "broken_model",
                f"The weights of {self._name} do not fit: {name!r} is {values.dtype} {values.shape}, "
                f"not float32 {shape}.",
            )
        floats = values.astype(np.float32, copy=False)
        if not np.isfinite(floats).all():
            raise ArtifactError("broken_model", f"The weights of {self._name} are not finite numbers: {name!r}.")
        return floats

    def constant(self, name: str, values: NDArray[np.float32]) -> str:
        """Add a tensor that is part of the model."""
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, operator: str, inputs: Sequence[str], **attributes: int | float | Sequence[int]) -> str:
        """Add an ONNX operator with one output."""
        output = f"{operator.lower()}_{len(self._nodes)}"
        node = helper.make_node(operator, inputs, [output], output)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._nodes.append(node)
        return output

    def rename(self, output: str, name: str) -> str:
        """Give the graph's own output a name that people read."""
        (node,) = (node for node in self._nodes if node.output[0] == output)
        node.output[0] = name
        return name

    def model(
        self, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, Sequence[int | str]]
    ) -> onnx.ModelProto:
        """Return the checked model; a dimension is its size, or a word where it varies."""

        def infos(values: Mapping[str, Sequence[int | str]]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]

        graph = helper.make_graph(self._nodes, self._name, infos(inputs), infos(outputs), self._constants)
        model: onnx.ModelProto = helper.make_model(
            graph,
            producer_name="faceq",
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid("", _OPSET)],
        )
        onnx.checker.check_model(model, full_check=True)
        return model


@dataclass(frozen=True)
class _Network:
    """One of the three: convolutions with PReLU and pooling, perhaps a dense layer, one linear layer per output.

    Layers are numbered through: the dense layer comes after the last convolution, and the outputs share a number.
    """

    side: int | None  # pixels of the input, None where it varies
    convolutions: tuple[tuple[int, int, int | None], ...]  # channels, kernel, pooling window (stride 2)
    dense: tuple[int, int] | None  # values in, values out
    heads: Mapping[str, tuple[int, int]]  # output -> number after the underscore, values


_NETWORKS: Final[Mapping[str, _Network]] = MappingProxyType(
    {
        "pnet": _Network(
            side=None,
            convolutions=((10, 3, 2), (16, 3, None), (32, 3, None)),
            dense=None,
            heads={"offsets": (2, 4), "probabilities": (1, 2)},
        ),
        "rnet": _Network(
            side=24,
            convolutions=((28, 3, 3), (48, 3, 3), (64, 2, None)),
            dense=(576, 128),
            heads={"offsets": (2, 4), "probabilities": (1, 2)},
        ),
        "onet": _Network(
            side=48,
            convolutions=((32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, None)),
            dense=(1152, 256),
            heads={"offsets": (2, 4), "landmarks": (3, 10), "probabilities": (1, 2)},
        ),
    }
)


def build(name: Literal["pnet", "rnet", "onet"], weights: Mapping[str, NDArray[np.generic]]) -> onnx.ModelProto:
    """Make one of the three networks.

    Parameters
    ----------
    name : str
    weights : mapping of str to array
        The state dict of facenet-pytorch's class of that name.

    Returns
    -------
    onnx.ModelProto
        Input `pixels` (n, 3, h, w) float32; outputs `offsets`, `landmarks` (O-Net only) and `probabilities`, in this
        order. h and w vary for P-Net only.

    Raises
    ------
    ArtifactError
        A tensor is missing or does not fit; the message names it.

    """
    network = _NETWORKS[name]
    graph = Graph(name, weights)
    x, channels = "pixels", 3
    for number, (wide, kernel, window) in enumerate(network.convolutions, start=1):
        x = _convolution(graph, x, f"conv{number}", (wide, channels, kernel, kernel))
        x = graph.add("PRelu", [x, _parameter(graph, f"prelu{number}.weight", (wide,), (wide, 1, 1))])
        if window is not None:
            x = graph.add("MaxPool", [x], kernel_shape=[window, window], strides=[2, 2], ceil_mode=1)
        channels = wide

    number = len(network.convolutions) + 1
    if network.dense is not None:
        # The weights expect columns, rows, channels: they come from a framework that stores pictures that way.
        x = graph.add("Flatten", [graph.add("Transpose", [x], perm=[0, 3, 2, 1])])
        inputs, channels = network.dense
        x = _dense(graph, x, f"dense{number}", (channels, inputs))
        x = graph.add("PRelu", [x, _parameter(graph, f"prelu{number}.weight", (channels,), (channels,))])
        number += 1

    batch: tuple[int | str, ...] = ("n",)
    cells: tuple[int | str, ...] = ("rows", "columns") if network.dense is None else ()
    outputs = {}
    for output, (part, values) in network.heads.items():
        if network.dense is None:
            head = _convolution(graph, x, f"conv{number}_{part}", (values, channels, 1, 1))
        else:
            head = _dense(graph, x, f"dense{number}_{part}", (values, channels))
        if output == "probabilities":
            head = graph.add("Softmax", [head], axis=1)
        outputs[graph.rename(head, output)] = (*batch, values, *cells)
    sides: tuple[int | str, ...] = ("h", "w") if network.side is None else (network.side, network.side)
    return graph.model({"pixels": (*batch, 3, *sides)}, outputs)


def _convolution(graph: Graph, x: str, name: str, shape: tuple[int, int, int, int]) -> str:
    weight, bias = (_parameter(graph, f"{name}.{part}", of) for part, of in (("weight", shape), ("bias", shape[:1])))
    return graph.add("Conv", [x, weight, bias], kernel_shape=shape[2:])


def _dense(graph: Graph, x: str, name: str, shape: tuple[int, int]) -> str:
    weight, bias = (_parameter(graph, f"{name}.{part}", of) for part, of in (("weight", shape), ("bias", shape[:1])))
    return graph.add("Gemm", [x, weight, bias], transB=1)


def _parameter(graph: Graph, name: str, shape: tuple[int, ...], as_shape: tuple[int, ...] | None = None) -> str:
    return graph.constant(name, graph.weight(name, shape).reshape(as_shape or shape))
