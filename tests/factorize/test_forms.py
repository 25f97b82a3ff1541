"""Costs of the forms, and that every form computes what its dense equivalent says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from onnxsep.errors import FactorizationError
from onnxsep.factorize import (
    CanonicalPolyadic,
    DepthwisePointwise,
    Factors,
    PointwiseDepthwise,
    RaggedDepthwisePointwise,
    dense_cost,
)


def depthwise_pointwise(outputs: int, channels: int, positions: int, rank: int) -> Factors:
    random = np.random.default_rng(0)
    return DepthwisePointwise(
        random.normal(size=(channels, rank, positions)),
        random.normal(size=(outputs, channels, rank)),
    )


def pointwise_depthwise(outputs: int, channels: int, positions: int, rank: int) -> Factors:
    random = np.random.default_rng(0)
    return PointwiseDepthwise(
        random.normal(size=(outputs, rank, channels)),
        random.normal(size=(outputs, rank, positions)),
    )


def cp(outputs: int, channels: int, positions: int, terms: int) -> Factors:
    random = np.random.default_rng(0)
    return CanonicalPolyadic(
        random.normal(size=(terms, channels)),
        random.normal(size=(terms, positions)),
        random.normal(size=(outputs, terms)),
    )


def ragged(outputs: int, channels: int, positions: int, terms: int) -> Factors:
    random = np.random.default_rng(0)
    return RaggedDepthwisePointwise(
        np.sort(random.integers(0, channels, terms)),
        random.normal(size=(terms, positions)),
        random.normal(size=(outputs, terms)),
        channels,
    )


def test_the_worked_example() -> None:
    """6 x 6 x 3 input, four 3 x 3 filters, no padding: 1,728 multiplications against 624."""
    pixels = 4 * 4
    assert pixels * dense_cost(4, 3, 9) == 1728
    assert pixels * depthwise_pointwise(4, 3, 9, 1).multiplications() == 624


def test_the_parameters_of_a_256_channel_layer() -> None:
    assert dense_cost(256, 256, 9) == 589_824
    factors = depthwise_pointwise(256, 256, 9, 1)
    assert factors.parameters == 67_840
    assert factors.parameters / 589_824 == pytest.approx(1 / 256 + 1 / 9)


@dataclasses.dataclass(frozen=True)
class CostCase:
    id: str
    factors: Factors
    parameters: int
    at_stride_1: int
    at_stride_2: int


COSTS = [
    CostCase("depthwise-pointwise", depthwise_pointwise(8, 5, 9, 2), 170, 170, 170),
    CostCase("pointwise-depthwise", pointwise_depthwise(8, 5, 9, 2), 224, 224, 464),
    CostCase("cp", cp(8, 5, 9, 6), 132, 132, 222),
    CostCase("ragged", ragged(8, 5, 9, 7), 119, 119, 119),
]


@pytest.mark.parametrize("case", COSTS, ids=lambda case: case.id)
def test_costs_are_exact(case: CostCase) -> None:
    assert case.factors.parameters == case.parameters
    assert case.factors.multiplications() == case.at_stride_1
    assert case.factors.multiplications(stride_area=4) == case.at_stride_2


@pytest.mark.parametrize("case", COSTS, ids=lambda case: case.id)
def test_stages_compute_the_dense_equivalent(case: CostCase) -> None:
    """On one patch a pointwise convolution mixes channels, the spatial one sums positions."""
    patch = np.random.default_rng(1).normal(size=(5, 9))
    value = patch
    stages = case.factors.stages()
    for stage in stages:
        if stage.sources is not None:
            value = value[stage.sources]
        outputs, inputs, taps = stage.weight.shape
        assert taps == (9 if stage.spatial else 1)
        grouped = value.reshape(stage.groups, inputs, -1)
        filters = stage.weight.reshape(stage.groups, outputs // stage.groups, inputs, taps)
        if stage.spatial:
            value = np.einsum("goik,gik->go", filters, grouped).reshape(outputs, 1)
        else:
            value = np.einsum("goi,gip->gop", filters[..., 0], grouped).reshape(outputs, -1)
    expected = np.einsum("nck,ck->n", case.factors.dense(), patch)
    np.testing.assert_allclose(value[:, 0], expected)
    assert sum(stage.weight.size for stage in stages) == case.parameters


@pytest.mark.parametrize(
    "make",
    [
        lambda: DepthwisePointwise(np.zeros((3, 2, 9)), np.zeros((4, 2, 3))),
        lambda: PointwiseDepthwise(np.zeros((4, 2, 3)), np.zeros((4, 1, 9))),
        lambda: CanonicalPolyadic(np.zeros((6, 3)), np.zeros((5, 9)), np.zeros((4, 6))),
        lambda: RaggedDepthwisePointwise(
            np.zeros(6, np.int64), np.zeros((5, 9)), np.zeros((4, 6)), 3
        ),
    ],
    ids=["depthwise-pointwise", "pointwise-depthwise", "cp", "ragged"],
)
def test_factors_that_do_not_fit_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(FactorizationError, match="fit together"):
        make()
