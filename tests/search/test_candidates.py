"""Candidates: what is fitted, what is refused, what is not worth timing."""

from __future__ import annotations

import concurrent.futures
import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.decision import Decision
from onnxsep.errors import FactorizationError
from onnxsep.factorize import DepthwisePointwise
from onnxsep.passes.separate import Calibration
from onnxsep.search import candidates
from onnxsep.search.candidates import (
    Candidate,
    LayerChoices,
    cp_channels,
    layer_choices,
    worth_timing,
)

from ..passes.helpers import model_from_text, run, seeded_feeds
from ..small_models import small_network

_IMAGES = 12


def calibration(model: ir.Model) -> Calibration:
    return Calibration([seeded_feeds(model, free={"batch": _IMAGES})], _IMAGES, threads=1)


@pytest.fixture(scope="module")
def network() -> ir.Model:
    return small_network()


@pytest.fixture(scope="module")
def choices(network: ir.Model) -> dict[str, LayerChoices]:
    found = layer_choices(network, calibration(network))
    return {layer.site.name: layer for layer in found}


def test_every_convolution_is_accounted_for(choices: dict[str, LayerChoices]) -> None:
    assert list(choices) == ["stem", "body", "tail"]
    stem = choices["stem"].refusal
    assert stem is not None
    assert stem.code == "too-few-channels"
    assert choices["stem"].candidates == ()
    assert choices["tail"].refusal is None
    assert choices["tail"].input_size == (16, 16)
    assert choices["tail"].output_size == (8, 8)


def test_forms_and_ranks(choices: dict[str, LayerChoices]) -> None:
    decisions = [candidate.decision for candidate in choices["body"].candidates]
    assert Decision("depthwise-pointwise", 1) in decisions
    assert Decision("pointwise-depthwise", 1) in decisions
    assert Decision("cp", 32) in decisions
    for candidate in choices["body"].candidates:
        assert candidate.multiplications < 32 * 64 * 9
        assert candidate.weight.shape == (64, 32, 3, 3)
        assert candidate.weight.dtype == np.float32
        assert candidate.bias.shape == (64,)
    errors: dict[str, list[float]] = {}
    for candidate in choices["body"].candidates:
        errors.setdefault(candidate.decision.form, []).append(candidate.error)
    for some in errors.values():
        assert some == sorted(some, reverse=True)


