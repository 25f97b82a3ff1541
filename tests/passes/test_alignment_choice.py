"""`choose_alignment` with a clock that is told what to show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.convolution import find_convolutions
from onnxsep.errors import ConfigurationError
from onnxsep.latency import Comparison, Timing
from onnxsep.passes import _alignment_choice
from onnxsep.passes.align_channels import AlignChannels, choose_alignment

from .helpers import assert_same_model, model_from_text, normal, seeded_feeds

Cost = Callable[[list[int]], float]


def network() -> ir.Model:
    """Groups of 5, 30 and 12 channels, and the pinned 7 of the output."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,7,8,8] y) {
            a = Conv (x, w)  b = Conv (a, v)  c = Conv (b, u)  y = Conv (c, t) }""",
        w=normal(5, 3, 1, 1),
        v=normal(30, 5, 1, 1),
        u=normal(12, 30, 1, 1),
        t=normal(7, 12, 1, 1),
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Cost], list[float]]:
    """Replaces the measurement: a model takes what a function of its channels says."""

    def install(cost: Cost) -> list[float]:
        spent: list[float] = []

        def compare(
            first: ir.Model,
            second: ir.Model,
            feeds: object,
            *,
            threads: int,
            seconds: float,
            stopwatch: object,
        ) -> Comparison:
            spent.append(seconds)
            times = [
                cost([site.out_channels for site in find_convolutions(model.graph)[0]])
                for model in (first, second)
            ]
            speedup = times[0] / times[1]
            one, other = (Timing(time, 0.0, (time,)) for time in times)
            return Comparison(one, other, speedup, speedup, speedup, threads, 1)

        monkeypatch.setattr(_alignment_choice, "compare_latency", compare)
        return spent

    return install


def unaligned_by(multiple: int) -> Cost:
    """Every channel costs something, and every layer off the fast layout a lot."""
    return lambda counts: sum(counts) + 100 * sum(count % multiple != 0 for count in counts)


def test_all_groups_at_once_where_that_pays(clock: Callable[[Cost], list[float]]) -> None:
    clock(unaligned_by(4))
    model = network()
    found = choose_alignment(model, seeded_feeds(model), most_growth=1)
    # The groups of 12 channels have nothing to gain.
    assert found.multiples == {"a": 4, "b": 4}
    assert found.comparison is not None
    assert found.comparison.speedup == pytest.approx((54 + 300) / (59 + 100))
    after = model.clone()
    AlignChannels(found.multiples)(after)
    assert_same_model(model, after)


def test_one_group_is_taken_back_where_that_pays(clock: Callable[[Cost], list[float]]) -> None:
    clock(lambda counts: 1000 * (counts[0] % 8 != 0) + 100 + 10 * counts[1])
    model = network()
    found = choose_alignment(model, seeded_feeds(model), most_growth=1)
    assert "b" not in found.multiples
    assert found.multiples["a"] in (4, 8)  # eight channels by either name
    assert any(trial.accepted for trial in found.trials)


def test_groups_may_differ(clock: Callable[[Cost], list[float]]) -> None:
    clock(lambda counts: 100 * (counts[0] != 8) + 100 * (counts[1] != 32) + 40 * counts[2])
    model = network()
    found = choose_alignment(model, seeded_feeds(model), [8], most_growth=1)
    assert found.multiples == {"a": 8, "b": 8}


def test_nothing_where_nothing_pays(clock: Callable[[Cost], list[float]]) -> None:
    clock(lambda counts: float(sum(counts)))
    model = network()
    found = choose_alignment(model, seeded_feeds(model))
    assert found.multiples == {}
    assert found.comparison is None
    assert found.trials
    assert not any(trial.accepted for trial in found.trials)


def test_the_last_word_is_an_interval_off_one(
    clock: Callable[[Cost], list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(unaligned_by(4))
    measured = _alignment_choice.compare_latency

    def doubtful(*args: object, **options: object) -> Comparison:
        found: Comparison = measured(*args, **options)  # type: ignore[arg-type]
        return Comparison(
            found.first, found.second, found.speedup, 0.98, found.high, found.threads, 1
        )

    monkeypatch.setattr(_alignment_choice, "compare_latency", doubtful)
    model = network()
    found = choose_alignment(model, seeded_feeds(model))
    assert found.multiples == {}
    assert found.comparison is not None
    assert found.comparison.speedup > 1


def test_growth_is_bounded(clock: Callable[[Cost], list[float]]) -> None:
    clock(unaligned_by(16))
    model = network()
    found = choose_alignment(model, seeded_feeds(model), [16], most_growth=0.1)
    assert found.multiples == {"b": 16}  # 30 → 32; 5 → 16 and 12 → 16 are too much


def test_a_model_without_free_groups_is_not_measured(
    clock: Callable[[Cost], list[float]],
) -> None:
    spent = clock(unaligned_by(4))
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,7,8,8] y) {
            y = Conv (x, w) }""",
        w=normal(7, 3, 1, 1),
    )
    assert choose_alignment(model, seeded_feeds(model)).multiples == {}
    assert not spent


def test_every_model_is_transformed_first(clock: Callable[[Cost], list[float]]) -> None:
    clock(unaligned_by(4))
    seen: list[list[int]] = []

    def note(model: ir.Model) -> ir.Model:
        seen.append([site.out_channels for site in find_convolutions(model.graph)[0]])
        return model

    model = network()
    found = choose_alignment(model, seeded_feeds(model), [4], most_growth=1, transform=note)
    assert seen[:2] == [[5, 30, 12, 7], [8, 32, 12, 7]]
    assert len(seen) == 2 + len(found.trials) - 1


def test_no_time_leaves_the_uniform_plans(clock: Callable[[Cost], list[float]]) -> None:
    spent = clock(unaligned_by(4))
    model = network()
    found = choose_alignment(model, seeded_feeds(model), seconds=0, most_growth=4)
    assert len(found.trials) == 3
    assert spent == [0, 0, 0, 0]
    assert found.multiples


@pytest.mark.parametrize("candidates", [(), (0, 4)])
def test_candidates_below_one_are_an_error(candidates: tuple[int, ...]) -> None:
    model = network()
    with pytest.raises(ConfigurationError, match="1 or more"):
        choose_alignment(model, seeded_feeds(model), candidates)


def test_a_real_clock() -> None:
    model = network()
    feeds = {"x": np.ones((1, 3, 8, 8), np.float32)}
    found = choose_alignment(model, feeds, seconds=0.5)
    assert all(trial.comparison.threads == 1 for trial in found.trials)
    assert set(found.multiples) <= {"a", "b", "c"}
