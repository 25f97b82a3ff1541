"""Convolutional graphs of chance, in as many legal spellings as exporters have found.

One builder, two sources of chance: a seeded generator for the corpus, hypothesis for tests, which
shrinks what fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from .random_blocks import BlockWriter
from .random_writer import BATCH, FUNCTION_DOMAIN, Choices, Drawn


@st.composite
def random_graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """A strategy of what `random_graph` makes."""
    return random_graph(Drawn(draw))


def random_graph(choices: Choices) -> onnx.ModelProto:
    """A valid model: float ``x`` (N, C, size...), maybe bool ``flag``; one to three outputs."""
    return _Graph(choices).build()


class _Graph(BlockWriter):
    """Operators of convolutional networks, one on the other."""

    def build(self) -> onnx.ModelProto:
        choose = self.choose
        channels = choose.pick((8, 3, 9, 12, 16, 1))
        size = tuple(choose.pick((7, 8, 6, 9)) for _ in range(self.dimensions))
        self.shapes["x"] = (channels, *size)
        for _ in range(choose.integer(1, 7)):
            step = choose.pick(self.steps())
            # Mostly what has just been computed, so that chains are as common as forks.
            known = list(self.shapes)
            step(choose.pick(known) if choose.chance(25) else known[-1])
        outputs = self.outputs()
        if choose.chance(30):
            outputs.append(self.head(outputs[-1]))
        if choose.chance(20):
            self.mix_names()
        return self.model(channels, size, outputs)

    def steps(self) -> list[Callable[[str], None]]:
        conv, norm = self.conv, self.batchnorm
        steps = [conv, conv, conv, self.conv_and_norm, norm, norm, self.activation]
        steps += [self.add, self.concat, self.pool, self.clip, self.dropout, self.branch]
        steps += [self.pad, self.transposed_conv, self.affine, self.loop]
        if self.ir_version >= 8 and self.opset >= 15:
            steps += [self.call, self.call]
        return steps

    def conv(self, source: str) -> None:
        choose = self.choose
        channels, *size = self.shapes[source]
        groups = [number for number in (1, channels, 2, 3) if channels % number == 0]
        group = choose.pick(groups) if choose.chance(25) else 1
        outputs = group * choose.integer(1, 4) if group > 1 else choose.pick((8, 12, 1, 4, 17))
        kernel = tuple(choose.pick((3, 1, 2, 5)) for _ in size)
        attributes, result_size = self.geometry(kernel, tuple(size))
        if not result_size:
            return
        shape = (outputs, channels // group, *kernel)
        inputs = [source, self.conv_weight(shape)]
        bias = choose.integer(0, 3)
        if bias == 1:
            inputs.append(self.constant(self.normal(outputs)))
        elif bias == 2:
            inputs.append("")
        if group > 1 or choose.chance(30):
            attributes["group"] = group
        if choose.chance(60):
            attributes["kernel_shape"] = list(kernel)
        self.emit("Conv", inputs, (outputs, *result_size), **attributes)

    def geometry(
        self, kernel: tuple[int, ...], size: tuple[int, ...]
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Attributes, and the size of the result; empty if there would be nothing of it."""
        choose = self.choose
        attributes: dict[str, Any] = {}
        strides = tuple(choose.pick((1, 2, 3)) if choose.chance(25) else 1 for _ in size)
        dilations = tuple(2 if choose.chance(15) else 1 for _ in size)
        if max(strides) > 1 or choose.chance(30):
            attributes["strides"] = list(strides)
        automatic = choose.pick(("NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))
        # onnxruntime gets the padding wrong of dilated kernels under SAME.
        if automatic.startswith("SAME"):
            dilations = (1,) * len(size)
        if max(dilations) > 1 or choose.chance(20):
            attributes["dilations"] = list(dilations)
        reach = [step * (taps - 1) + 1 for step, taps in zip(dilations, kernel, strict=True)]
        if automatic != "NOTSET":
            attributes["auto_pad"] = automatic
        if automatic.startswith("SAME"):
            found = [-(-extent // stride) for extent, stride in zip(size, strides, strict=True)]
            return attributes, tuple(found)
        pads = [0] * (2 * len(size))
        if automatic == "NOTSET" and choose.chance(70):
            pads = [each // 2 for each in reach] * 2
            if choose.chance(25):
                pads = [choose.integer(0, 2) for _ in pads]
            attributes["pads"] = pads
        found = [
            (extent + pads[axis] + pads[axis + len(size)] - reach[axis]) // strides[axis] + 1
            for axis, extent in enumerate(size)
        ]
        return attributes, tuple(found) if min(found) > 0 else ()

    def transposed_conv(self, source: str) -> None:
        channels, *size = self.shapes[source]
        if max(size) > 20:
            return
        outputs = self.choose.pick((8, 3))
        kernel = (2,) * len(size)
        weight = self.constant(self.normal(channels, outputs, *kernel) / self.dtype.type(channels))
        shape = (outputs, *(2 * extent for extent in size))
        strides = [2] * len(size)
        self.emit("ConvTranspose", [source, weight], shape, strides=strides)

    def conv_and_norm(self, source: str) -> None:
        before = len(self.shapes)
        self.conv(source)
        if len(self.shapes) > before:
            self.batchnorm(list(self.shapes)[-1])

    def batchnorm(self, source: str) -> None:
        self.normalized(source)

    def normalized(self, source: str) -> str:
        channels = self.shapes[source][0]
        inputs = [source, *(self.constant(array) for array in self.statistics(channels))]
        attributes: dict[str, Any] = {}
        if self.choose.chance(50):
            attributes["epsilon"] = self.choose.pick((1e-5, 1e-3, 0.1))
        if self.opset >= 14 and self.choose.chance(20):
            attributes["training_mode"] = 0
        return self.emit("BatchNormalization", inputs, self.shapes[source], **attributes)

    def affine(self, source: str) -> None:
        """What exporters make of a BatchNormalization: one Mul and one Add."""
        channels, *size = self.shapes[source]
        shape = (channels, *(1 for _ in size))
        factor, addend = (self.constant(self.normal(*shape)) for _ in range(2))
        product = self.emit("Mul", [source, factor], self.shapes[source])
        self.emit("Add", [addend, product], self.shapes[source])

    def activation(self, source: str) -> None:
        kind = self.choose.pick(("Relu", "LeakyRelu", "Sigmoid", "Identity", "Tanh"))
        self.emit(kind, [source], self.shapes[source])

    def clip(self, source: str) -> None:
        if self.opset < 11:
            self.emit("Clip", [source], self.shapes[source], min=0.0, max=6.0)
            return
        bound = self.constant(np.array(1.5, self.dtype))
        inputs = [source, "", bound] if self.choose.chance(50) else [source, bound, ""]
        self.emit("Clip", inputs, self.shapes[source])

    def dropout(self, source: str) -> None:
        self.emit("Dropout", [source], self.shapes[source])
        if self.choose.chance(50):
            self.nodes[-1].output.append("" if self.choose.chance(50) else self.name("mask"))

    def add(self, source: str) -> None:
        shape = self.shapes[source]
        others = [name for name, other in self.shapes.items() if other == shape]
        self.emit("Add", [source, self.choose.pick(others)], shape)

    def concat(self, source: str) -> None:
        channels, *size = self.shapes[source]
        others = [name for name, other in self.shapes.items() if other[1:] == tuple(size)]
        other = self.choose.pick(others)
        if channels + self.shapes[other][0] <= 40:
            shape = (channels + self.shapes[other][0], *size)
            self.emit("Concat", [source, other], shape, axis=1)

    def pool(self, source: str) -> None:
        channels, *size = self.shapes[source]
        # onnxruntime makes Pads and a pool one, and refuses it where the kernel is no larger.
        if min(size) < 4 or source in self.padded:
            return
        shape = (channels, *((extent - 2) // 2 + 1 for extent in size))
        kind = self.choose.pick(("MaxPool", "AveragePool"))
        both = [2] * len(size)
        self.emit(kind, [source], shape, kernel_shape=both, strides=both)

    def pad(self, source: str) -> None:
        channels, *size = self.shapes[source]
        pads = [0, 0, *(1 for _ in size), 0, 0, *(0 for _ in size)]
        shape = (channels, *(extent + 1 for extent in size))
        if max(size) > 20:
            return
        if self.opset < 11:
            result = self.emit("Pad", [source], shape, pads=pads)
        else:
            result = self.emit("Pad", [source, self.constant(np.array(pads, np.int64))], shape)
        self.padded.add(result)

    def head(self, source: str) -> str:
        """Pooled, flattened, multiplied and normalized: the end of a classifier."""
        choose, channels = self.choose, self.shapes[source][0]
        pooled = self.emit(
            "GlobalAveragePool", [source], (channels, *(1 for _ in self.shapes[source][1:]))
        )
        flat = self.emit("Flatten", [pooled], (channels,))
        if choose.chance(40):
            flat = self.normalized(flat)
        weight = self.normal(channels, 5) / self.dtype.type(math.sqrt(channels))
        if choose.chance(50):
            result = self.emit("MatMul", [flat, self.constant(weight)], (5,))
        else:
            inputs = [flat, self.constant(np.ascontiguousarray(weight.T))]
            if self.opset < 11 or choose.chance(50):
                inputs.append(self.constant(self.normal(5)))
            factors = {"alpha": 0.5, "beta": 2.0} if choose.chance(30) else {}
            result = self.emit("Gemm", inputs, (5,), transB=1, **factors)
        return self.normalized(result) if choose.chance(60) else result

    # --- The whole

    def outputs(self) -> list[str]:
        known = list(self.shapes)[1:]
        if not known:
            self.activation("x")
            known = list(self.shapes)[1:]
        outputs = {known[-1]: None}
        for _ in range(2):
            if self.choose.chance(15):
                outputs[self.choose.pick(known)] = None
        return list(outputs)

    def mix_names(self) -> None:
        """Several nodes of one name, or none with any."""
        name = self.choose.pick(("", "node", "t1"))
        for node in self.nodes:
            node.name = name

    def model(
        self, channels: int, size: tuple[int, ...], outputs: Sequence[str]
    ) -> onnx.ModelProto:
        batch: int | str = self.choose.pick(("N", BATCH))
        free = self.choose.chance(8)
        declared = [batch, channels, *(f"s{axis}" if free else n for axis, n in enumerate(size))]
        inputs = [helper.make_tensor_value_info("x", self.kind, declared)]
        if self.asks_flag:
            inputs.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
        as_inputs = set(self.weights) if self.ir_version < 4 else self.overridable
        for name, array in self.weights.items():
            if name in as_inputs:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
        results = [
            helper.make_tensor_value_info(
                name,
                self.kind,
                [batch, self.shapes[name][0], *(None for _ in self.shapes[name][1:])],
            )
            for name in outputs
        ]
        floats = [name for name, array in self.weights.items() if array.dtype == self.dtype]
        if floats and self.choose.chance(4):
            name = self.choose.pick(floats)  # a weight that the caller wants to see
            shape = self.weights[name].shape
            results.append(helper.make_tensor_value_info(name, self.kind, shape))
        held = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "random", inputs, results, held)
        # Two names of one and the same domain.
        standard = self.choose.pick(("", "", "", "", "", "ai.onnx"))
        imports = [helper.make_opsetid(standard, self.opset)]
        if self.functions:
            imports.append(helper.make_opsetid(FUNCTION_DOMAIN, 1))
        return helper.make_model(
            graph,
            opset_imports=imports,
            ir_version=self.ir_version,
            functions=self.functions,
        )
