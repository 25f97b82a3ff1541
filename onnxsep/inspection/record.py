"""What an inspection found, as plain data that become JSON; nothing here computes or prints."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Literal

from onnxsep.decision import Form

SCHEMA_VERSION = 1

Severity = Literal["high", "medium", "low"]
SEVERITIES: tuple[Severity, ...] = ("high", "medium", "low")


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """One separable form at one rank.

    Attributes:
        form: The form.
        rank: Filters per channel, or channels in the middle of ``cp``.
        error: Relative output error, E|y - ŷ|² / E|y - E y|²; of the weights alone without data.
        parameters: Weights of the form, bias not counted.
        macs: Multiplications for one image; None where the layer's size is not known.
    """

    form: Form
    rank: int
    error: float
    parameters: int
    macs: int | None


@dataclasses.dataclass(frozen=True)
class FormulaSaving:
    """Depthwise and pointwise with one filter per channel in place of a standard convolution.

    Attributes:
        ratio: 1/N + 1/K, what is left of parameters and multiplications.
        parameters: C · (K + N).
        depthwise_macs: C · K for every output position of one image; None where the size is not
            known.
        pointwise_macs: C · N for every output position.
    """

    ratio: float
    parameters: int
    depthwise_macs: int | None
    pointwise_macs: int | None

    @property
    def macs(self) -> int | None:
        """Of both together."""
        if self.depthwise_macs is None or self.pointwise_macs is None:
            return None
        return self.depthwise_macs + self.pointwise_macs


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution.

    Attributes:
        name: Its node's name.
        operator: Conv, QLinearConv, ConvTranspose and the like.
        kind: standard, pointwise, depthwise, grouped or transposed.
        inside: The subgraph that it is in, such as ``if0/then_branch``; empty for the main graph.
        in_channels: C.
        out_channels: N.
        groups: Number of groups.
        kernel: Extent of the kernel.
        strides: Step of the kernel.
        dilations: Distance between its taps.
        input_size: Spatial size of the input; empty where not known.
        output_size: The same of the output.
        precision: Of its weight: ``fp32``, ``fp16``, ``int8`` and so on; empty where not known.
        parameters: Weights, bias not counted.
        bias: Numbers in its bias.
        macs: Multiplications for one image; None where its size is not known.
        share: Of all multiplications of the model.
        counted: Whether the totals count it; of the branches of an If only the heaviest runs.
        shared_with: The earlier layer whose weight it uses too; empty if none.
        formula: What one filter per channel would leave; None where there is nothing to separate.
        curve: Forms and ranks that multiply less than the layer, with their errors.
        achievable: The one with the fewest multiplications within the error allowed.
        code: Why there is none, for programs; empty if there is one.
        reason: The same for people, one clause.
        time_ms: For one run, from the profile; None where not profiled or not found.
        time_share: Of the time of all kernels.
    """

    name: str
    operator: str
    kind: str
    inside: str
    in_channels: int
    out_channels: int
    groups: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    precision: str
    parameters: int
    bias: int
    macs: int | None
    share: float = 0.0
    counted: bool = True
    shared_with: str = ""
    formula: FormulaSaving | None = None
    curve: tuple[CurvePoint, ...] = ()
    achievable: CurvePoint | None = None
    code: str = ""
    reason: str = ""
    time_ms: float | None = None
    time_share: float | None = None

    @property
    def taps(self) -> int:
        """K, positions of the kernel."""
        return math.prod(self.kernel)

    @property
    def shape(self) -> str:
        """Such as ``64x128 3x3 /2``: inputs, outputs, kernel, and the stride unless it is 1."""
        text = f"{self.in_channels}x{self.out_channels} {'x'.join(map(str, self.kernel))}"
        if set(self.strides) != {1}:
            steps = sorted(set(self.strides))
            text += f" /{'x'.join(map(str, self.strides)) if len(steps) > 1 else steps[0]}"
        return text


@dataclasses.dataclass(frozen=True)
class KindRow:
    """All layers of one kind together.

    Attributes:
        kind: As in `Layer`, or Gemm or MatMul.
        layers: How many; 0 where only their work was counted.
        parameters: Weights, shared ones once; 0 for matrix products.
        macs: For one image.
        share: Of all multiplications.
        time_ms: From the profile; for ``other`` of all that is no convolution.
        time_share: Of the time of all kernels.
    """

    kind: str
    layers: int
    parameters: int
    macs: int
    share: float
    time_ms: float | None = None
    time_share: float | None = None


