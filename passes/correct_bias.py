"""Biases moved so that a quantized layer gives, on average, what the float one gave.

Rounding weights and clipping activations shifts the mean of an output channel; what follows then
works on a shifted distribution, and the shifts of one layer after another add up (Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2; here
measured on data). The layers are corrected in the order of the network, each on what the network as
corrected so far feeds it, in the bias that is there: no node is added to what the runtime computes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxsep.calibrate.walk import ActivationWalk
from onnxsep.constants import NameScope, add_initializer, constant_array, remove_if_unused
from onnxsep.errors import InputError
from onnxsep.passes._obstacle import ObstacleError
from onnxsep.passes.base import Change, LossyPass, Refusal, RewriteResult
from onnxsep.progress import Progress, Silence
from onnxsep.quality import signal_to_noise_db
from onnxsep.runtime import Feeds, make_session, run

Float64Array = npt.NDArray[np.float64]

WHOLE_MODEL = "(whole model)"
_LAYER_OPERATORS = ("Conv", "Gemm", "MatMul")
# A shift is believed from so many standard errors on: by chance alone one channel in 370 would.
_STANDARD_ERRORS = 3.0
_FEWEST_IMAGES = 8
# The outputs must gain so much, on images that nothing was measured on; less is chance.
_LEAST_GAIN_DB = 0.05
_INT32 = np.iinfo(np.int32)


class CorrectBias(LossyPass):
    """Correct the biases of a model in QDQ form.

    Every quantized layer gives a change or a refusal. Where the outputs are no nearer to the
    original's afterwards, on images kept for this, nothing is changed at all.
    """

    name: ClassVar[str] = "correct_bias"

    def __init__(
        self,
        original: ir.Model,
        batches: Iterable[Feeds],
        check_batches: Iterable[Feeds],
        *,
        threads: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """Prepare the pass.

        Args:
            original: The float model that was quantized, with the same names of nodes.
            batches: To measure shifts on; iterated many times, must give the same each time.
            check_batches: To decide on whether the correction is kept; images of their own, that
                no range and no shift was measured on.
            threads: Of onnxruntime, 0 for all cores.
            progress: Told of every layer.
        """
        self._original = original
        self._batches = batches
        self._check = check_batches
        self._threads = threads
        self._progress = progress or Silence()

    def call(self, model: ir.Model) -> RewriteResult:
        """Correct in place.

        Raises:
            InputError: A model fails on the data, or there are none.
        """
        working = model.clone()
        changes, refusals = self._correct(working)
        if not changes:
            return RewriteResult(model, modified=False, refusals=refusals)
        before, after = self._noise_levels(model, working)
        figures = {"snr_before_db": before, "snr_after_db": after}
        if after < before + _LEAST_GAIN_DB:
            reason = (
                f"the outputs would lie {after:.2f} dB above their error instead of {before:.2f} "
                "on images kept for this"
            )
            refusals = [Refusal(WHOLE_MODEL, "no-gain", reason, figures), *refusals]
            return RewriteResult(model, modified=False, refusals=refusals)
        model.graph = working.graph
        changes = [
            dataclasses.replace(change, figures={**change.figures, **figures}) for change in changes
        ]
        return RewriteResult(model, modified=True, changes=changes, refusals=refusals)

    def _correct(self, model: ir.Model) -> tuple[list[Change], list[Refusal]]:
        twins = {node.name: node for node in self._original.graph}
        exact = ActivationWalk(self._original, self._batches, threads=self._threads)
        rounded = ActivationWalk(model, self._batches, threads=self._threads)
        names = NameScope.of_values(model.graph)
        changes, refusals = [], []
        layers = [node for node in model.graph if _is_quantized(node)]
        self._progress.stage("correcting biases", len(layers))
        for node in layers:
            name = node.name or ""
            self._progress.step(name)
            try:
                bias = _read_bias(node)
                twin = _checked_twin(twins.get(name), node)
                shift = _Shift()
                for wanted, found in zip(_values(exact, twin), _values(rounded, node), strict=True):
                    shift.add(found.astype(np.float64) - wanted)
                believed = shift.believed()
                moved = bias.move(-believed, model.graph, names)
            except ObstacleError as obstacle:
                refusals.append(Refusal(name, obstacle.code, obstacle.reason))
                continue
            figures = {
                "channels": int(np.count_nonzero(moved)),
                "largest_shift": float(np.abs(moved).max()),
            }
            detail = f"the means of {figures['channels']} of {len(moved)} channels were shifted"
            changes.append(Change(name, "bias-corrected", detail, figures))
        return changes, refusals

    def _noise_levels(self, model: ir.Model, corrected: ir.Model) -> tuple[float, float]:
        """Signal-to-noise of the worst output against the original's, before and after."""
        sessions = [
            make_session(each, threads=self._threads) for each in (self._original, model, corrected)
        ]
        parts: list[list[list[np.ndarray]]] = [[], [], []]
        for feeds in self._check:
            for collected, session in zip(parts, sessions, strict=True):
                collected.append(run(session, feeds, label="the model"))
        if not parts[0]:
            raise InputError("there are no images to decide on the correction of biases with")
        exact, before, after = (
            [_joined(column) for column in zip(*each, strict=True)] for each in parts
        )
        return (
            min(signal_to_noise_db(*pair) for pair in zip(exact, before, strict=True)),
            min(signal_to_noise_db(*pair) for pair in zip(exact, after, strict=True)),
        )


