"""What is read from a Conv node, and its geometry against what onnxruntime computes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxsep.convolution import ConvSite, Geometry, find_convolutions
from onnxsep.errors import InputError
from onnxsep.runtime import make_session
from onnxsep.runtime import run as run_session
from tests.passes.helpers import model_from_text, normal

HEADER = '<ir_version: 8, opset_import: ["" : 17]> net '
# Rounding of one convolution with a few dozen terms.
TOLERANCE = 1e-5


def convolution(attributes: str, spatial: int, **arrays: np.ndarray) -> ir.Model:
    """A Conv named "conv" of x and the given arrays, with ``spatial`` free axes."""
    free = ",".join(f"s{axis}" for axis in range(spatial))
    out = ",".join(f"t{axis}" for axis in range(spatial))
    inputs = ", ".join(["x", *arrays])
    return model_from_text(
        f"{HEADER} (float[N,C,{free}] x) => (float[N,M,{out}] y) "
        f"{{ [conv] y = Conv <{attributes}> ({inputs}) }}",
        **arrays,
    )


def only_site(model: ir.Model) -> ConvSite:
    sites, others = find_convolutions(model.graph)
    assert not others
    (site,) = sites
    return site


@dataclasses.dataclass(frozen=True)
class Case:
    """A weight of shape (N, C/group, *kernel), and what the site says."""

    id: str
    weight: tuple[int, ...]
    kind: str
    in_channels: int
    group: int = 1

    @property
    def parameters(self) -> int:
        return math.prod(self.weight)


CASES = [
    Case("standard", (8, 4, 3, 3), "standard", 4),
    Case("standard, one input channel", (8, 1, 3, 3), "standard", 1),
    Case("standard, tall", (8, 4, 3, 1), "standard", 4),
    Case("pointwise", (8, 4, 1, 1), "pointwise", 4),
    Case("depthwise", (4, 1, 3, 3), "depthwise", 4, group=4),
    Case("depthwise with multiplier", (8, 1, 3, 3), "depthwise", 4, group=4),
    Case("grouped", (8, 2, 3, 3), "grouped", 4, group=2),
    Case("grouped pointwise", (8, 2, 1, 1), "grouped", 4, group=2),
    Case("one dimension", (8, 4, 5), "standard", 4),
    Case("three dimensions", (2, 3, 2, 3, 1), "standard", 3),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_kind_and_counts(case: Case) -> None:
    model = convolution(f"group = {case.group}", len(case.weight) - 2, w=normal(*case.weight))
    site = only_site(model)
    assert site.kind == case.kind
    assert site.in_channels == case.in_channels
    assert site.out_channels == case.weight[0]
    assert site.taps == math.prod(case.weight[2:])
    assert site.parameters == case.parameters
    assert site.multiplications_per_pixel == case.parameters
    assert (site.name, site.input_name, site.output_name) == ("conv", "x", "y")


def test_example_of_every_textbook() -> None:
    """6×6×3, four 3×3 filters, no padding: 1,728 multiplications dense."""
    site = only_site(convolution("group = 1", 2, w=normal(4, 3, 3, 3)))
    assert math.prod(site.geometry.output_size((6, 6))) * site.multiplications_per_pixel == 1728


def test_everything_has_a_default() -> None:
    geometry = only_site(convolution("group = 1", 2, w=normal(4, 3, 3, 2))).geometry
    assert geometry == Geometry((3, 2), (1, 1), (1, 1), ((0, 0), (0, 0)), "NOTSET")


def test_attributes_are_read() -> None:
    attributes = "pads = [1,2,3,4], strides = [2,3], dilations = [4,5]"
    geometry = only_site(convolution(attributes, 2, w=normal(4, 3, 3, 2))).geometry
    assert geometry == Geometry((3, 2), (2, 3), (4, 5), ((1, 3), (2, 4)))


def test_bias_is_read() -> None:
    site = only_site(convolution("group = 1", 2, w=normal(4, 3, 3, 3), b=normal(4)))
    np.testing.assert_array_equal(site.bias, normal(4))


def test_unnamed_node_is_called_by_its_output() -> None:
    model = convolution("group = 1", 2, w=normal(4, 3, 3, 3))
    model.graph[0].name = None
    assert only_site(model).name == "y"


@pytest.mark.parametrize(
    ("body", "arrays"),
    [
        ("k = Identity (w) y = Conv (x, k)", {"w": normal(4, 3, 3, 3)}),
        (
            "k = Transpose <perm = [3,2,0,1]> (w) y = Conv (x, k)",
            {"w": normal(4, 3, 3, 3).transpose(2, 3, 1, 0)},
        ),
        (
            "i = Identity (w) t = Transpose <perm = [3,2,0,1]> (i) k = Identity (t)"
            " y = Conv (x, k)",
            {"w": normal(4, 3, 3, 3).transpose(2, 3, 1, 0)},
        ),
    ],
    ids=["Identity", "Transpose of a channels-last weight", "both"],
)
def test_weight_behind_other_nodes(body: str, arrays: dict[str, np.ndarray]) -> None:
    text = f"{HEADER} (float[N,3,H,W] x) => (float[N,4,P,Q] y) {{ {body} }}"
    site = only_site(model_from_text(text, **arrays))
    np.testing.assert_array_equal(site.weight, normal(4, 3, 3, 3))


def test_weight_in_a_constant_node() -> None:
    model = model_from_text(
        f"{HEADER} (float[N,1,H] x) => (float[N,2,P] y)"
        "{ w = Constant <value = float[2,1,3] {1,2,3,4,5,6}> () y = Conv (x, w) }"
    )
    np.testing.assert_array_equal(only_site(model).weight.reshape(-1), [1, 2, 3, 4, 5, 6])


WEIGHT = normal(4, 3, 3, 3)


@pytest.mark.parametrize(
    ("signature", "body", "arrays"),
    [
        ("(float[N,3,H,W] x, float[4,3,3,3] k)", "y = Conv (x, k)", {}),
        ("(float[N,3,H,W] x)", "k = Neg (w) y = Conv (x, k)", {"w": WEIGHT}),
        ("(float[N,3,H,W] x)", "b = ReduceSum <keepdims = 0> (w, a) y = Conv (x, w, b)",
         {"w": WEIGHT, "a": np.array([1, 2, 3])}),
        ("(float[N,3,H,W] x)", "k = DequantizeLinear (w, s) y = Conv (x, k)",
         {"w": np.ones((4, 3, 3, 3), np.int8), "s": np.float32(0.5)}),
        ("(float[N,3,H,W] x)", "y = Conv <group = 3> (x, w)", {"w": normal(4, 1, 3, 3)}),
        ("(float[N,3,H,W] x)", "y = Conv <group = 0> (x, w)", {"w": WEIGHT}),
        ("(float[N,3,H,W] x)", "y = Conv <pads = [1,1]> (x, w)", {"w": WEIGHT}),
        ("(float[N,3,H,W] x)", "y = Conv <strides = [1]> (x, w)", {"w": WEIGHT}),
        ("(float[N,3,H,W] x)", "y = Conv <dilations = [1,1,1]> (x, w)", {"w": WEIGHT}),
        ("(float[N,3,H,W] x)", "y = Conv (x, w)", {"w": normal(4, 3)}),
        ("(float[N,3,H,W] x)", "y = Conv (x, w)", {"w": np.ones((4, 3, 3, 3), np.int32)}),
    ],
    ids=["fed weight", "computed weight", "computed bias", "quantized", "uneven groups",
         "no groups", "pads", "strides", "dilations", "matrix", "integers"],
)  # fmt: skip
def test_what_is_no_site_is_among_the_others(
    signature: str, body: str, arrays: dict[str, np.ndarray]
) -> None:
    text = f"{HEADER} {signature} => (float[N,4,P,Q] y) {{ {body} }}"
    sites, others = find_convolutions(model_from_text(text, **arrays).graph)
    assert not sites
    assert [node.op_type for node in others] == ["Conv"]


def test_weight_that_the_caller_may_override_is_no_constant() -> None:
    model = convolution("group = 1", 2, w=WEIGHT)
    model.graph.inputs.append(model.graph.initializers["w"])
    sites, others = find_convolutions(model.graph)
    assert (len(sites), len(others)) == (0, 1)


def test_order_subgraphs_and_strangers() -> None:
    """Sites come in graph order; a Conv of another domain or inside a branch is none."""
    branch = "{ z = Conv (x, w) }"
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
        net (float[N,3,H,W] x, bool flag) => (float[N,3,P,Q] y) {{
            [first] a = Conv (x, w)
            [strange] b = acme.Conv (a, w)
            c = If (flag) <then_branch = p () => (float[N,3,P,Q] z) {branch},
                           else_branch = q () => (float[N,3,P,Q] z) {branch}>
            [second] d = Conv (c, w)
            y = Add (d, b)
        }}""",
        w=normal(3, 3, 3, 3),
    )
    sites, others = find_convolutions(model.graph)
    assert [site.name for site in sites] == ["first", "second"]
    assert not others


