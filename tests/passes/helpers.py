"""Models from text, seeded inputs, and the proof that a rewritten model is still the same one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxsep.passes.base import Change, Refusal, RewritePass, RewriteResult

# Rounding of one or two float32 operators, relative to the largest output.
FLOAT32_TOLERANCE = 1e-5

_SILENT = 4
_FREE_DIMENSION = 2


def model_from_text(text: str, **initializers: np.ndarray) -> ir.Model:
    """A model in ONNX text form, with arrays as further initializers of its main graph."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in initializers.items()
    )
    return ir.from_proto(proto)


def make_session(model: ir.Model, *, optimized: bool = False) -> onnxruntime.InferenceSession:
    """A CPU session that runs the graph as it is written, unless ``optimized``."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def seeded_feeds(
    model: ir.Model, *, seed: int = 0, free: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """Random inputs: normal floats, small integers, true booleans.

    Args:
        model: Its inputs are fed, but not those that have an initializer.
        seed: Of numpy's generator.
        free: Sizes of free dimensions by name; 2 for those left out.
    """
    generator = np.random.default_rng(seed)
    free = free or {}
    feeds = {}
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        assert value.name is not None
        assert value.dtype is not None
        assert value.shape is not None
        shape = [
            size if isinstance(size, int) else free.get(str(size), _FREE_DIMENSION)
            for size in value.shape
        ]
        dtype = value.dtype.numpy()
        if dtype.kind == "f":
            feeds[value.name] = generator.standard_normal(shape).astype(dtype)
        elif dtype.kind == "b":
            feeds[value.name] = np.ones(shape, dtype)
        else:
            feeds[value.name] = generator.integers(0, 4, shape).astype(dtype)
    return feeds


def run(
    model: ir.Model,
    feeds: Mapping[str, np.ndarray],
    *,
    interpreted: bool = False,
    optimized: bool = False,
) -> list[np.ndarray]:
    """All outputs.

    Args:
        model: What to run.
        feeds: An array for each input.
        interpreted: Run it in ONNX's reference interpreter instead of onnxruntime.
        optimized: Let onnxruntime rewrite the graph first.
    """
    if interpreted:
        return list(ReferenceEvaluator(ir.to_proto(model)).run(None, dict(feeds)))
    return list(make_session(model, optimized=optimized).run(None, dict(feeds)))


def largest_relative_difference(
    before: ir.Model,
    after: ir.Model,
    feeds: Mapping[str, np.ndarray] | None = None,
    *,
    interpreted: bool = False,
    optimized: bool = False,
) -> float:
    """Worst output: largest absolute difference over the largest absolute value of the original.

    Args:
        before: The original.
        after: Run by onnxruntime in any case.
        feeds: An array for each input; random ones when absent.
        interpreted: Run the original in ONNX's reference interpreter, where onnxruntime rejects it.
        optimized: Let onnxruntime rewrite ``after`` first.
    """
    feeds = seeded_feeds(before) if feeds is None else feeds
    worst = 0.0
    for expected, found in zip(
        run(before, feeds, interpreted=interpreted),
        run(after, feeds, optimized=optimized),
        strict=True,
    ):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert np.isfinite(expected).all(), "a comparison with NaN or infinity proves nothing"
        assert np.isfinite(found).all(), "NaN or infinity where the model before had numbers"
        wide = expected.astype(np.float64)
        scale = np.abs(wide).max()
        assert scale > 0, "a comparison with zeros proves nothing"
        worst = max(worst, float(np.abs(found.astype(np.float64) - wide).max() / scale))
    return worst


def assert_same_model(
    before: ir.Model,
    after: ir.Model,
    feeds: Mapping[str, np.ndarray] | None = None,
    *,
    tolerance: float = FLOAT32_TOLERANCE,
    interpreted: bool = False,
    optimized: bool = False,
) -> None:
    """``after`` is valid ONNX with the interface of ``before`` and, on the feeds, its outputs.

    See `largest_relative_difference` for the arguments.
    """
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    assert interface(after) == interface(before)
    difference = largest_relative_difference(
        before, after, feeds, interpreted=interpreted, optimized=optimized
    )
    assert difference <= tolerance


def interface(model: ir.Model) -> tuple[list[str], list[str], dict[str, str]]:
    """Inputs that must be fed, outputs, each with type and dimensions, and the model's metadata."""
    fed = [value for value in model.graph.inputs if not value.is_initializer()]
    inputs = [f"{value.name}: {value.type} {value.shape}" for value in fed]
    outputs = [f"{value.name}: {value.type} {value.shape}" for value in model.graph.outputs]
    return inputs, outputs, dict(model.metadata_props)


def operators(model: ir.Model) -> Counter[str]:
    """How often each operator stands in the model, subgraphs included."""
    return Counter(node.op_type for node in model.graph.all_nodes())


def initializer_names(model: ir.Model) -> set[str]:
    """The initializers of all graphs of the model."""
    return {name for graph in model.graphs() for name in graph.initializers}


@dataclasses.dataclass(frozen=True)
class Rewritten:
    """A model before and after some passes, and their account."""

    before: ir.Model
    after: ir.Model
    changes: list[Change]
    refusals: list[Refusal]

    @property
    def codes(self) -> list[str]:
        """The codes of all changes, then of all refusals."""
        return [change.code for change in self.changes] + [no.code for no in self.refusals]

    @property
    def change(self) -> Change:
        """The only entry of the account, which is a change."""
        (only,) = self.changes
        assert not self.refusals
        return only

    @property
    def refusal(self) -> Refusal:
        """The only entry of the account, which is a refusal."""
        (only,) = self.refusals
        assert not self.changes
        return only


def rewrite(
    model: ir.Model,
    *passes: RewritePass,
    feeds: Mapping[str, np.ndarray] | None = None,
    tolerance: float = FLOAT32_TOLERANCE,
    interpreted: bool = False,
) -> Rewritten:
    """Run the passes on a copy of ``model`` and assert that it is still the same model."""
    after = model.clone()
    changes: list[Change] = []
    refusals: list[Refusal] = []
    for single in passes:
        result = single(after)
        assert isinstance(result, RewriteResult)
        assert result.modified == bool(result.changes)
        changes += result.changes
        refusals += result.refusals
    assert_same_model(model, after, feeds, tolerance=tolerance, interpreted=interpreted)
    return Rewritten(model, after, changes, refusals)


def statistics(channels: int, *, seed: int = 0, suffix: str = "") -> dict[str, np.ndarray]:
    """Float32 constants s, b, m, v of a BatchNormalization, of both signs, none of them small."""
    generator = np.random.default_rng(seed)
    sign = generator.choice([-1.0, 1.0], channels)
    arrays = {
        "s": sign * generator.uniform(0.5, 2.0, channels),
        "b": generator.standard_normal(channels),
        "m": generator.standard_normal(channels),
        "v": generator.uniform(0.2, 3.0, channels),
    }
    return {name + suffix: array.astype(np.float32) for name, array in arrays.items()}


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    """Float32 array of normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