class _Shift:
    """Difference of the means of every channel, image by image."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Float64Array = np.zeros(0)
        self._squares: Float64Array = np.zeros(0)

    def add(self, difference: Float64Array) -> None:
        """(images, C, ...) of one batch."""
        means = difference.reshape(*difference.shape[:2], -1).mean(axis=2)
        if not self._count:
            self._sum, self._squares = np.zeros(means.shape[1]), np.zeros(means.shape[1])
        self._count += len(means)
        self._sum += means.sum(axis=0)
        self._squares += np.square(means).sum(axis=0)

    def believed(self) -> Float64Array:
        """The shift of each channel, (C,); 0 where it is within the noise.

        Raises:
            ObstacleError: It is everywhere.
        """
        if self._count < _FEWEST_IMAGES:
            reason = f"{self._count} images are too few to tell a shift from chance"
            raise ObstacleError("few-images", reason)
        mean = self._sum / self._count
        variance = np.maximum(self._squares / self._count - mean**2, 0.0)
        error = np.sqrt(variance / (self._count - 1))
        found: Float64Array = np.where(np.abs(mean) > _STANDARD_ERRORS * error, mean, 0.0)
        if not np.isfinite(found).all():
            raise ObstacleError("not-finite", "its output becomes NaN or infinite")
        if not found.any():
            raise ObstacleError(
                "within-noise", "no channel is shifted by more than chance explains"
            )
        return found


@dataclasses.dataclass(frozen=True)
class _Bias:
    """Where a layer's bias is kept.

    Attributes:
        node: The layer.
        back: The DequantizeLinear that it comes from; None if it is float or absent.
        steps: (N,) the real numbers that its integers count; None if it is float.
    """

    node: ir.Node
    back: ir.Node | None
    steps: Float64Array | None

    def move(self, by: Float64Array, graph: ir.Graph, names: NameScope) -> Float64Array:
        """Add ``by``, (N,), as far as the integers allow, and give what was added.

        Raises:
            ObstacleError: Nothing is left of it after rounding.
        """
        if self.steps is None:
            return self._move_float(by, graph, names)
        old = None if self.back is None else constant_array(self.back.inputs[0])
        before = np.zeros(len(by), np.int64) if old is None else old.astype(np.int64)
        change = np.rint(by / self.steps).astype(np.int64)
        after = np.clip(before + change, _INT32.min, _INT32.max)
        if np.array_equal(before, after):
            raise ObstacleError("below-step", "the shift is smaller than half a step of its bias")
        wanted = f"{self.node.name}_bias_corrected"
        value = add_initializer(graph, wanted, after.astype(np.int32), names=names)
        if self.back is not None:
            previous = self.back.inputs[0]
            self.back.replace_input_with(0, value)
            remove_if_unused(previous)
        else:
            self._attach(value, graph, names)
        return np.asarray((after - before) * self.steps)

    def _attach(self, value: ir.Value, graph: ir.Graph, names: NameScope) -> None:
        """Give the layer a bias of integers."""
        name = self.node.name or ""
        steps = np.asarray(self.steps, np.float32)
        scale = add_initializer(graph, f"{name}_bias_scale", steps, names=names)
        zero = np.zeros(len(steps), np.int32)
        zeros = add_initializer(graph, f"{name}_bias_zero_point", zero, names=names)
        result = ir.Value(
            name=names.take(f"{name}_bias"),
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape([len(steps)]),
        )
        taken = NameScope.of_nodes(graph)
        back = ir.node(
            "DequantizeLinear",
            [value, scale, zeros],
            {"axis": 0},
            outputs=[result],
            name=taken.take(f"{name}_bias_DequantizeLinear"),
        )
        graph.insert_before(self.node, back)
        self.node.resize_inputs(3)
        self.node.replace_input_with(2, result)

    def _move_float(self, by: Float64Array, graph: ir.Graph, names: NameScope) -> Float64Array:
        old = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        array = constant_array(old)
        before = np.zeros(len(by)) if array is None else array.astype(np.float64)
        value = add_initializer(
            graph, f"{self.node.name}_bias_corrected", (before + by).astype(np.float32), names=names
        )
        self.node.resize_inputs(3)
        self.node.replace_input_with(2, value)
        remove_if_unused(old)
        return by


def _read_bias(node: ir.Node) -> _Bias:
    """Where the bias of a quantized layer is.

    Raises:
        ObstacleError: It cannot take a correction.
    """
    if node.op_type == "MatMul":
        raise ObstacleError("no-bias-input", "a MatMul has no bias to move")
    if node.op_type == "Gemm" and [
        node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")
    ] != [1.0, 1.0]:
        raise ObstacleError("gemm-form", "its bias or product has a factor")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    producer = None if bias is None else bias.producer()
    data, weight = (_scale_behind(value) for value in node.inputs[:2])
    channels = _output_channels(node)
    if producer is not None and producer.op_type == "DequantizeLinear":
        back, integers = producer, constant_array(producer.inputs[0])
        steps = constant_array(producer.inputs[1])
        if integers is None or steps is None or integers.dtype != np.int32:
            raise ObstacleError("bias-not-constant", "its bias is no constant of 32-bit integers")
        if len(producer.outputs[0].uses()) > 1 or integers.shape != (channels,):
            raise ObstacleError("bias-shared", "another node reads its bias, or it is no vector")
        return _Bias(node, back, np.broadcast_to(steps.astype(np.float64), channels))
    if bias is not None:
        array = constant_array(bias)
        if array is None or array.shape != (channels,) or array.dtype != np.float32:
            raise ObstacleError("bias-not-constant", "its bias is no constant vector of float32")
        return _Bias(node, None, None)
    if _is_stored_float(node.inputs[1]):
        return _Bias(node, None, None)
    if data is None or weight is None:
        raise ObstacleError("scale-not-constant", "the scale of its input or weight is computed")
    steps = data.astype(np.float32) * weight.astype(np.float32)
    return _Bias(node, None, np.broadcast_to(steps.reshape(-1).astype(np.float64), channels))


def _output_channels(node: ir.Node) -> int:
    value = node.inputs[1]
    back = None if value is None else value.producer()
    array = None if back is None else constant_array(back.inputs[0])
    if array is None and back is not None:
        source = back.inputs[0]
        forth = None if source is None else source.producer()
        array = None if forth is None else constant_array(forth.inputs[0])
    if array is None:
        raise ObstacleError("weight-not-constant", "its weight is no constant")
    transposed = node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)
    return int(array.shape[1 if transposed else 0])


def _is_stored_float(weight: ir.Value | None) -> bool:
    """Whether the file holds the weight in float, as targets want that take no bias of integers."""
    back = None if weight is None else weight.producer()
    source = None if back is None else back.inputs[0]
    forth = None if source is None else source.producer()
    return forth is not None and forth.op_type == "QuantizeLinear"


def _scale_behind(value: ir.Value | None) -> np.ndarray | None:
    producer = None if value is None else value.producer()
    return None if producer is None else constant_array(producer.inputs[1])


def _is_quantized(node: ir.Node) -> bool:
    if node.op_type not in _LAYER_OPERATORS or len(node.inputs) < 2:
        return False
    producers = [None if value is None else value.producer() for value in node.inputs[:2]]
    return all(each is not None and each.op_type == "DequantizeLinear" for each in producers)


def _checked_twin(twin: ir.Node | None, node: ir.Node) -> ir.Node:
    if twin is None or twin.op_type != node.op_type:
        raise ObstacleError("no-twin", "the original has no such node")
    return twin


def _values(walk: ActivationWalk, node: ir.Node) -> Iterable[np.ndarray]:
    """What the layer gives, batch by batch; the walk stands in front of it then."""
    name = node.outputs[0].name or ""
    for values in walk.step([name], cut_before=node):
        yield values[name]


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    """All samples; images of several sizes end to end."""
    arrays = list(parts)
    if len({part.shape[1:] for part in arrays}) > 1:
        return np.concatenate([part.reshape(-1) for part in arrays])[None]
    return np.concatenate(arrays)
