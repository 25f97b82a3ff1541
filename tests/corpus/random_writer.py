"""Writing graphs of chance: names, and the ways in which exporters write weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

T = TypeVar("T")

# Operator sets and IR versions that onnxruntime's releases of the last years take.
OPSETS = (9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)
IR_VERSIONS = (3, 4, 6, 7, 8, 9, 10)
FUNCTION_DOMAIN = "local.functions"
BATCH = 2


class Choices(Protocol):
    """A source of chance."""

    def integer(self, low: int, high: int) -> int:
        """A whole number, both bounds included."""

    def pick(self, options: Sequence[T]) -> T:
        """One of them."""

    def chance(self, percent: int) -> bool:
        """Whether something happens that happens so often."""


class Chance:
    """NumPy's generator."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self._generator.integers(low, high, endpoint=True))

    def pick(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def chance(self, percent: int) -> bool:
        return self.integer(0, 99) >= 100 - percent


class Drawn:
    """Hypothesis; the smallest example has nothing odd in it."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        return self._draw(st.sampled_from(options))

    def chance(self, percent: int) -> bool:
        return self._draw(st.integers(0, 99)) >= 100 - percent


class GraphWriter:
    """A graph in the making. Values are known with their shape behind the batch axis."""

    def __init__(self, choices: Choices) -> None:
        self.choose = choices
        self.opset = choices.pick(OPSETS)
        self.ir_version = choices.pick(IR_VERSIONS)
        self.numbers = np.random.default_rng(choices.integer(0, 2**16))
        self.dimensions = 1 if choices.chance(12) else 2
        # onnxruntime runs half precision on the CPU by casts around each operator.
        self.dtype = np.dtype(np.float16 if choices.chance(6) else np.float32)
        self.kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.overridable: set[str] = set()
        self.functions: list[onnx.FunctionProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        # Weights with their convolution's layout, to be shared.
        self.conv_weights: dict[tuple[int, ...], list[str]] = {}
        self.padded: set[str] = set()
        self.count = 0
        self.asks_flag = False

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def emit(
        self,
        op_type: str,
        inputs: Sequence[str],
        shape: tuple[int, ...],
        **attributes: Any,
    ) -> str:
        result = self.name("t")
        name = self.name(op_type) if not self.choose.chance(15) else ""
        self.nodes.append(helper.make_node(op_type, inputs, [result], name=name, **attributes))
        self.shapes[result] = shape
        return result

    def held(self, array: np.ndarray) -> str:
        name = self.name("w")
        self.weights[name] = array
        if self.choose.chance(8):
            self.overridable.add(name)
        return name

    def constant(self, array: np.ndarray) -> str:
        """``array`` in one of the ways in which exporters write weights."""
        way = self.choose.integer(0, 11)
        if array.ndim == 0 or array.dtype != self.dtype:
            way = min(way, 2)
        result = self.name("c")
        if way == 1:
            tensor = numpy_helper.from_array(array, "")
            self.nodes.append(helper.make_node("Constant", [], [result], value=tensor))
        elif way == 2:
            self.nodes.append(helper.make_node("Identity", [self.held(array)], [result]))
        elif way == 3 and array.ndim > 1:
            order = list(np.roll(np.arange(array.ndim), 1))
            source = self.held(np.ascontiguousarray(np.transpose(array, np.argsort(order))))
            self.nodes.append(helper.make_node("Transpose", [source], [result], perm=order))
        elif way == 4:
            return self.sliced(array)
        elif way == 5 and self.opset >= 10 and self.dtype == np.float32:
            return self.quantized(array)
        elif way == 6:
            half = self.held(array / 2)
            self.nodes.append(helper.make_node("Add", [half, half], [result]))
        else:
            return self.held(array)
        return result

    def quantized(self, array: np.ndarray) -> str:
        """Bytes behind a DequantizeLinear: never again what ``array`` was, but near."""
        scale = np.float32(max(np.abs(array).max(), 0.1) / 127)
        numbers = np.round(array / scale).astype(np.int8)
        inputs = [self.held(numbers), self.held(scale), self.held(np.array(0, np.int8))]
        result = self.name("c")
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [result]))
        return result

    def sliced(self, array: np.ndarray) -> str:
        result = self.name("c")
        source = self.held(np.concatenate([array, array + 1]))
        if self.opset < 10:
            node = helper.make_node(
                "Slice", [source], [result], axes=[0], starts=[0], ends=[len(array)]
            )
        else:
            bounds = [self.held(np.array([number], np.int64)) for number in (0, len(array), 0)]
            node = helper.make_node("Slice", [source, *bounds], [result])
        self.nodes.append(node)
        return result

    def normal(self, *shape: int) -> np.ndarray:
        return self.numbers.standard_normal(shape).astype(self.dtype)
