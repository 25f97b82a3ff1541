"""What the model wants: read off its graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.data.inputs import (
    ImageGeometry,
    InputSpec,
    image_geometry,
    image_input,
    input_specs,
    static_batch,
    unbatched_inputs,
)
from onnxsep.errors import InputError

FLOAT = np.dtype(np.float32)


def spec(*shape: int | str | None, name: str = "x", dtype: type = np.float32) -> InputSpec:
    return InputSpec(name, shape, np.dtype(dtype))


def test_names_shapes_and_types_are_read_and_defaults_left_out() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[batch, 3, 32, W] x, bool cond, int64[2] n, float[1] bias)
            => (float[batch, 3, 32, W] y) <float[1] bias = {1.0}> {
            y = Add(x, bias)
        }"""
    )
    assert input_specs(model) == [
        InputSpec("x", ("batch", 3, 32, "W"), FLOAT),
        InputSpec("cond", (), np.dtype(np.bool_)),
        InputSpec("n", (2,), np.dtype(np.int64)),
    ]


def test_an_unnamed_dynamic_axis_is_none() -> None:
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([None, 4]))
    graph = ir.Graph([value], [value], nodes=[], opset_imports={"": 17})
    assert input_specs(ir.Model(graph, ir_version=8)) == [InputSpec("x", (None, 4), FLOAT)]


def test_a_negative_axis_is_dynamic() -> None:
    """Some exporters write -1 for that."""
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([-1, 4]))
    graph = ir.Graph([value], [value], nodes=[], opset_imports={"": 17})
    assert input_specs(ir.Model(graph, ir_version=8)) == [InputSpec("x", (None, 4), FLOAT)]


@pytest.mark.parametrize(
    ("declaration", "said"),
    [
        ("bfloat16[1, 3] x", "BFLOAT16"),
        ("string[1] x", "STRING"),
        ("seq(float[1]) x", "tensor"),
        ("float[2, 0, 4] x", "size 0"),
        ("float[0, 3, 8, 8] x", "size 0"),
        ("float[1, 3, 100000, 100000] x", "takes more than"),
    ],
    ids=["bfloat16", "string", "sequence", "no-channels", "no-batch", "all the memory"],
)
def test_what_cannot_be_fed_is_named(declaration: str, said: str) -> None:
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g ({declaration}) => (float[1] y) {{ y = Constant <value_floats = [1.0]> () }}"""
    )
    with pytest.raises(InputError, match=f"input 'x'.*{said}"):
        input_specs(model)


@dataclass(frozen=True)
class GeometryCase:
    name: str
    spec: InputSpec
    expected: ImageGeometry | None


GEOMETRIES = [
    GeometryCase("color", spec("n", 3, 224, 200), ImageGeometry("NCHW", 224, 200, 3)),
    GeometryCase("channels last", spec(1, 224, 200, 3), ImageGeometry("NHWC", 224, 200, 3)),
    GeometryCase("gray last", spec(1, 28, 30, 1), ImageGeometry("NHWC", 28, 30, 1)),
    GeometryCase("dynamic size", spec("n", 1, "h", None), ImageGeometry("NCHW", None, None, 1)),
    GeometryCase("dynamic last", spec(None, None, None, 3), ImageGeometry("NHWC", None, None, 3)),
    GeometryCase("all dynamic", spec(None, "c", "h", "w"), ImageGeometry("NCHW", None, None, 3)),
    GeometryCase("many channels", spec(1, 13, 64, 64), ImageGeometry("NCHW", 64, 64, 13)),
    GeometryCase("8 bits", spec(1, 3, 8, 9, dtype=np.uint8), ImageGeometry("NCHW", 8, 9, 3)),
    GeometryCase("integers", spec(1, 3, 8, 9, dtype=np.int64), None),
    GeometryCase("rank 3", spec(1, 3, 8), None),
]


@pytest.mark.parametrize("case", GEOMETRIES, ids=lambda case: case.name)
def test_image_axes(case: GeometryCase) -> None:
    assert image_geometry(case.spec) == case.expected


def test_the_first_input_of_one_or_three_channels_is_the_image() -> None:
    mask, image = spec(1, 2, 8, 8, name="mask"), spec(1, 3, 8, 8, name="image")
    assert image_input([spec(1, 5), mask, image]) == image
    assert image_input([mask]) is None


@dataclass(frozen=True)
class BatchCase:
    name: str
    specs: list[InputSpec]
    batch: int | None
    unbatched: frozenset[str]


BATCHES = [
    BatchCase("dynamic", [spec("n", 3, 8, 8)], None, frozenset()),
    BatchCase("static", [spec(4, 3, 8, 8)], 4, frozenset()),
    BatchCase("scalar beside", [spec(name="c"), spec("n", 3, 8, 8)], None, frozenset({"c"})),
    BatchCase("anchors beside", [spec("n", 3, 8, 8), spec(9, 4, name="a")], None, frozenset({"a"})),
    BatchCase("other name", [spec("n", 3, 8, 8), spec("m", 4, name="b")], None, frozenset()),
    BatchCase("static beside", [spec(1, 3, 8, 8), spec(1, 4, name="b")], 1, frozenset()),
    BatchCase("length beside", [spec(1, 3, 8, 8), spec("k", name="l")], 1, frozenset({"l"})),
    BatchCase("only a scalar", [spec(name="c")], None, frozenset({"c"})),
]


@pytest.mark.parametrize("case", BATCHES, ids=lambda case: case.name)
def test_batch_axis(case: BatchCase) -> None:
    assert static_batch(case.specs) == case.batch
    assert unbatched_inputs(case.specs) == case.unbatched