@dataclasses.dataclass(frozen=True)
class MemoryStep:
    """What is alive while one node runs.

    Attributes:
        node: Its name.
        operator: Its type.
        bytes: Of all activations that are needed then or later.
        size: Spatial size of the largest of them; empty where it has none.
        values: The largest of them, name and bytes, largest first.
    """

    node: str
    operator: str
    bytes: int
    size: tuple[int, ...]
    values: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class ActivationMemory:
    """Activations in memory, step by step, in the order of the graph.

    A lower bound: elementwise operators work in place, kernels need no room of their own.

    Attributes:
        steps: One per node of the main graph whose values are known.
        peak: Index of the step with the most bytes; -1 if there are no steps.
        unknown: Values left out because their size is not known.
    """

    steps: tuple[MemoryStep, ...]
    peak: int
    unknown: int

    @property
    def peak_step(self) -> MemoryStep | None:
        """The step with the most bytes."""
        return self.steps[self.peak] if self.peak >= 0 else None


@dataclasses.dataclass(frozen=True)
class Advice:
    """One thing to change before the model goes to a device.

    Attributes:
        code: For programs: lower-case words joined by hyphens.
        severity: ``high``: it bars a target, or costs a good part of time or quality; ``medium``:
            it costs measurably; ``low``: good to know.
        title: A few words.
        nodes: Where, by name.
        reason: Why, with figures of this model; one or two sentences without a full stop.
        way_out: The command to give, or what to change in training.
        figures: The numbers behind it.
    """

    code: str
    severity: Severity
    title: str
    nodes: tuple[str, ...]
    reason: str
    way_out: str
    figures: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Totals:
    """The model as a whole.

    Attributes:
        layers: Convolutions, those in subgraphs included.
        parameters: Numbers in all initializers.
        bytes: Of all initializers.
        macs: Multiplications of convolutions and matrix products for one image.
        unsized: Convolutions whose multiplications are not known and not in ``macs``.
        formula_macs: What would be left if every standard convolution became depthwise and
            pointwise with one filter per channel.
        formula_parameters: The same for weights of convolutions, against ``weights``.
        weights: Weights of all convolutions, shared ones once.
        achievable_macs: What would be left within the error allowed per layer.
        achievable_parameters: The same for weights of convolutions.
        achievable_layers: Convolutions with a form within that error.
        peak_bytes: Most activations alive at a time.
        peak_node: The node that runs then.
        time_ms: Of all kernels for one run, from the profile; None without one.
    """

    layers: int
    parameters: int
    bytes: int
    macs: int
    unsized: int
    formula_macs: int
    formula_parameters: int
    weights: int
    achievable_macs: int
    achievable_parameters: int
    achievable_layers: int
    peak_bytes: int
    peak_node: str
    time_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Inspection:
    """One inspected model.

    Attributes:
        model: Where it came from.
        target: Name of the target that the advice is for.
        error: Relative output error allowed per layer.
        basis: What the rank curves rest on: the weights alone, or which data.
        batch: Images in one run.
        inputs: The inputs with the sizes that everything was counted at.
        totals: The model as a whole.
        kinds: By kind, most multiplications first.
        layers: In network order.
        memory: Activations in memory.
        advice: Most severe first.
        notes: What the reader must know: sizes assumed, what was left out and why.
        seconds: Wall time of the inspection.
        onnxsep_version: Of this package.
        schema: Version of this structure.
    """

    model: str
    target: str
    error: float
    basis: str
    batch: int
    inputs: tuple[str, ...]
    totals: Totals
    kinds: tuple[KindRow, ...]
    layers: tuple[Layer, ...]
    memory: ActivationMemory
    advice: tuple[Advice, ...]
    notes: tuple[str, ...]
    seconds: float
    onnxsep_version: str
    schema: int = SCHEMA_VERSION

    @property
    def profiled(self) -> bool:
        """Whether times are known."""
        return self.totals.time_ms is not None

    def to_json(self) -> str:
        """The record as JSON with sorted keys and a newline at the end; no NaN in it."""
        plain = _plain(dataclasses.asdict(self))
        return json.dumps(plain, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
