"""Moments met on a walk are those of all positions, computed here in float64 by plain numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxsep.calibrate import ActivationWalk, layers, own_moments, shifted_moments
from onnxsep.calibrate.layers import Rows, node_after, rows_per_sample
from onnxsep.convolution import ConvSite, find_convolutions
from onnxsep.errors import FactorizationError
from onnxsep.factorize import Moments
from onnxsep.runtime import Feeds, make_session
from onnxsep.runtime import run as run_session
from tests.passes.helpers import model_from_text, normal

# float32 sums over a few thousand rows.
TOLERANCE = 2e-4

BATCHES: list[Feeds] = [
    {"x": normal(3, 2, 7, 6, seed=1) + 0.5},
    {"x": normal(2, 2, 7, 6, seed=2) + 0.5},
]
SAMPLES = 5


def network(gain: float = 1.0, attributes: str = "pads = [1,0,1,2], strides = [2,1]") -> ir.Model:
    """Two convolutions with a Relu between them; ``gain`` scales what the second one meets."""
    return model_from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,2,7,6] x) => (float[N,3,P,Q] y) {{
            [first] a = Conv <pads = [1,1,1,1]> (x, u, p)
            b = Relu (a)
            [second] c = Conv <{attributes}> (b, v, q)
            y = Sigmoid (c)
        }}""",
        u=gain * normal(4, 2, 3, 3, seed=3),
        p=normal(4, seed=4),
        v=normal(3, 4, 3, 3, seed=5),
        q=normal(3, seed=6),
    )


def second_site(model: ir.Model) -> ConvSite:
    return find_convolutions(model.graph)[0][1]


def values(model: ir.Model, name: str) -> npt.NDArray[np.float64]:
    """The named value for all samples."""
    copy = model.clone()
    copy.graph.outputs[:] = [ir.convenience.create_value_mapping(copy.graph)[name]]
    session = make_session(copy, threads=1)
    parts = [run_session(session, feeds, label="it")[0] for feeds in BATCHES]
    return np.concatenate(parts).astype(np.float64)


