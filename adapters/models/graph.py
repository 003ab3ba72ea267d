"""A builder of ONNX graphs, for networks whose weights are published without a graph."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import SetupError

#: Old enough for every version of ONNX Runtime that faceq permits, new enough for every operator that we use.
_OPSET: Final = 13
_IR_VERSION: Final = 8


class Graph:
    """Builds an ONNX graph. Every method that adds something returns the name of its output.

    Parameters
    ----------
    name : str
        The model's name in its file and in errors.
    weights : mapping of str to array
        The trained tensors, named as in PyTorch's state dict.

    """

    def __init__(self, name: str, weights: Mapping[str, NDArray[np.generic]]) -> None:
        self._name = name
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def weight(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return a trained tensor. Raises SetupError if it is missing, has another shape, or is not finite float32."""
        values = self._weights.get(name)
        if values is None:
            raise SetupError("broken_model", f"The weights of {self._name} lack the tensor {name!r}.")
        if values.shape != shape or values.dtype != np.float32:
            raise SetupError(
                "broken_model",
                f"The weights of {self._name} do not fit: {name!r} is {values.dtype} {values.shape}, "
                f"not float32 {shape}.",
            )
        floats = values.astype(np.float32, copy=False)
        if not np.isfinite(floats).all():
            raise SetupError("broken_model", f"The weights of {self._name} are not finite numbers: {name!r}.")
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
        """Give an output of the whole graph a readable name."""
        (node,) = (node for node in self._nodes if node.output[0] == output)
        node.output[0] = name
        return name

    def model(
        self, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, Sequence[int | str]]
    ) -> onnx.ModelProto:
        """Return the checked model. A dimension is its size, or a name if it varies."""

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
