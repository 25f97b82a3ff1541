"""Sampled patches times the flattened weight is the convolution, at the positions chosen."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxsep.calibrate import PatchSampler
from onnxsep.convolution import Geometry
from onnxsep.runtime import make_session
from onnxsep.runtime import run as run_session
from tests.passes.helpers import model_from_text, normal

# Rounding of a sum of a few dozen float32 products of normal numbers.
TOLERANCE = 2e-5


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A convolution and the size of its input."""

    geometry: Geometry
    size: tuple[int, ...]

    @property
    def attributes(self) -> str:
        geometry = self.geometry
        text = f"strides = {list(geometry.strides)}, dilations = {list(geometry.dilations)}"
        if geometry.pads is None:
            return f'{text}, auto_pad = "{geometry.auto_pad}"'
        first, last = zip(*geometry.pads, strict=True)
        return f"{text}, pads = {[*first, *last]}"


@st.composite
def convolutions(draw: st.DrawFn) -> Drawn:
    spatial = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=spatial, max_size=spatial)))

    kernel, strides, size = each(1, 4), each(1, 3), each(1, 8 if spatial < 3 else 5)
    if draw(st.booleans()):
        auto_pad = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))
        return Drawn(Geometry(kernel, strides, (1,) * spatial, None, auto_pad), size)
    dilations = each(1, 3)
    pads = tuple(zip(each(0, 3), each(0, 3), strict=True))
    geometry = Geometry(kernel, strides, dilations, pads)
    assume(all(extent > 0 for extent in geometry.output_size(size)))
    return Drawn(geometry, size)


def convolved(drawn: Drawn, values: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """What onnxruntime gives."""
    free = ",".join(f"s{axis}" for axis in range(len(drawn.size)))
    out = ",".join(f"t{axis}" for axis in range(len(drawn.size)))
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,C,{free}] x) => (float[N,M,{out}] y)
        {{ y = Conv <{drawn.attributes}> (x, w, b) }}""",
        w=weight,
        b=bias,
    )
    (result,) = run_session(make_session(model, threads=1), {"x": values}, label="it")
    return result


@settings(deadline=None, max_examples=120)
@given(
    drawn=convolutions(),
    channels=st.integers(1, 3),
    batch=st.integers(1, 3),
    rows_per_sample=st.integers(1, 60),
    seed=st.integers(0, 5),
)
def test_patches_times_weight_is_the_convolution(
    drawn: Drawn, channels: int, batch: int, rows_per_sample: int, seed: int
) -> None:
    values = normal(batch, channels, *drawn.size, seed=seed)
    weight = normal(3, channels, *drawn.geometry.kernel, seed=seed + 10)
    bias = normal(3, seed=seed + 20)
    expected = convolved(drawn, values, weight, bias)

    sampler = PatchSampler(drawn.geometry, rows_per_sample=rows_per_sample, seed=seed)
    chosen = sampler.choose(batch, drawn.geometry.output_size(drawn.size))
    rows = sampler.patches(values, *chosen)

    pixels = math.prod(expected.shape[2:])
    assert rows.shape == (batch * min(rows_per_sample, pixels), weight[0].size)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(
        rows @ weight.reshape(3, -1).T + bias,
        PatchSampler.outputs(expected, *chosen),
        rtol=TOLERANCE,
        atol=TOLERANCE * math.sqrt(weight[0].size),
    )


@given(
    batch=st.integers(1, 4),
    size=st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    rows_per_sample=st.integers(1, 250),
)
def test_positions_are_distinct_and_of_every_sample(
    batch: int, size: tuple[int, ...], rows_per_sample: int
) -> None:
    sampler = PatchSampler(square(len(size)), rows_per_sample=rows_per_sample, seed=1)
    samples, positions = sampler.choose(batch, size)
    pixels = math.prod(size)
    count = min(rows_per_sample, pixels)
    assert np.bincount(samples, minlength=batch).tolist() == [count] * batch
    assert len({*zip(samples.tolist(), positions.tolist(), strict=True)}) == count * batch
    assert positions.min() >= 0
    assert positions.max() < pixels


def square(spatial: int) -> Geometry:
    ones = (1,) * spatial
    return Geometry((3,) * spatial, ones, ones, ((1, 1),) * spatial)


def choices(seed: int) -> list[list[int]]:
    sampler = PatchSampler(square(2), rows_per_sample=4, seed=seed)
    return [sampler.choose(3, (9, 9))[1].tolist() for _ in range(2)]


def test_choice_depends_on_the_seed_alone() -> None:
    assert choices(0) == choices(0)
    assert choices(0) != choices(1)


def test_every_sample_and_every_batch_has_positions_of_its_own() -> None:
    first, second = (np.reshape(positions, (3, 4)) for positions in choices(0))
    assert len(np.unique(np.concatenate([first, second]), axis=0)) == 6


def test_every_position_is_chosen_about_as_often() -> None:
    sampler = PatchSampler(square(2), rows_per_sample=8, seed=0)
    _, positions = sampler.choose(2000, (4, 4))
    counts = np.bincount(positions, minlength=16)
    # Each of 16 positions is taken with probability 1/2: 1000 ± 22 (one standard deviation).
    assert abs(counts - 1000).max() < 5 * 22


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_become_float32(dtype: type[np.floating]) -> None:
    values = normal(2, 3, 5, 5).astype(dtype)
    sampler = PatchSampler(square(2), rows_per_sample=25, seed=0)
    chosen = sampler.choose(2, (5, 5))
    rows = sampler.patches(values, *chosen)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, sampler.patches(values.astype(np.float32), *chosen))
    outputs = PatchSampler.outputs(values, *chosen)
    assert outputs.dtype == np.float32
    np.testing.assert_array_equal(outputs[:25], values[0].reshape(3, 25).T.astype(np.float32))


def test_input_is_left_alone() -> None:
    values = normal(1, 2, 4, 4)
    before = values.copy()
    sampler = PatchSampler(Geometry((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0))),
                           rows_per_sample=16, seed=0)  # fmt: skip
    rows = sampler.patches(values, *sampler.choose(1, (4, 4)))
    rows[:] = 0
    np.testing.assert_array_equal(values, before)