def all_patches(source: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What a 3x3 kernel with pads [1,0,1,2] and strides [2,1] sees: (positions, 4 * 9)."""
    padded = np.pad(source, ((0, 0), (0, 0), (1, 1), (0, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, source.shape[1] * 9)


def flat(output: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.moveaxis(output, 1, -1).reshape(-1, output.shape[1])


def assert_patch_moments(moments: Moments, rows: npt.NDArray[np.float64]) -> None:
    assert moments.count == len(rows)
    scale = np.abs(np.cov(rows.T)).max()
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), atol=TOLERANCE)
    np.testing.assert_allclose(
        moments.second, np.cov(rows.T, bias=True), rtol=0, atol=TOLERANCE * scale
    )


def test_own_moments_are_those_of_all_positions() -> None:
    model = network()
    site = second_site(model)
    walk = ActivationWalk(model, BATCHES, threads=1)
    moments = own_moments(walk, site, samples=SAMPLES, seed=0)
    assert_patch_moments(moments, all_patches(values(model, "b")))
    assert moments.cross is None


def shifted(
    original: ir.Model, rewritten: ir.Model, *, shortcut: str = "", kept_rows: int = 0
) -> tuple[Moments, Rows]:
    """Of the last convolution of both, over all positions."""
    return shifted_moments(
        ActivationWalk(original, BATCHES, threads=1),
        ActivationWalk(rewritten, BATCHES, threads=1),
        find_convolutions(original.graph)[0][-1],
        find_convolutions(rewritten.graph)[0][-1],
        original.graph,
        shortcut=shortcut,
        kept_rows=kept_rows,
        samples=SAMPLES,
        seed=0,
    )


def assert_pair_moments(
    moments: Moments, rows: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]
) -> None:
    assert_patch_moments(moments, rows)
    assert moments.cross is not None
    assert moments.output_mean is not None
    assert moments.output_variance is not None
    centred = wanted - wanted.mean(axis=0)
    cross = centred.T @ (rows - rows.mean(axis=0)) / len(rows)
    np.testing.assert_allclose(moments.cross, cross, rtol=0, atol=TOLERANCE * abs(cross).max())
    np.testing.assert_allclose(
        moments.output_mean, wanted.mean(axis=0), rtol=TOLERANCE, atol=TOLERANCE
    )
    np.testing.assert_allclose(moments.output_variance, wanted.var(axis=0), rtol=TOLERANCE)


def test_shifted_moments_pair_the_rewritten_input_with_the_original_output() -> None:
    original, rewritten = network(), network(gain=0.7)
    moments, kept = shifted(original, rewritten)
    rows, wanted = all_patches(values(rewritten, "b")), flat(values(original, "c"))
    assert_pair_moments(moments, rows, wanted)
    assert kept.patches.size == 0


def test_same_network_on_both_sides_gives_the_weight_back() -> None:
    """cross = W · second: what was paired is what belongs together."""
    moments, _ = shifted(network(), network())
    expected = second_site(network()).weight.reshape(3, -1) @ moments.second
    assert moments.cross is not None
    np.testing.assert_allclose(
        moments.cross, expected, rtol=0, atol=TOLERANCE * abs(expected).max()
    )


def residual(gain: float = 1.0) -> ir.Model:
    """The second convolution's output is added to what the Relu gives."""
    model = network(gain, "pads = [1,1,1,1]")
    model.graph.initializers["v"].const_value = ir.tensor(normal(4, 4, 3, 3, seed=5), name="v")
    model.graph.initializers["q"].const_value = ir.tensor(normal(4, seed=6), name="q")
    last = model.graph[-1]
    total = ir.Node("", "Add", [model.graph[2].outputs[0], model.graph[1].outputs[0]])
    total.outputs[0].name = "sum"
    model.graph.insert_before(last, total)
    last.replace_input_with(0, total.outputs[0])
    return ir.from_proto(ir.to_proto(model))


def test_behind_a_shortcut_what_it_lacks_is_wanted() -> None:
    """The original sum less the rewritten shortcut."""
    original, rewritten = residual(), residual(gain=0.7)
    moments, kept = shifted(original, rewritten, shortcut="b", kept_rows=10**6)
    padded = np.pad(values(rewritten, "b"), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    rows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 36)
    wanted = flat(values(original, "sum") - values(rewritten, "b"))
    assert_pair_moments(moments, rows, wanted)
    np.testing.assert_allclose(kept.patches, rows, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(kept.wanted, wanted, rtol=TOLERANCE, atol=TOLERANCE)
    assert kept.offsets is not None
    np.testing.assert_allclose(
        kept.offsets, flat(values(rewritten, "b")), rtol=TOLERANCE, atol=TOLERANCE
    )


def test_shortcut_of_another_shape_is_left_out() -> None:
    original, rewritten = network(), network(gain=0.7)
    with_it, kept = shifted(original, rewritten, shortcut="b", kept_rows=10)
    without, _ = shifted(original, rewritten)
    assert with_it.cross is not None
    assert without.cross is not None
    np.testing.assert_array_equal(with_it.cross, without.cross)
    assert kept.offsets is None


def test_rows_that_are_kept_belong_together() -> None:
    """About as many as asked for, from every batch; each output is that of its patch."""
    model = network()
    _, kept = shifted(model, network(), kept_rows=20)
    positions = [len(feeds["x"]) * 24 for feeds in BATCHES]
    assert 20 <= len(kept.patches) <= 20 + len(positions)
    assert kept.patches.shape[1] == 36
    site = second_site(model)
    assert site.bias is not None
    np.testing.assert_allclose(
        kept.patches @ site.weight.reshape(3, -1).T + site.bias,
        kept.wanted,
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )
    again = shifted(model, network(), kept_rows=20)[1]
    np.testing.assert_array_equal(again.patches, kept.patches)


def test_walks_stand_where_the_next_layer_needs_them() -> None:
    """Own: in front of the site. Shifted: the original behind it, the rewritten in front of it."""
    original, rewritten = network(), network(gain=0.7)
    walks = [ActivationWalk(model, BATCHES, threads=1) for model in (original, rewritten)]
    shifted_moments(
        walks[0], walks[1], second_site(original), second_site(rewritten), original.graph,
        samples=SAMPLES, seed=0,
    )  # fmt: skip
    second_site(rewritten).node.attributes["strides"] = ir.AttrInt64s("strides", [1, 1])
    found = np.concatenate([step["c"] for step in walks[1].step(["c"], cut_before=None)])
    np.testing.assert_allclose(found, values(rewritten, "c"), rtol=TOLERANCE, atol=TOLERANCE)
    found = np.concatenate([step["y"] for step in walks[0].step(["y"], cut_before=None)])
    np.testing.assert_allclose(found, values(original, "y"), rtol=TOLERANCE, atol=TOLERANCE)


def test_site_at_the_end_of_the_graph() -> None:
    """Behind the last node there is nothing to stand in front of."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N,2,7,6] x) => (float[N,3,5,4] y) { y = Conv (x, w) }"""
    original, same = (model_from_text(text, w=normal(3, 2, 3, 3)) for _ in range(2))
    moments, _ = shifted(original, same)
    expected = normal(3, 2, 3, 3).reshape(3, -1) @ moments.second
    assert moments.cross is not None
    np.testing.assert_allclose(moments.cross, expected, rtol=0, atol=TOLERANCE * 20)


@pytest.fixture
def row_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known numbers of rows, whatever those are that fits were found to need."""
    monkeypatch.setattr(layers, "_ROWS_PER_FEATURE", 12)
    monkeypatch.setattr(layers, "_FEWEST_ROWS", 16_384)
    monkeypatch.setattr(layers, "_MOST_ROWS", 49_152)


@pytest.mark.usefixtures("row_bounds")
def test_sampled_moments_are_near_those_of_all_positions() -> None:
    """A large map is sampled; the same seed samples the same, another does not."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N,1,H,W] x) => (float[N,1,P,Q] y) { y = Conv (x, w) }"""
    model = model_from_text(text, w=normal(1, 1, 2, 2))
    site = find_convolutions(model.graph)[0][0]
    feeds: list[Feeds] = [{"x": normal(2, 1, 201, 101, seed=seed) + 1} for seed in range(2)]

    def sampled(seed: int) -> Moments:
        walk = ActivationWalk(model, feeds, threads=1)
        return own_moments(walk, site, samples=4, seed=seed)

    moments = sampled(0)
    assert moments.count == 16_384
    # White noise of variance 1 and mean 1: each entry of the covariance is off by about 1/sqrt(n).
    noise = 1 / np.sqrt(moments.count)
    assert np.abs(moments.second - np.eye(4)).max() < 6 * noise
    assert np.abs(moments.mean - 1).max() < 6 * noise
    np.testing.assert_array_equal(sampled(0).second, moments.second)
    assert (sampled(1).second != moments.second).any()


def test_nan_in_an_activation_is_a_factorization_error() -> None:
    model = network()
    broken: list[Feeds] = [{"x": np.full((1, 2, 7, 6), np.nan, np.float32)}]
    with pytest.raises(FactorizationError, match="NaN"):
        own_moments(ActivationWalk(model, broken, threads=1), second_site(model), samples=1, seed=0)


@dataclasses.dataclass(frozen=True)
class RowCount:
    """How many positions are taken from each of so many images, for a 3x3 convolution."""

    channels: int
    samples: int
    expected: int


@pytest.mark.usefixtures("row_bounds")
@pytest.mark.parametrize(
    "case",
    [
        RowCount(channels=8, samples=1000, expected=17),  # the fewest rows, rounded up
        RowCount(channels=256, samples=1000, expected=28),  # twelve rows per feature
        RowCount(channels=512, samples=1000, expected=50),  # the most rows
        RowCount(channels=8, samples=1_000_000, expected=1),
        RowCount(channels=8, samples=1, expected=16_384),
    ],
    ids=str,
)
def test_rows_grow_with_the_layer_within_bounds(case: RowCount) -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,C,H,W] x) => (float[N,M,P,Q] y) { y = Conv (x, w) }""",
        w=np.zeros((1, case.channels, 3, 3), np.float32),
    )
    site = find_convolutions(model.graph)[0][0]
    assert rows_per_sample(site, case.samples) == case.expected


def test_node_after() -> None:
    graph = network().graph
    following = [node_after(graph, node) for node in graph]
    assert following == [*list(graph)[1:], None]
