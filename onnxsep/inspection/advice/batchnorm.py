"""BatchNormalization that could be part of its neighbours and is not."""

from __future__ import annotations

from onnxsep.inspection.facts import Facts, megabytes, plural
from onnxsep.inspection.record import Advice
from onnxsep.passes.base import Change, Refusal

_INTO_NEIGHBOUR = "folded-into"
_WAY_OUT = "onnxsep optimize MODEL --passes simplify,fold_batchnorm -o clean.onnx"


def advise_on_batchnorm(facts: Facts) -> tuple[list[Advice], list[str]]:
    """One piece for those that fold into a neighbour, one for each reason against folding."""
    advice: list[Advice] = []
    foldable = [c for c in facts.folding.changes if c.code.startswith(_INTO_NEIGHBOUR)]
    standing = [c for c in facts.folding.changes if not c.code.startswith(_INTO_NEIGHBOUR)]
    if foldable:
        moved = 2 * _bytes(facts, foldable)
        advice.append(
            Advice(
                "batchnorm-unfolded",
                "medium",
                "BatchNormalization left unfolded",
                tuple(change.node for change in foldable),
                f"{plural(len(foldable), 'BatchNormalization')} could be part of the convolutions "
                f"beside them; as they stand they read and write {megabytes(moved)} an image "
                "wherever a runtime or quantizer does not fold them itself",
                _WAY_OUT,
                {"nodes": len(foldable), "bytes_moved": moved},
            )
        )
    if standing:
        advice.append(
            Advice(
                "batchnorm-stands-alone",
                "low",
                "BatchNormalization that nothing can take in",
                tuple(change.node for change in standing),
                f"{plural(len(standing), 'BatchNormalization')} can only become Mul and Add: "
                f"{standing[0].detail.partition(': ')[2] or standing[0].detail}",
                "put the normalization directly behind a convolution when you train again",
                {"nodes": len(standing), "bytes_moved": 2 * _bytes(facts, standing)},
            )
        )
    by_code: dict[str, list[Refusal]] = {}
    for refusal in facts.folding.refusals:
        by_code.setdefault(refusal.code, []).append(refusal)
    for code, refusals in by_code.items():
        quantized = code in ("already-quantized", "statistics-not-constant") and facts.is_quantized
        advice.append(
            Advice(
                "batchnorm-in-quantized-model" if quantized else "batchnorm-cannot-fold",
                "high" if quantized else "medium",
                "BatchNormalization between quantized layers"
                if quantized
                else "BatchNormalization that cannot be folded",
                tuple(refusal.node for refusal in refusals),
                f"{plural(len(refusals), 'BatchNormalization')}: {refusals[0].reason}"
                + (
                    f"; integers become floats and back {plural(len(refusals), 'time')} an image"
                    if quantized
                    else ""
                ),
                "fold BatchNormalization in the float model, then quantize that: onnxsep optimize "
                "does both"
                if quantized
                else "export in inference mode with constant statistics",
                {"nodes": len(refusals)},
            )
        )
    return advice, []


def _bytes(facts: Facts, changes: list[Change]) -> int:
    names = {change.node for change in changes}
    total = sum(
        facts.sizes.bytes(node.outputs[0])
        for node in facts.model.graph.all_nodes()
        if node.name in names and node.op_type == "BatchNormalization"
    )
    return total // facts.sizes.batch