def test_the_error_is_that_of_the_dense_equivalent(
    network: ir.Model, choices: dict[str, LayerChoices]
) -> None:
    """On the images of the fit; its ridge and its sample of positions make it a little larger."""
    layer = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        l (float[n, 32, 16, 16] x) => (float[n, 64, 16, 16] y) {
            y = Conv <pads = [1, 1, 1, 1]> (x, W, B)
        }""",
        W=choices["body"].site.weight,
        B=np.asarray(choices["body"].site.bias),
    )
    hidden = network.clone()
    value = next(node for node in hidden.graph if node.name == "body").inputs[0]
    assert value is not None
    hidden.graph.outputs[:] = [value]
    value.dtype = ir.DataType.FLOAT
    (x,) = run(hidden, seeded_feeds(network, free={"batch": _IMAGES}))
    (wanted,) = run(layer, {"x": x})
    for candidate in choices["body"].candidates[:3]:
        layer.graph.initializers["W"].const_value = ir.tensor(candidate.weight)
        layer.graph.initializers["B"].const_value = ir.tensor(candidate.bias)
        (given,) = run(layer, {"x": x})
        spread = wanted - wanted.mean(axis=(0, 2, 3), keepdims=True)
        error = float(np.square(given - wanted).sum() / np.square(spread).sum())
        assert error == pytest.approx(candidate.error, rel=0.25)


def test_an_executor_finds_the_same(network: ir.Model, choices: dict[str, LayerChoices]) -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        found = layer_choices(network, calibration(network), executor=executor)
    for layer in found:
        alone = choices[layer.site.name]
        assert [each.decision for each in layer.candidates] == [
            each.decision for each in alone.candidates
        ]
        np.testing.assert_allclose(
            [each.error for each in layer.candidates],
            [each.error for each in alone.candidates],
            rtol=1e-6,
        )


def test_moments_under_way_are_bounded(network: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(concurrent.futures.Executor):
        """Does nothing before somebody asks for the result."""

        waiting, most = 0, 0

        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
            Lazy.waiting += 1
            Lazy.most = max(Lazy.most, Lazy.waiting)
            future: concurrent.futures.Future[object] = concurrent.futures.Future()

            def result(timeout: float | None = None) -> object:
                Lazy.waiting -= 1
                return fn(*args, **kwargs)

            future.result = result  # type: ignore[method-assign]
            return future

    monkeypatch.setattr(candidates, "_MOST_BYTES_UNDER_WAY", 1)
    found = layer_choices(network, calibration(network), executor=Lazy())
    assert Lazy.most == 1
    assert sum(bool(layer.candidates) for layer in found) == 2


def test_a_fit_that_fails_is_a_refusal(network: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FactorizationError("no numbers")

    monkeypatch.setattr(candidates, "rank_curve", fail)
    body = layer_choices(network, calibration(network))[1]
    assert body.candidates == ()
    assert body.refusal is not None
    assert (body.refusal.code, body.refusal.reason) == ("fit-failed", "no numbers")


def test_a_form_that_saves_nothing_is_not_worth_it() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        l (float[batch, 8, 6, 6] x) => (float[batch, 8, 6, 5] y) { [c] y = Conv (x, W) }""",
        W=np.random.default_rng(0).standard_normal((8, 8, 1, 2)).astype(np.float32),
    )
    (layer,) = layer_choices(model, calibration(model), forms=["cp"])
    assert layer.refusal is not None
    assert layer.refusal.code == "not-worth-it"


def test_a_network_without_convolutions() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        l (float[batch, 8] x) => (float[batch, 8] y) { y = Relu (x) }"""
    )
    assert layer_choices(model, calibration(model)) == []


@dataclasses.dataclass(frozen=True)
class Channels:
    outputs: int
    channels: int
    wanted: list[int]
    positions: int = 9


@pytest.mark.parametrize(
    "case",
    [
        Channels(16, 16, [8, 16, 24, 32]),
        Channels(32, 16, [8, 16, 24, 32, 40, 48]),
        Channels(58, 50, [32, 48, 64, 80, 112, 128]),
        Channels(64, 64, [32, 48, 64, 96, 128, 160]),
        Channels(512, 64, [32, 48, 64, 96, 128, 160, 192, 256]),
        Channels(64, 64, [32, 48, 64], 3),
    ],
    ids=lambda case: f"{case.channels}to{case.outputs}by{case.positions}",
)
def test_channels_in_the_middle_fill_blocks_and_save_work(case: Channels) -> None:
    found = cp_channels(case.outputs, case.channels, case.positions)
    assert found == case.wanted
    dense = case.outputs * case.channels * case.positions
    assert found[-1] * (case.outputs + case.channels + case.positions) <= 0.7 * dense


def candidate(decision: Decision, error: float) -> Candidate:
    factors = DepthwisePointwise(np.ones((8, 1, 9)), np.ones((8, 8, 1)))
    return Candidate(decision, error, factors, (3, 3), np.zeros(8, np.float32), 136, 136)


def test_only_what_a_lower_rank_of_its_own_form_matches_is_left_out() -> None:
    dp, cp = "depthwise-pointwise", "cp"
    some = [
        candidate(Decision(dp, 2), 0.0999),  # hardly better than rank 1
        candidate(Decision(dp, 1), 0.1),
        candidate(Decision(dp, 3), 0.05),
        candidate(Decision(cp, 64), 0.3),  # worse and larger, but another kernel runs it
        candidate(Decision(cp, 32), 0.2),
    ]
    kept = [each.decision for each in worth_timing(some)]
    assert kept == [Decision(dp, 1), Decision(dp, 3), Decision(cp, 32)]
