"""A Pad of zeros in front of a convolution becomes part of the convolution's own padding.

A convolution pads with zeros before it multiplies, so Conv(Pad(x, p), q) is Conv(x, p + q).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxsep.constants import constant_array
from onnxsep.passes.base import Change, LosslessPass, Refusal, RewriteResult


class FusePad(LosslessPass):
    """Takes every Pad that stands in front of a Conv into the Conv, or says why not."""

    name: ClassVar[str] = "fuse_pad"

    def call(self, model: ir.Model) -> RewriteResult:
        """Rewrite the main graph in place."""
        changes: list[Change] = []
        refusals: list[Refusal] = []
        for convolution in list(model.graph):
            source = convolution.inputs[0] if convolution.inputs else None
            pad = None if source is None else source.producer()
            if convolution.op_type != "Conv" or pad is None or pad.op_type != "Pad":
                continue
            pads = _joint_pads(pad, convolution)
            if isinstance(pads, Refusal):
                refusals.append(pads)
                continue
            convolution.attributes["pads"] = ir.AttrInt64s("pads", pads)
            convolution.replace_input_with(0, pad.inputs[0])
            padded = pad.outputs[0]
            if not padded.uses() and not padded.is_graph_output():
                model.graph.remove(pad, safe=True)
            detail = f"into Conv '{convolution.name}', which now pads by {pads}"
            changes.append(Change(pad.name or "", "fused-into-conv", detail))
        return RewriteResult(model, modified=bool(changes), changes=changes, refusals=refusals)


def _joint_pads(pad: ir.Node, convolution: ir.Node) -> list[int] | Refusal:
    """The padding of both, begins then ends, one each per spatial axis; nothing is changed here."""

    def refused(code: str, reason: str) -> Refusal:
        return Refusal(pad.name or "", code, reason)

    if pad.attributes.get_string("mode", "constant") != "constant":
        return refused("mode-not-constant", "it repeats the image, and a Conv pads with zeros")
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        return refused("axes-given", "its padding is for chosen axes only")
    amounts = constant_array(pad.inputs[1]) if len(pad.inputs) > 1 else None
    if amounts is None:
        return refused("pads-not-constant", "its padding is computed, or written before opset 11")
    if len(pad.inputs) > 2 and pad.inputs[2] is not None:
        value = constant_array(pad.inputs[2])
        if value is None or np.any(value != 0):
            return refused("value-not-zero", "it pads with a number that is not known to be zero")
    begins, ends = np.split(amounts, 2)  # one number per axis: batch, channels, height, width
    if begins[:2].any() or ends[:2].any():
        return refused("pads-channels", "it pads batch or channels, which a Conv cannot")
    if (amounts < 0).any():
        return refused("pads-negative", "it crops, which a Conv cannot")
    if convolution.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return refused("auto-pad", f"Conv '{convolution.name}' finds its padding by itself")
    own = convolution.attributes.get_ints("pads", [0] * (len(amounts) - 4))
    return [int(p) + q for p, q in zip([*begins[2:], *ends[2:]], own, strict=True)]
