"""All targets, what they accept, and whether a model can be run on them from here."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import Literal

from onnxsep.bench.providers import explain_missing
from onnxsep.eligibility.engine import RULES, why_not_here
from onnxsep.eligibility.rule import TargetRules
from onnxsep.targets import TARGETS
from onnxsep.targets.quantization import SCHEMES

Reach = Literal["here", "over ssh", "over adb", "no"]

_ON_PHONES = ("nnapi", "xnnpack", "cpu-arm")
_NONE = "none"


@dataclasses.dataclass(frozen=True)
class TargetRow:
    """One target.

    Attributes:
        name: As ``--target`` takes it.
        title: For people.
        provider: Its provider, as onnxruntime calls it.
        activation: Type of activations that it takes quantized; ``none`` where it has no integer
            kernels.
        weight: The same of weights.
        precision: What `optimize` makes for it: ``int8`` or ``fp16``.
        form: How it wants r filters per channel: ``concat`` or ``multiplier``.
        free_dimensions: What may stay free: ``batch and size``, ``batch`` or ``none``.
        why: The reasons, one sentence.
        rules: How many rules `check` knows of it.
        reach: Whether it runs here, or how it is reached.
        how: What is needed, one clause; empty where it is here.
    """

    name: str
    title: str
    provider: str
    activation: str
    weight: str
    precision: str
    form: str
    free_dimensions: str
    why: str
    rules: int
    reach: Reach
    how: str


def list_targets() -> tuple[TargetRow, ...]:
    """Every target, in the order of their table."""
    rows = []
    for target in TARGETS.values():
        scheme, rules = SCHEMES[target.name], RULES[target.name]
        reach, how = _reach(target.name, rules)
        integers = scheme.activation != "float16"
        symmetric = ", symmetric" if integers and scheme.symmetric else ""
        rows.append(
            TargetRow(
                name=target.name,
                title=target.title,
                provider=rules.provider,
                activation=f"{scheme.activation}{symmetric}" if integers else _NONE,
                weight="int8 per channel" if integers else _NONE,
                precision="int8" if integers else "fp16",
                form=target.repeat,
                free_dimensions=_free(batch=scheme.free_batch, size=scheme.free_size),
                why=f"{scheme.why}; {target.why}",
                rules=len(rules.rules) + 1,
                reach=reach,
                how=how,
            )
        )
    return tuple(rows)


def targets_json(rows: tuple[TargetRow, ...]) -> str:
    """The rows as JSON."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n"


def _free(*, batch: bool, size: bool) -> str:
    if batch and size:
        return "batch and size"
    return "batch" if batch else _NONE


def _reach(name: str, rules: TargetRules) -> tuple[Reach, str]:
    if not why_not_here(rules):
        return "here", ""
    remedy = _other_processor(name) if rules.machines else explain_missing(rules.provider)
    if name in _ON_PHONES and shutil.which("adb") is not None:
        return "over adb", f"{remedy}; onnxsep doctor lists the phones that are attached"
    if shutil.which("ssh") is not None:
        return "over ssh", f"{remedy}; or name a machine that has it in bench.yaml"
    return "no", remedy


def _other_processor(name: str) -> str:
    kind = "an ARM64" if name == "cpu-arm" else "an x86-64"
    return f"run on {kind} machine"
