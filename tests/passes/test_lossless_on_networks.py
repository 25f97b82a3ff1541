"""`normalize` and `fold_batchnorm` on real networks and on graphs drawn at random."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.passes.fold_batchnorm import FoldBatchNorm, Standalone
from onnxsep.passes.normalize import Normalize

from .helpers import (
    make_session,
    model_from_text,
    normal,
    operators,
    rewrite,
    seeded_feeds,
    statistics,
)

BN = "BatchNormalization"

# Of a whole network, relative to its largest output.
NETWORK_TOLERANCE = 1e-4
# Eight layers of float16, whose precision is 1e-3.
HALF_TOLERANCE = 5e-3

# What free dimensions are for the test: small, but large enough for all strides.
FREE = {"H": 24, "W": 20, "height": 64, "width": 96}


@dataclasses.dataclass(frozen=True)
class Network:
    """A file of the evaluation data and what happens to its BatchNormalizations."""

    file: str
    codes: dict[str, int] = dataclasses.field(default_factory=dict)
    tolerance: float = NETWORK_TOLERANCE


def folded(count: int) -> dict[str, int]:
    """All of ``count`` vanish in the convolution before them."""
    return {"folded-into-conv": count}


NETWORKS = [
    Network("models/espcn_x3.onnx"),
    Network("models/mnist_cntk.onnx"),
    Network("models/mobilenetv2_imagenet.onnx"),
    Network("models/resnet20_cifar10.onnx", folded(19)),
    Network("models/resnet56_cifar10.onnx", folded(55)),
    Network("models/resnet8_wide_cifar10.onnx"),
    Network("models/simpnet300k_cifar10.onnx", folded(13)),
    Network("models/slimnet8_7x7_cifar10.onnx", folded(8)),
    Network("models/slimnet8_cifar10.onnx", folded(8)),
    Network("models/squeezenet11_imagenet.onnx"),
    Network("models/tiny_darknet_imagenet.onnx", folded(15)),
    Network("models/ultraface_rfb320.onnx", folded(35)),
    Network("models/vdsr.onnx"),
    Network("models/yunet_n_dynamic.onnx"),
    Network("odd/simpnet300k_external.onnx", folded(13)),
    Network("odd/slimnet8_autopad.onnx", folded(8)),
    Network("odd/slimnet8_fp16.onnx", folded(8), HALF_TOLERANCE),
    Network("odd/slimnet8_inside_If.onnx", folded(8)),
    # Left alone, and therefore equal to the last bit.
    Network("odd/slimnet8_int8_qdq_perchannel.onnx", {"statistics-not-constant": 8}, 0.0),
    # Two of its BatchNormalizations stand between two outputs.
    Network(
        "odd/slimnet8_intermediate_outputs.onnx", {**folded(6), "replaced-by-mul-add": 2}
    ),
    Network("odd/slimnet8_ir3_opset8_init_in_inputs.onnx", folded(8)),
    Network("odd/slimnet8_opset21.onnx", folded(8)),
    Network("odd/slimnet8_siamese_shared_weights_flipTTA.onnx", folded(16)),
    Network("odd/slimnet8_unnamed_nodes.onnx", folded(8)),
    Network("odd/slimnet8_weights_HWIO_Transpose.onnx", folded(8)),
    Network("odd/slimnet8_weights_as_Constant.onnx", folded(8)),
]  # fmt: skip


def load(path: Path) -> ir.Model:
    model = ir.load(path)
    ir.external_data.load_to_model(model)
    return model


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: Path(network.file).stem)
def test_network_stays_the_same(network: Network, shared_data: Path) -> None:
    model = load(shared_data / network.file)
    found = operators(model)[BN]
    assert found == sum(network.codes.values())
    feeds = seeded_feeds(model, free=FREE)
    rewritten = rewrite(
        model, Normalize(), FoldBatchNorm(), feeds=feeds, tolerance=network.tolerance
    )
    make_session(rewritten.after, optimized=True)  # as a user would load it
    codes = Counter(rewritten.codes)
    assert {code: codes[code] for code in network.codes} == network.codes
    assert operators(rewritten.after)[BN] == len(rewritten.refusals)
    # The network has not grown: shared weights are still shared, the old ones are gone.
    assert weight_elements(rewritten.after) <= weight_elements(model)


def test_every_network_is_in_the_table(shared_data: Path) -> None:
    there = {
        path.relative_to(shared_data).as_posix()
        for folder in ("models", "odd")
        for path in (shared_data / folder).glob("*.onnx")
    }
    assert there == {network.file for network in NETWORKS}


def weight_elements(model: ir.Model) -> int:
    """Elements of all initializers and Constant nodes of the model."""
    held = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    held += [
        attribute.as_tensor()
        for node in model.graph.all_nodes()
        if node.op_type == "Constant" and (attribute := node.attributes.get("value"))
    ]
    return sum(tensor.size for tensor in held if tensor is not None)


SHARED = {
    "narrow": normal(3, 3, 1, 1),
    "wide": normal(3, 3, 3, 3, seed=2),
    "bias": normal(3, seed=3),
    **statistics(3),
    **statistics(3, seed=6, suffix="2"),
}
STEPS = (
    "Conv (A, narrow)",
    "Conv <pads=[1,1,1,1]> (A, wide, bias)",
    "ConvTranspose <pads=[1,1,1,1]> (A, wide)",
    "BatchNormalization (A, s, b, m, v)",
    "BatchNormalization (A, s2, b2, m2, v2)",
    "BatchNormalization (A, s, b2, zero, v)",
    "Identity (A)",
    "Tanh (A)",
    "Add (A, B)",
)  # fmt: skip


@st.composite
def graphs(draw: st.DrawFn) -> ir.Model:
    """Any graph over one shape: few operators, shared weights, any value may be an output."""
    count = draw(st.integers(2, 9))
    lines = []
    for index in range(count):
        step = draw(st.sampled_from(STEPS))
        # Mostly what has just been computed, so that chains are as common as forks.
        first = draw(st.one_of(st.just(index), st.integers(0, index)))
        second = draw(st.integers(0, index))
        step = step.replace("(A", f"(t{first}").replace("B)", f"t{second})")
        lines.append(f"t{index + 1} = {step}")
    outputs = draw(st.sets(st.integers(1, count), max_size=2)) | {count}
    shape = "float[N,3,5,6]"
    signature = ", ".join(f"{shape} t{index}" for index in sorted(outputs))
    body = "\n".join(lines)
    return model_from_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({shape} t0) => ({signature}) {{ {body} }}',
        zero=np.zeros(3, np.float32),
        **SHARED,
    )


@settings(max_examples=150, deadline=None)
@given(graphs(), st.sampled_from(["mul-add", "depthwise"]))
def test_any_graph_stays_the_same(model: ir.Model, standalone: Standalone) -> None:
    batchnorms = operators(model)[BN]
    rewritten = rewrite(model, Normalize(), FoldBatchNorm(standalone), tolerance=1e-4)
    account = [
        entry for entry in rewritten.changes if entry.code.startswith(("folded-", "replaced-"))
    ]
    assert not rewritten.refusals
    assert operators(rewritten.after)[BN] == 0
    # One entry for each, but for those that died with a branch nobody needs.
    assert len({entry.node for entry in account}) == len(account) <= batchnorms
