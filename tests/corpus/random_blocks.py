"""Blocks of a convolution, a BatchNormalization and an activation inside branches and functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .random_writer import FUNCTION_DOMAIN, GraphWriter


class BlockWriter(GraphWriter):
    """Graphs inside the graph."""

    def conv_weight(self, shape: tuple[int, ...]) -> str:
        known = self.conv_weights.setdefault(shape, [])
        if known and self.choose.chance(50):
            return self.choose.pick(known)
        fan_in = math.prod(shape[1:])
        name = self.constant(self.normal(*shape) / self.dtype.type(math.sqrt(fan_in)))
        known.append(name)
        return name

    def statistics(self, channels: int) -> list[np.ndarray]:
        scale = self.normal(channels)
        if self.choose.chance(10):
            scale[: 1 + channels // 3] = 0  # pruned channels
        variance = self.numbers.uniform(0.1, 3.0, channels).astype(self.dtype)
        return [scale, self.normal(channels), self.normal(channels), variance]

    def block_weights(self, channels: int, size: Sequence[int]) -> list[str]:
        """Names of a weight, which others may use too, and four statistics."""
        shape = (channels, channels, *([3] * len(size)))
        statistics = [self.constant(array) for array in self.statistics(channels)]
        return [self.conv_weight(shape), *statistics]

    def block(
        self,
        size: Sequence[int],
        source: str,
        names: Sequence[str],
        activation: onnx.NodeProto | None = None,
    ) -> list[onnx.NodeProto]:
        """Conv, BatchNormalization and an activation on weights that ``names`` stand for."""
        weight, *statistics = names
        kernel = [3] * len(size)
        pads = [1] * (2 * len(size))
        # onnxruntime takes no two nodes of one name in a graph; files that have them exist.
        last = "norm" if self.choose.chance(10) else "relu"
        return [
            helper.make_node("Conv", [source, weight], ["a"], kernel_shape=kernel, pads=pads),
            helper.make_node("BatchNormalization", ["a", *statistics], ["b"], name="norm"),
            activation or helper.make_node("Relu", ["b"], ["c"], name=last),
        ]

    def branch(self, source: str) -> None:
        """An If whose branches use weights and values from outside, and hold some of their own."""
        channels, *size = self.shapes[source]
        names = self.block_weights(channels, size)
        own = [f"{name}_in" for name in names] if self.ir_version >= 4 else names
        fan_in = channels * 3 ** len(size)
        weight = self.normal(channels, channels, *([3] * len(size)))
        arrays = [weight / self.dtype.type(math.sqrt(fan_in)), *self.statistics(channels)]
        kept = [numpy_helper.from_array(a, n) for a, n in zip(arrays, own, strict=True)]
        branches = []
        for inner in (own if self.choose.chance(50) else names, names):
            shape = [None] * (1 + len(self.shapes[source]))
            result = helper.make_tensor_value_info("c", self.kind, shape)
            held = kept if inner is not names else []
            block = self.block(size, source, inner)
            branches.append(helper.make_graph(block, "branch", [], [result], held))
        flag = "flag" if self.choose.chance(50) else self.constant(np.array(True))
        self.asks_flag |= flag == "flag"
        self.emit(
            "If", [flag], self.shapes[source], then_branch=branches[0], else_branch=branches[1]
        )

    def loop(self, source: str) -> None:
        """A Loop of two rounds over a block whose weights lie outside."""
        channels, *size = self.shapes[source]
        names = self.block_weights(channels, size)
        shape = [None] * (1 + len(self.shapes[source]))
        kinds = (("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []))
        inputs = [helper.make_tensor_value_info(*kind) for kind in kinds]
        inputs.append(helper.make_tensor_value_info("v", self.kind, shape))
        outputs = [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("c", self.kind, shape),
        ]
        block = self.block(size, "v", names)
        block.append(helper.make_node("Identity", ["go"], ["still"]))
        body = helper.make_graph(block, "body", inputs, outputs)
        rounds = self.constant(np.array(2, np.int64))
        self.emit("Loop", [rounds, "", source], self.shapes[source], body=body)

    def call(self, source: str) -> None:
        """A function of the model that holds a block and an attribute; called once or more."""
        channels, *size = self.shapes[source]
        name = f"block{len(size)}"
        if not self.functions:
            roles = ["weight", "scale", "bias", "mean", "variance"]
            activation = helper.make_node("LeakyRelu", ["b"], ["c"])
            activation.attribute.append(
                onnx.AttributeProto(
                    name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT
                )
            )
            block = self.block(size, "data", roles, activation)
            imports = [helper.make_opsetid("", self.opset)]
            self.functions.append(
                helper.make_function(
                    FUNCTION_DOMAIN, name, ["data", *roles], ["c"], block, imports, ["slope"]
                )
            )
        inputs = [source, *self.block_weights(channels, size)]
        slope = self.choose.pick((0.0, 0.1, 0.5))
        shape = self.shapes[source]
        self.emit(name, inputs, shape, domain=FUNCTION_DOMAIN, slope=slope)
