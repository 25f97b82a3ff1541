"""`align_channels` on graphs drawn at random and on real networks; the partition behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.convolution import find_convolutions
from onnxsep.decision import Decision
from onnxsep.passes._channel_groups import Groups, Layout, Pin, Segment, widened
from onnxsep.passes._obstacle import ObstacleError
from onnxsep.passes.align_channels import find_channel_groups
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.separate import Separate
from onnxsep.passes.simplify import Simplify

from ..small_models import small_network
from .helpers import make_session, model_from_text, seeded_feeds, statistics
from .test_align_channels import align

UNARY = ("LeakyRelu", "Sigmoid", "Tanh", "Softplus", "Abs")
MULTIPLES = st.integers(2, 6)
# Sums of a few hundred numbers in another order, through a dozen operators.
GRAPH_TOLERANCE = 1e-4


class Writer:
    """A graph of 4×3 images in the making: lines, constants, and the channels of its values."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.lines: list[str] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.channels = {"x": 3}

    def constant(self, *shape: int) -> str:
        name = f"k{len(self.arrays)}"
        scale = max(1, int(np.prod(shape[1:]))) ** -0.5
        values = np.random.default_rng(len(self.arrays)).standard_normal(shape) * scale
        self.arrays[name] = values.astype(np.float32)
        return name

    def value(self, channels: int, expression: str) -> str:
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        self.channels[name] = channels
        return name

    def any_value(self, channels: int | None = None) -> str:
        names = [name for name, count in self.channels.items() if channels in (None, count)]
        # Mostly what has just been computed, so that chains are as common as forks.
        return self.draw(st.one_of(st.just(names[-1]), st.sampled_from(names)))

    def step(self, kind: str) -> None:
        source = self.any_value()
        count = self.channels[source]
        if kind == "conv":
            outputs = self.draw(st.integers(1, 9))
            weight, bias = self.constant(outputs, count, 3, 3), self.constant(outputs)
            self.value(outputs, f"Conv <pads = [1, 1, 1, 1]> ({source}, {weight}, {bias})")
        elif kind == "depthwise":
            outputs = count * self.draw(st.sampled_from([1, 1, 2]))
            weight = self.constant(outputs, 1, 1, 1)
            self.value(outputs, f"Conv <group = {count}> ({source}, {weight})")
        elif kind == "unary":
            self.value(count, f"{self.draw(st.sampled_from(UNARY))} ({source})")
        elif kind == "gate":
            pooled = f"p{len(self.lines)}"
            self.lines.append(f"{pooled} = GlobalMaxPool ({source})")
            self.value(count, f"Mul ({pooled}, {self.any_value(count)})")
        elif kind == "sum":
            self.value(count, f"Add ({source}, {self.any_value(count)})")
        elif kind == "scale":
            self.value(count, f"Mul ({source}, {self.constant(count, 1, 1)})")
        elif kind == "shift":
            self.value(count, f"Add ({self.constant(1, count, 1, 1)}, {source})")
        elif kind == "prelu":
            self.value(count, f"PRelu ({source}, {self.constant(count, 1, 1)})")
        elif kind == "norm":
            names = [self.constant(count) for _ in range(4)]
            arrays = statistics(count, seed=len(self.lines))
            self.arrays |= dict(zip(names, (arrays[key] for key in "sbmv"), strict=True))
            self.value(count, f"BatchNormalization ({source}, {', '.join(names)})")
        elif kind == "concat":
            others = [source, self.any_value(), self.any_value()]
            parts = self.draw(st.permutations(others))[: self.draw(st.integers(1, 3))]
            total = sum(self.channels[part] for part in parts)
            if total <= 24:
                self.value(total, f"Concat <axis = 1> ({', '.join(parts)})")
        elif kind == "gather":
            indices = self.draw(st.lists(st.integers(-count, count - 1), min_size=1, max_size=8))
            name = self.constant(1)
            self.arrays[name] = np.array(indices, np.int64)
            self.value(len(indices), f"Gather <axis = 1> ({source}, {name})")
        else:
            self.value(count, f"Softmax <axis = 1> ({source})")


KINDS = (
    "conv", "conv", "conv", "depthwise", "unary", "unary", "gate", "sum", "sum", "scale", "shift",
    "prelu", "norm", "concat", "concat", "gather", "border",
)  # fmt: skip


