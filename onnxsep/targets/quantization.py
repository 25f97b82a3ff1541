"""How each target takes eight-bit integers: the table that the `quantize` pass follows.

Only types and operators that the target's own kernels take are named; everything else would be a
detour through float that costs time, or a node that falls back to another provider.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import numpy as np
import onnx
import onnxruntime

from onnxsep.errors import ConfigurationError

ActivationType = Literal["uint8", "int8", "float16"]

# Per-axis DequantizeLinear came with it.
OLDEST_OPSET = 13
WEIGHT_BITS = 8
# Two products of a seven-bit weight and an eight-bit activation fit into 16 bits; of eight-bit
# weights they do not.
SATURATING_WEIGHT_BITS = 7

# Operators with weights: what quantization is for.
WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
# Operators that move numbers and change none: integers go through as they are.
RESHAPING = frozenset(
    {
        "DepthToSpace",
        "Flatten",
        "MaxPool",
        "Reshape",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
_BETWEEN = frozenset(
    {"Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid"}
)


@dataclasses.dataclass(frozen=True)
class QuantizationScheme:
    """The quantization of one target.

    Weights are int8 everywhere, with one scale per output channel and zero point 0.

    Attributes:
        activation: Type of activations; ``float16`` where there is no int8 kernel.
        symmetric: Whether the zero point of activations is 0.
        operators: Types that run on integers. Those without weights only do so between others that
            do.
        float_results: Operators with weights whose kernel hands out float where no integers are
            wanted.
        inputs_only: Put QuantizeLinear and DequantizeLinear in front of operators only, one pair
            for each that reads a value, and on weights too, which stay float in the file.
        integer_bias: Whether the bias is int32 with the scale of input times weight.
        free_batch: Whether the batch may be a free dimension.
        free_size: Whether channels and sizes of images may be free dimensions.
        may_saturate: Whether some of its processors need weights of seven bits.
        why: The reasons, one sentence.
    """

    activation: ActivationType
    symmetric: bool
    operators: frozenset[str]
    float_results: frozenset[str]
    inputs_only: bool = False
    integer_bias: bool = True
    free_batch: bool = True
    free_size: bool = True
    may_saturate: bool = False
    why: str = ""


_ON_INTEGERS = WEIGHTED | RESHAPING | _BETWEEN
_DENSE = frozenset({"Gemm", "MatMul"})
# What ONNX Runtime's NNAPI provider builds of a group between DequantizeLinear and QuantizeLinear
# (onnxruntime 1.21, nnapi_builtin/builders); AveragePool is left out, since it wants equal scales.
_NNAPI_ON_INTEGERS = frozenset({"Conv", "Gemm", "Add", "Mul", "Concat", "Reshape", "Transpose"})

SCHEMES = {
    "cpu": QuantizationScheme(
        "uint8",
        symmetric=False,
        operators=_ON_INTEGERS,
        float_results=_DENSE,
        may_saturate=True,
        why="the x86 kernels multiply unsigned activations with signed weights",
    ),
    "cpu-arm": QuantizationScheme(
        "int8",
        symmetric=False,
        operators=_ON_INTEGERS,
        float_results=_DENSE,
        why="the ARM kernels multiply signed by signed",
    ),
    "xnnpack": QuantizationScheme(
        "int8",
        symmetric=False,
        operators=_ON_INTEGERS,
        float_results=_DENSE,
        free_size=False,
        why="XNNPACK refuses unsigned activations beside signed weights; what it does not take, "
        "such as Add and Concat, runs on integers in the CPU provider",
    ),
    "nnapi": QuantizationScheme(
        "uint8",
        symmetric=False,
        operators=_NNAPI_ON_INTEGERS,
        float_results=frozenset(),
        free_batch=False,
        free_size=False,
        why="NNAPI refuses signed activations and free dimensions, and has no integer form of "
        "pools, Sigmoid, Flatten and others: quantized, they would cut the graph",
    ),
    "tensorrt": QuantizationScheme(
        "int8",
        symmetric=True,
        operators=WEIGHTED | {"Add", "AveragePool", "GlobalAveragePool"},
        float_results=WEIGHTED,
        inputs_only=True,
        integer_bias=False,
        why="TensorRT takes zero points of 0 only, wants the inputs of layers quantized and "
        "refuses a bias of integers",
    ),
    "cuda": QuantizationScheme(
        "float16",
        symmetric=True,
        operators=frozenset(),
        float_results=frozenset(),
        why="the CUDA provider has no int8 convolution: quantizing would only add work",
    ),
}


def get_scheme(target: str) -> QuantizationScheme:
    """How the target called ``target`` is quantized.

    Raises:
        ConfigurationError: Nothing is known about it.
    """
    if target in SCHEMES:
        return SCHEMES[target]
    raise ConfigurationError(
        f"how to quantize for {target!r} is not known; known targets are {', '.join(SCHEMES)}"
    )


def weight_bits(scheme: QuantizationScheme) -> int:
    """Bits of weights for a model that shall run on a processor like this machine's.

    Eight, but seven where the scheme's kernels saturate here.
    """
    return SATURATING_WEIGHT_BITS if scheme.may_saturate and saturates_here() else WEIGHT_BITS


@functools.cache
def saturates_here() -> bool:
    """Whether this machine's x86 kernels lose sums of products of unsigned and signed bytes.

    Processors without VNNI add two products in 16 bits, where two of 255 · 127 do not fit. Found
    out by multiplying, not from the name of the processor.
    """
    length = 64
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
            "largest_products",
            [onnx.helper.make_tensor_value_info("a", onnx.TensorProto.UINT8, [length, length])],
            [onnx.helper.make_tensor_value_info("c", onnx.TensorProto.INT32, [length, length])],
            [
                onnx.numpy_helper.from_array(
                    np.full((length, length), np.iinfo(np.int8).max, np.int8), "b"
                )
            ],
        ),
        opset_imports=[onnx.helper.make_opsetid("", OLDEST_OPSET)],
        ir_version=8,
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    largest = np.full((length, length), np.iinfo(np.uint8).max, np.uint8)
    (product,) = session.run(None, {"a": largest})
    exact = length * int(np.iinfo(np.uint8).max) * int(np.iinfo(np.int8).max)
    return bool(np.any(np.asarray(product) != exact))
