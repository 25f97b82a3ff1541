"""How many multiplications a model takes, by kind of operator, from the shapes of its graph."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnxsep.convolution import Kind
from onnxsep.errors import InputError
from onnxsep.runtime import make_session, run

# Operator to the position of its weight among the inputs.
_CONVOLUTIONS = {
    "Conv": 1,
    "FusedConv": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
}
_TRANSPOSED = "ConvTranspose"
# Operator to the position of its second factor, and the kind under which it counts.
_PRODUCTS = {
    "Gemm": (1, "Gemm"),
    "FusedGemm": (1, "Gemm"),
    "QGemm": (3, "Gemm"),
    "MatMul": (1, "MatMul"),
    "FusedMatMul": (1, "MatMul"),
    "MatMulInteger": (1, "MatMul"),
    "MatMulIntegerToFloat": (1, "MatMul"),
    "DynamicQuantizeMatMul": (1, "MatMul"),
    "QLinearMatMul": (3, "MatMul"),
}
_COUNTED = {*_CONVOLUTIONS, _TRANSPOSED, *_PRODUCTS}
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_LEAST_CONVOLUTION = 3  # axes of a weight: outputs, inputs, one spatial axis


def count_work(
    model: ir.Model, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[int, dict[str, int]]:
    """Multiplications of convolutions and matrix products in one run.

    Shapes come from ONNX's shape inference; where it cannot follow (operators of other domains, a
    Reshape computed from a shape), the model runs once, on zeros, to show them. What lies inside
    the branches and bodies of If, Loop and Scan, or in functions, is not counted.

    Args:
        model: Left unchanged.
        input_shapes: Shapes of inputs by name; a free first axis of any other counts one image.

    Returns:
        The total, and the same by kind, largest first: standard, pointwise, depthwise or grouped
        for convolutions, ``ConvTranspose``, ``Gemm`` and ``MatMul``, their quantized forms
        included.

    Raises:
        InputError: The size of an input is not known, or a shape could not be found out.
    """
    sized = model.clone()
    nodes = [node for node in sized.graph if node.op_type in _COUNTED and node.domain in _DOMAINS]
    if not nodes:
        return 0, {}
    _fix_inputs(sized, input_shapes or {})
    # Declared shapes of inner values were made for other sizes of the inputs.
    for node in sized.graph:
        for value in node.outputs:
            value.shape = None
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(sized)
    shapes = {value: _static_shape(value) for node in nodes for value in _factors(node)}
    unknown = [value for value, shape in shapes.items() if shape is None]
    if unknown:
        shapes.update(_shapes_that_ran(sized, unknown))
    work: Counter[str] = Counter()
    for node in nodes:
        kind, multiplications = _count(node, [shapes[value] or () for value in _factors(node)])
        work[kind] += multiplications
    return work.total(), dict(work.most_common())


def convolution_kind(weight: Sequence[int], group: int) -> Kind:
    """The kind of a convolution, as `ConvSite.kind` names it.

    Args:
        weight: Shape of the weight, (outputs, inputs / group, *kernel).
        group: Number of groups.
    """
    if group > 1:
        return "depthwise" if weight[1] == 1 else "grouped"
    return "pointwise" if math.prod(weight[2:]) == 1 else "standard"


def _factors(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
    """First factor, second factor, and output of a node that is counted.

    Raises:
        InputError: One is missing.
    """
    position = _CONVOLUTIONS.get(node.op_type, 1)
    if node.op_type in _PRODUCTS:
        position = _PRODUCTS[node.op_type][0]
    first, second = (
        node.inputs[index] if index < len(node.inputs) else None for index in (0, position)
    )
    if first is None or second is None:
        raise InputError(f"the node '{node.name}' ({node.op_type}) lacks an input")
    return first, second, node.outputs[0]


def _count(node: ir.Node, shapes: Sequence[Sequence[int]]) -> tuple[str, int]:
    first, second, output = shapes
    if node.op_type in _CONVOLUTIONS:
        if len(second) < _LEAST_CONVOLUTION or not second[0]:
            raise InputError(f"the weight of the convolution '{node.name}' is malformed")
        group = node.attributes.get_int("group", 1)
        return convolution_kind(second, group), math.prod(output) * math.prod(second[1:])
    if node.op_type == _TRANSPOSED:
        # Every input value meets every tap of its own channel's kernels.
        return _TRANSPOSED, math.prod(first) * math.prod(second[1:])
    kind = _PRODUCTS[node.op_type][1]
    if not first or not math.prod(output):
        return kind, 0
    if kind == "Gemm":
        return kind, math.prod(first) * math.prod(output) // output[0]
    transposed = node.attributes.get_int("transA", 0)
    return kind, math.prod(output) * (first[-2] if transposed and len(first) > 1 else first[-1])


def _fix_inputs(model: ir.Model, input_shapes: Mapping[str, Sequence[int]]) -> None:
    """Give every input of the graph a static shape."""
    named: dict[str, int] = {}
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        name = value.name or ""
        declared = value.shape
        if name in input_shapes:
            sizes: list[int | None] = list(input_shapes[name])
        elif declared is None:
            raise InputError(f"the input '{name}' has no shape; give it one")
        else:
            sizes = []
            for axis, size in enumerate(declared):
                if isinstance(size, int):
                    sizes.append(size)
                else:
                    sizes.append(named.get(str(size.value)) or (1 if axis == 0 else None))
        for axis, size in enumerate(declared or ()):
            known = sizes[axis] if axis < len(sizes) else None
            if not isinstance(size, int) and size.value is not None and known is not None:
                named.setdefault(size.value, known)
        if any(size is None for size in sizes):
            raise InputError(
                f"the size of axis {sizes.index(None)} of the input '{name}' is free; give a shape"
            )
        value.shape = ir.Shape(sizes)


def _static_shape(value: ir.Value) -> tuple[int, ...] | None:
    tensor = value.const_value
    shape = tensor.shape if value.shape is None and tensor is not None else value.shape
    if shape is None:
        return None
    sizes = tuple(size for size in shape if isinstance(size, int))
    return sizes if len(sizes) == len(shape) else None


def _shapes_that_ran(
    model: ir.Model, values: Sequence[ir.Value]
) -> dict[ir.Value, tuple[int, ...]]:
    """The shapes of values of the main graph when the inputs are zeros.

    Raises:
        InputError: onnxruntime cannot run the model.
    """
    feeds = {
        value.name or "": np.zeros(_static_shape(value) or (), (value.dtype or _FLOAT).numpy())
        for value in model.graph.inputs
        if not value.is_initializer()
    }
    outputs = list(model.graph.outputs)
    wanted = [value for value in dict.fromkeys(values) if value.producer() is not None]
    extra = [value for value in wanted if not value.is_graph_output()]
    model.graph.outputs.extend(extra)
    session = make_session(model, threads=1)
    arrays = run(session, feeds, label="the model on zeros")
    by_name = dict(zip([value.name for value in (*outputs, *extra)], arrays, strict=True))
    return {value: by_name[value.name].shape for value in wanted}


_FLOAT = ir.DataType.FLOAT
