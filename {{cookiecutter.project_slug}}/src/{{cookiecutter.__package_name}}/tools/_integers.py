"""The integers of quantisation-aware training as operators of ONNX, with the ranges that training found.

Before each rounded layer and, where its outputs are rounded, behind it stands a pair of QuantizeLinear and
DequantizeLinear; weights and biases are integers with a DequantizeLinear. onnxruntime computes what stands between two
pairs in integers.
"""

from typing import Any

import numpy as np
import torch

from ..engine.quantisation import MOST_WEIGHT, Ranges, scale_and_zero, scale_of_weights


class NotFound(Exception):
    """A layer is not in the graph."""


class Writer:
    """Puts the integers of rounded layers into a model of ONNX.

    Args:
        model: The model, which is changed.
        ranges: The ranges of each rounded layer by its name in the network.
        prefix: What the names of weights begin with in the model.
    """

    def __init__(self, model: Any, ranges: Ranges, prefix: str) -> None:
        from onnx import numpy_helper

        self.graph, self.ranges, self.prefix = model.graph, ranges, prefix
        self.values = {one.name: numpy_helper.to_array(one) for one in self.graph.initializer}
        self.made: list[Any] = []  # nodes in their order
        self.rounded: dict[tuple[str, float, float], str] = {}  # what is rounded how → the result

    def write(self) -> None:
        """Put them in.

        Raises:
            NotFound: A layer's weights are those of no Conv or Gemm.
        """
        layers = {self._weights_of(name): name for name in self.ranges}
        makers = {node.input[1]: node for node in self.graph.node if node.op_type in ("Conv", "Gemm")}
        if absent := [name for weight, name in layers.items() if weight not in makers or weight not in self.values]:
            raise NotFound(f"its layer {absent[0]} is no Conv and no Gemm there")
        ends: dict[str, list[float]] = {}  # a tensor → the range that it is rounded in
        for weight, name in layers.items():
            if len(self.ranges[name]) > 1:
                ends[self._normalised(makers[weight].output[0])] = self.ranges[name][1]
        for node in list(self.graph.node):
            name = layers.get(node.input[1]) if node.op_type in ("Conv", "Gemm") else None
            if name is not None:
                self._integers_for(node, *self.ranges[name][0])
            after = [(i, output) for i, output in enumerate(node.output) if output in ends]
            for i, output in after:
                node.output[i] = f"{output}_unrounded"
            self.made.append(node)
            for _, output in after:
                self._round(f"{output}_unrounded", *ends[output], result=output)
        del self.graph.node[:]
        self.graph.node.extend(self.made)
        used = {name for node in self.graph.node for name in node.input}
        kept = [one for one in self.graph.initializer if one.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _weights_of(self, layer: str) -> str:
        return ".".join(filter(None, (self.prefix, layer, "weight")))

    def _normalised(self, output: str) -> str:
        """Return the output of the BatchNorm that takes a layer's, where the exporter has not folded it in."""
        takers = [node for node in self.graph.node if output in node.input]
        norms = [node.output[0] for node in takers if node.op_type == "BatchNormalization"]
        return norms[0] if norms else output

    def _keep(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.made.append(helper.make_node(kind, inputs, [output], name=f"{kind}_{output}", **attributes))
        return output

    def _round(self, tensor: str, low: float, high: float, result: str = "") -> str:
        """Round a tensor in a range."""
        if not result and (tensor, low, high) in self.rounded:
            return self.rounded[tensor, low, high]
        result = result or f"{tensor}_in_{len(self.rounded)}"
        scale, zero = (value.numpy() for value in scale_and_zero(torch.tensor(low), torch.tensor(high)))
        by = [self._keep(f"{result}_scale", scale), self._keep(f"{result}_zero", zero.astype(np.uint8))]
        integers = self._node("QuantizeLinear", [tensor, *by], f"{result}_integers")
        self.rounded[tensor, low, high] = self._node("DequantizeLinear", [integers, *by], result)
        return result

    def _integers_for(self, node: Any, low: float, high: float) -> None:
        """Round the inputs of a layer, and make its weights and biases integers."""
        weight_name = node.input[1]
        weight = self.values[weight_name]
        by_row = node.op_type == "Conv" or any(one.name == "transB" and one.i for one in node.attribute)
        axis = 0 if by_row else 1
        rows = weight if by_row else weight.T
        scale_O = scale_of_weights(torch.from_numpy(rows.copy())).numpy()
        shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
        integers = np.clip(np.rint(weight / scale_O.reshape(shape)), -MOST_WEIGHT, MOST_WEIGHT).astype(np.int8)
        node.input[0] = self._round(node.input[0], low, high)
        node.input[1] = self._dequantised(weight_name, integers, scale_O, axis)
        if len(node.input) > 2 and node.input[2] in self.values:
            scale, _ = scale_and_zero(torch.tensor(low), torch.tensor(high))
            bias_O, step_O = self.values[node.input[2]].astype(np.float64), scale_O.astype(np.float64) * scale.item()
            most = np.iinfo(np.int32).max
            bias = np.clip(np.rint(bias_O / step_O), -most, most).astype(np.int32)
            node.input[2] = self._dequantised(f"{weight_name}_bias", bias, step_O.astype(np.float32), 0)

    def _dequantised(self, name: str, integers: np.ndarray, scale_O: np.ndarray, axis: int) -> str:
        zero_O = np.zeros(len(scale_O), integers.dtype)
        parts = {"integers": integers, "scale": scale_O, "zero": zero_O}
        inputs = [self._keep(f"{name}_{part}", value) for part, value in parts.items()]
        return self._node("DequantizeLinear", inputs, f"{name}_rounded", axis=axis)


def with_integers(model: Any, ranges: Ranges, prefix: str) -> Any:
    """Return a model of ONNX with the integers of rounded layers, see Writer."""
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    Writer(changed, ranges, prefix).write()
    onnx.checker.check_model(changed, full_check=True)
    return changed
