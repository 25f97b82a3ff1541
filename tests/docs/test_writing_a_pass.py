"""The worked example of docs/writing-a-pass.md: the page shows this very file, and it works."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.passes.base import RewritePass

from ..passes.helpers import model_from_text, normal, operators, rewrite

DOCS = Path(__file__).resolve().parents[2] / "docs"

_TEXT = """
    <ir_version: 8, opset_import: ["" : 17]>
    padded (float[1, 2, 6, 5] x) => (float[n, 3, h, w] y) {{
        [pad] p = Pad {mode} (x, {inputs})
        [conv] y = Conv {pads} (p, W)
    }}
"""


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuse_pad", DOCS / "examples" / "fuse_pad.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fuse_pad(example: ModuleType) -> RewritePass:
    single: RewritePass = example.FusePad()
    return single


def padded(
    amounts: Sequence[int] = (0, 0, 1, 2, 0, 0, 3, 0),
    *,
    mode: str = "",
    inputs: str = "pads",
    pads: str = "",
    **arrays: np.ndarray,
) -> ir.Model:
    text = _TEXT.format(mode=mode, inputs=inputs, pads=pads)
    return model_from_text(text, W=normal(3, 2, 3, 3), pads=np.array(amounts, np.int64), **arrays)


@pytest.mark.parametrize(
    ("pads", "joint"),
    [("", [1, 2, 3, 0]), ("<pads = [1, 1, 0, 2]>", [2, 3, 3, 2])],
    ids=["Conv without padding", "Conv with padding of its own"],
)
def test_pad_goes_into_the_convolution(fuse_pad: RewritePass, pads: str, joint: list[int]) -> None:
    done = rewrite(padded(pads=pads), fuse_pad)
    assert done.change.code == "fused-into-conv"
    assert done.change.node == "pad"
    assert operators(done.after) == {"Conv": 1}
    assert list(done.after.graph[0].attributes["pads"].as_ints()) == joint


def test_pad_that_others_read_stays_for_them(fuse_pad: RewritePass) -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        shared (float[1, 2, 6, 5] x) => (float[1, 3, 8, 5] y, float[1, 2, 10, 7] p) {
            [pad] p = Pad (x, pads)
            [conv] y = Conv (p, W)
        }
        """,
        W=normal(3, 2, 3, 3),
        pads=np.array([0, 0, 1, 2, 0, 0, 3, 0], np.int64),
    )
    done = rewrite(model, fuse_pad)
    assert done.codes == ["fused-into-conv"]
    assert operators(done.after) == {"Conv": 1, "Pad": 1}


@dataclasses.dataclass(frozen=True)
class Refused:
    code: str
    model: ir.Model


REFUSED = [
    Refused("mode-not-constant", padded(mode='<mode = "reflect">')),
    Refused("value-not-zero", padded(inputs="pads, one", one=np.ones((), np.float32))),
    Refused("pads-channels", padded((1, 0, 1, 1, 0, 0, 1, 1))),
    Refused("pads-negative", padded((0, 0, -1, 1, 0, 0, 1, 1))),
    Refused("auto-pad", padded(pads='<auto_pad = "SAME_UPPER">')),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.code)
def test_what_a_convolution_cannot_do_is_refused(fuse_pad: RewritePass, case: Refused) -> None:
    done = rewrite(case.model, fuse_pad)
    assert done.refusal.code == case.code
    assert operators(done.after) == operators(case.model)


def test_padding_that_is_computed_is_refused(fuse_pad: RewritePass) -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        computed (float[1, 2, 6, 5] x) => (float[1, 3, h, w] y) {
            zeros = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> ()
            pads = Mul (zeros, zeros)
            [pad] p = Pad (x, pads)
            [conv] y = Conv (p, W)
        }
        """,
        W=normal(3, 2, 3, 3),
    )
    assert rewrite(model, fuse_pad).refusal.code == "pads-not-constant"


def test_the_page_shows_the_file() -> None:
    page = (DOCS / "writing-a-pass.md").read_text("utf-8")
    source = (DOCS / "examples" / "fuse_pad.py").read_text("utf-8")
    assert f"```python\n{source}```" in page