@st.composite
def graphs(draw: st.DrawFn) -> ir.Model:
    """Any network of the operators that padding passes, and of some that end it."""
    writer = Writer(draw)
    writer.step("conv")
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=12)):
        writer.step(kind)
    last = writer.any_value()
    weight = writer.constant(12 * writer.channels[last], 5)
    outputs = draw(st.sets(st.sampled_from(sorted(writer.channels)), max_size=1)) - {"x"}
    signature = ["float[N,5] y"]
    signature += [f"float[N,{writer.channels[name]},4,3] {name}" for name in outputs]
    return model_from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,4,3] x) => ({", ".join(signature)}) {{
            {" ".join(writer.lines)}  flat = Flatten ({last})  y = Gemm (flat, {weight}) }}""",
        **writer.arrays,
    )


@settings(max_examples=150, deadline=None)
@given(graphs(), MULTIPLES)
def test_any_graph_stays_the_same(model: ir.Model, multiple: int) -> None:
    rewritten = align(model, multiple, tolerance=GRAPH_TOLERANCE)
    account = len(rewritten.changes) + len(rewritten.refusals)
    assert account == len(find_channel_groups(model))
    for group in find_channel_groups(rewritten.after):
        assert group.pin is not None or group.channels % multiple == 0


@settings(max_examples=60, deadline=None)
@given(graphs(), st.data())
def test_any_choice_of_groups_keeps_the_numbers(model: ir.Model, data: st.DataObject) -> None:
    free = [group.name for group in find_channel_groups(model) if group.pin is None]
    chosen = data.draw(st.dictionaries(st.sampled_from(free), MULTIPLES) if free else st.just({}))
    rewritten = align(model, chosen, tolerance=GRAPH_TOLERANCE)
    assert len(rewritten.changes) <= len(chosen)


def row(groups: Groups, sizes: Sequence[int]) -> Layout:
    """New groups behind each other."""
    return tuple(segment for size in sizes for segment in groups.new(size))


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.lists(st.integers(1, 6), max_size=4),
)
def test_rows_that_meet_become_one(
    first: list[int], second: list[int], repeated: list[int]
) -> None:
    groups = Groups()
    twice = row(groups, repeated) * 2
    left = row(groups, first) + twice + row(groups, [100])
    extent = groups.span(left)
    right = row(groups, second)
    right += row(groups, [extent - groups.span(right)])
    groups.unify(left, right)
    assert groups.resolve(left) == groups.resolve(right)
    assert groups.span(left) == groups.span(right) == extent
    middle = groups.resolve(twice)
    assert middle[: len(middle) // 2] == middle[len(middle) // 2 :]


def test_a_pin_spreads_to_all_parts() -> None:
    groups = Groups()
    whole, parts = groups.new(5, Pin("here", "because")), row(groups, [2, 3])
    groups.unify(parts, whole)
    assert [groups.pin_of(segment.group) for segment in groups.resolve(parts)] == [
        Pin("here", "because")
    ] * 2


def test_a_row_may_meet_itself_shifted() -> None:
    groups = Groups()
    one, other = row(groups, [3]), row(groups, [2])
    groups.unify(one + other, other + one)
    assert len({segment.group for segment in groups.resolve(one + other)}) == 1


def test_seams_inside_a_channel_are_refused() -> None:
    groups = Groups()
    flat = widened(groups.new(2), 6)
    assert flat == (Segment(0, 6),)
    with pytest.raises(ObstacleError):
        groups.unify(flat, row(groups, [4, 8]))


@dataclasses.dataclass(frozen=True)
class Network:
    """A file of the evaluation data and how many groups of it grow to multiples of 7."""

    file: str
    padded: int
    tolerance: float = 5e-5


# Seven divides next to no channel count that anyone chooses.
NETWORKS = [
    Network("models/mobilenetv2_imagenet.onnx", 25),
    Network("models/resnet20_cifar10.onnx", 10),
    Network("models/resnet8_wide_cifar10.onnx", 6),
    Network("models/simpnet300k_cifar10.onnx", 12),
    Network("models/slimnet8_cifar10.onnx", 4),
    Network("models/squeezenet11_imagenet.onnx", 25),
    # Its outputs are Sigmoids next to zero, which onnxruntime computes to seven digits of one.
    Network("models/yunet_n_dynamic.onnx", 22, 1e-3),
    Network("odd/slimnet8_inside_If.onnx", 0),
    Network("odd/slimnet8_int8_qdq_perchannel.onnx", 0),
    Network("odd/slimnet8_intermediate_outputs.onnx", 2),
    Network("odd/slimnet8_siamese_shared_weights_flipTTA.onnx", 8),
    Network("odd/slimnet8_weights_HWIO_Transpose.onnx", 4),
]
FREE = {"H": 24, "W": 20, "height": 64, "width": 96}


@pytest.mark.parametrize("folded", [False, True], ids=["batchnorm", "folded"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: Path(network.file).stem)
def test_network_stays_the_same(network: Network, folded: bool, shared_data: Path) -> None:
    model = ir.load(shared_data / network.file)
    feeds = {
        # Pixels, without which next to nothing comes out of it.
        name: 50 * value + 120 if "yunet" in network.file else value
        for name, value in seeded_feeds(model, free=FREE).items()
    }
    Normalize()(model)
    if "resnet20" in network.file:  # its shortcuts compute their padding
        Simplify([feeds])(model)
    if folded:
        FoldBatchNorm()(model)
    rewritten = align(model, 7, feeds=feeds, tolerance=network.tolerance)
    assert len(rewritten.changes) == network.padded
    make_session(rewritten.after, optimized=True)  # as a user would load it


@pytest.mark.parametrize(
    ("decision", "padded"),
    [
        (Decision("depthwise-pointwise", 1), {35, 70}),
        (Decision("depthwise-pointwise", 2), {35, 70}),
        (Decision("pointwise-depthwise", 2), {35, 70}),
        (Decision("cp", 40), {35, 42, 70}),
    ],
    ids=str,
)
def test_separated_network_stays_the_same(decision: Decision, padded: set[int]) -> None:
    model = small_network()
    Normalize()(model)
    FoldBatchNorm()(model)
    names = [site.name for site in find_convolutions(model.graph)[0]]
    assert Separate(dict.fromkeys(names[1:], decision), None)(model).modified
    rewritten = align(model, 7)
    assert {change.figures["channels_after"] for change in rewritten.changes} == padded
    sites = find_convolutions(rewritten.after.graph)[0]
    assert {site.group % 7 for site in sites if site.kind == "depthwise"} == {0}
