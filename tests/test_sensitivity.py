"""Which layers to leave in float: the sensitive one is found, and no more than needed are kept."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.constants import constant_array
from onnxsep.errors import BudgetError, ConfigurationError, InputError
from onnxsep.sensitivity import keep_worst_in_float, noise_to_signal, rank_sensitivity

from .passes.helpers import model_from_text, normal, run

LAYERS = 8
FINE, COARSE = 0.01, 0.3


def network() -> ir.Model:
    """Eight convolutions in a row, c0 to c7."""
    lines = "\n".join(
        f"[c{index}] v{index + 1} = Conv (v{index}, W{index})" for index in range(LAYERS - 1)
    )
    last = LAYERS - 1
    return model_from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 4, 6, 6] v0) => (float[N, 4, 6, 6] y) {{
            {lines}
            [c{last}] y = Conv (v{last}, W{last})
        }}""",
        **{
            f"W{index}": np.linalg.qr(normal(4, 4, seed=index))[0].reshape(4, 4, 1, 1)
            for index in range(LAYERS)
        },
    )


def batches() -> list[dict[str, np.ndarray]]:
    return [{"v0": normal(2, 4, 6, 6, seed=seed)} for seed in range(2)]


class Rounder:
    """Stands for a quantizer: rounds weights to steps, coarse ones where it is told."""

    def __init__(self, coarse: set[str]) -> None:
        self.coarse = coarse
        self.asked: list[frozenset[str]] = []

    def __call__(self, keep: frozenset[str]) -> ir.Model:
        self.asked.append(keep)
        model = network()
        for node in model.graph:
            if node.name in keep:
                continue
            value = node.inputs[1]
            array = constant_array(value)
            assert value is not None
            assert array is not None
            step = COARSE if node.name in self.coarse else FINE
            value.const_value = ir.tensor(
                (np.rint(array / step) * step).astype(np.float32), name=value.name
            )
        return model


def ranking(coarse: set[str], **more: int) -> tuple[list[tuple[str, float]], Rounder]:
    rounder = Rounder(coarse)
    found = rank_sensitivity(network(), rounder, batches(), threads=1, **more)  # type: ignore[arg-type]
    return found, rounder


@pytest.mark.parametrize("worst", ["c0", "c3", "c7"])
def test_the_sensitive_layer_ranks_first(worst: str) -> None:
    found, rounder = ranking({worst})
    assert found[0][0] == worst
    assert found[0][1] > 20 * found[1][1]
    assert sorted(name for name, _ in found) == [f"c{index}" for index in range(LAYERS)]
    assert len(rounder.asked) == LAYERS


@pytest.mark.parametrize("worst", ["c0", "c4", "c7"])
def test_groups_find_it_with_fewer_evaluations(worst: str) -> None:
    found, rounder = ranking({worst}, most_evaluations=6)
    assert found[0][0] == worst
    assert len(rounder.asked) <= 6
    assert len(found) == LAYERS


@settings(max_examples=15, deadline=None)
@given(most=st.integers(1, 12))
def test_evaluations_are_bounded_and_no_layer_is_lost(most: int) -> None:
    found, rounder = ranking({"c2"}, most_evaluations=most)
    assert len(rounder.asked) <= most
    assert sorted(name for name, _ in found) == [f"c{index}" for index in range(LAYERS)]


def test_parts_add_up_to_the_whole_about() -> None:
    found, rounder = ranking({"c1", "c5"})
    reference = outputs(network())
    whole = noise_to_signal(reference, outputs(rounder(frozenset())))
    assert sum(cost for _, cost in found) == pytest.approx(whole, rel=0.5)


def test_only_candidates_are_asked_about() -> None:
    rounder = Rounder({"c1"})
    found = rank_sensitivity(network(), rounder, batches(), candidates=["c1", "c2"], threads=1)
    assert [name for name, _ in found] == ["c1", "c2"]
    assert set(rounder.asked) == {frozenset({"c1"}), frozenset({"c2"})}


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'nobody'"):
        rank_sensitivity(network(), Rounder(set()), batches(), candidates=["nobody"])
    with pytest.raises(ConfigurationError, match="at least one"):
        ranking(set(), most_evaluations=0)
    with pytest.raises(InputError, match="no images"):
        rank_sensitivity(network(), Rounder(set()), [])


def test_nothing_to_rank() -> None:
    assert rank_sensitivity(network(), Rounder(set()), batches(), candidates=[]) == []


RANKED = [(f"c{index}", 1.0 / (index + 1)) for index in range(LAYERS)]


class Judge:
    """Holds where all the needed layers are in float."""

    def __init__(self, rounder: Rounder, needed: set[str]) -> None:
        self.rounder = rounder
        self.needed = needed

    def __call__(self, model: ir.Model) -> bool:
        del model
        return self.needed <= self.rounder.asked[-1]


@settings(max_examples=40, deadline=None)
@given(needed=st.sets(st.sampled_from([name for name, _ in RANKED])))
def test_exactly_the_needed_layers_stay_in_float(needed: set[str]) -> None:
    rounder = Rounder(set())
    model, kept = keep_worst_in_float(RANKED, rounder, Judge(rounder, needed))
    assert set(kept) == needed
    assert kept == sorted(needed)
    assert len(rounder.asked) <= 2 * 4 + 8 + 1
    assert len(list(model.graph)) == LAYERS


def test_the_model_belongs_to_the_names() -> None:
    rounder = Rounder({"c3"})
    found = rank_sensitivity(network(), rounder, batches(), threads=1)
    reference = outputs(network())

    def holds(model: ir.Model) -> bool:
        return noise_to_signal(reference, outputs(model)) < 0.01

    model, kept = keep_worst_in_float(found, rounder, holds)
    assert kept == ["c3"]
    assert holds(model)
    assert not holds(rounder(frozenset()))


def test_a_budget_out_of_reach_is_an_error() -> None:
    with pytest.raises(BudgetError, match="all 8 layers"):
        keep_worst_in_float(RANKED, Rounder(set()), lambda model: False)


def test_noise_to_signal_is_the_share_of_power() -> None:
    reference = {"y": [normal(8, 50, seed=1)]}
    noise = 0.1 * normal(8, 50, seed=2)
    found = {"y": [reference["y"][0] + noise]}
    share = np.square(noise).mean() / reference["y"][0].var(axis=0).mean()
    assert noise_to_signal(reference, found) == pytest.approx(share, rel=1e-4)
    assert noise_to_signal(reference, reference) < 1e-15


def outputs(model: ir.Model) -> dict[str, list[np.ndarray]]:
    return {"y": [run(model, feeds)[0] for feeds in batches()]}
