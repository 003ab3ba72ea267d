"""MTCNN's three networks as ONNX graphs, built from facenet-pytorch 2.5.3's weights.

Zhang, Zhang, Li, Qiao: Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks, IEEE
Signal Processing Letters 23(10), 2016. `pipeline.detect.Network` describes the input and the outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from adapters.models.graph import Graph


@dataclass(frozen=True)
class _Network:
    """One network: convolutions with PReLU and pooling, perhaps a dense layer, and a linear layer for each output.

    The layers have consecutive numbers: the dense layer follows the last convolution, and the outputs share a number.
    """

    side: int | None  # pixels of the input, None if it varies
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
    """Build one of the three networks.

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
    SetupError
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
        # The weights expect columns, rows, channels, because they come from a framework with that order.
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