def direct(values: np.ndarray, weight: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The convolution written out as its definition, from the resolved geometry."""
    size = values.shape[2:]
    padded = np.pad(values, ((0, 0), (0, 0), *geometry.resolve_pads(size))).astype(np.float64)
    output = np.zeros((len(values), len(weight), *geometry.output_size(size)))
    for place in np.ndindex(*output.shape[2:]):
        for tap in np.ndindex(*geometry.kernel):
            at = tuple(
                p * stride + t * dilation
                for p, stride, t, dilation in zip(
                    place, geometry.strides, tap, geometry.dilations, strict=True
                )
            )
            output[(..., *place)] += padded[(..., *at)] @ weight[(..., *tap)].T
    return output


@st.composite
def geometries(draw: st.DrawFn) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Attributes of a Conv, its kernel, and a size of its input that leaves an output."""
    spatial = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=spatial, max_size=spatial)))

    kernel, strides, size = each(1, 4), each(1, 3), each(1, 7 if spatial < 3 else 5)
    auto_pad = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    # onnxruntime refuses any other dilation under SAME.
    dilations = (1,) * spatial if auto_pad.startswith("SAME") else each(1, 3)
    attributes = f'auto_pad = "{auto_pad}", strides = {list(strides)}, '
    attributes += f"dilations = {list(dilations)}"
    pads = (0,) * (2 * spatial)
    if auto_pad == "NOTSET":
        pads = each(0, 2) + each(0, 2)
        attributes += f", pads = {list(pads)}"
    if not auto_pad.startswith("SAME"):
        for axis in range(spatial):
            reach = dilations[axis] * (kernel[axis] - 1) + 1
            assume(size[axis] + pads[axis] + pads[spatial + axis] >= reach)
    return attributes, kernel, size


@settings(deadline=None, max_examples=120)
@given(drawn=geometries(), channels=st.integers(1, 3))
def test_geometry_is_that_of_onnxruntime(
    drawn: tuple[str, tuple[int, ...], tuple[int, ...]], channels: int
) -> None:
    attributes, kernel, size = drawn
    weight = normal(2, channels, *kernel)
    model = convolution(attributes, len(kernel), w=weight)
    geometry = only_site(model).geometry
    values = normal(2, channels, *size, seed=3)
    (expected,) = run_session(make_session(model, threads=1), {"x": values}, label="it")
    assert geometry.output_size(size) == expected.shape[2:]
    np.testing.assert_allclose(
        direct(values, weight, geometry), expected, rtol=TOLERANCE, atol=TOLERANCE * kernel[0] * 10
    )


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_onnxruntime_refuses_dilation_under_same(auto_pad: str) -> None:
    """If this ever fails: `Geometry.resolve_pads` must be compared for these as well."""
    model = convolution(f'auto_pad = "{auto_pad}", dilations = [2]', 1, w=normal(1, 1, 3))
    with pytest.raises(InputError, match="Dilation not supported"):
        run_session(make_session(model, threads=1), {"x": normal(1, 1, 9)}, label="it")


@pytest.mark.parametrize(("auto_pad", "expected"), [("SAME_UPPER", (1, 2)), ("SAME_LOWER", (2, 1))])
def test_odd_padding_goes_to_the_side_that_the_name_says(
    auto_pad: str, expected: tuple[int, int]
) -> None:
    geometry = Geometry((4,), (1,), (1,), None, auto_pad)
    assert geometry.resolve_pads((9,)) == (expected,)
    assert geometry.output_size((9,)) == (9,)


def test_wide_stride_needs_no_padding() -> None:
    geometry = Geometry((1,), (4,), (1,), None, "SAME_UPPER")
    assert geometry.resolve_pads((6,)) == ((0, 0),)
    assert geometry.output_size((6,)) == (2,)
