"""The examination itself: what it looks for, it finds."""

from __future__ import annotations

import signal
from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnxsep.convolution import ConvSite
from onnxsep.factorize import Factors
from onnxsep.passes import lowering
from onnxsep.passes.base import Change, RewriteResult
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.targets import Repeat

from . import isolation
from .examine import Verdict, examine
from .judging import difference, run_in_interpreter
from .samples import Sample, frozen
from .tables import tables

REPLACE = lowering.replace_by_factors

_TEXT = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[2, 3, 4, 4] x, float[8, 3, 3, 3] w) => (float[2, 8, 2, 2] y) { y = Conv (x, w) }
"""


def recorded_sample() -> Sample:
    model = onnx.parser.parse_model(_TEXT)
    generator = np.random.default_rng(0)
    feeds = {
        "x": generator.standard_normal((2, 3, 4, 4)).astype(np.float32),
        "w": generator.standard_normal((8, 3, 3, 3)).astype(np.float32),
    }
    outputs = run_in_interpreter(model, feeds)
    return Sample("node/conv", lambda: model, lambda _: [(feeds, outputs)])


def test_a_sound_model_has_no_faults_and_is_judged_by_its_recording() -> None:
    verdict = examine(recorded_sample())
    assert verdict.faults == []
    assert verdict.judge == "recorded"
    assert verdict.changes["optimize/written"] == 1


def test_frozen_inputs_are_weights() -> None:
    sample = frozen(recorded_sample())
    model = sample.read()
    assert [value.name for value in model.graph.input] == ["x"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    (recording,) = sample.recordings(model)
    assert list(recording[0]) == ["x"]
    assert examine(sample, whole=False).judge == "recorded"


def broken(name: str) -> Callable[[FoldBatchNorm, ir.Model], RewriteResult]:
    """A pass that does what none may do."""

    def call(self: FoldBatchNorm, model: ir.Model) -> RewriteResult:
        (conv,) = [node for node in model.graph if node.op_type == "Conv"]
        weight = model.graph.initializers["w"]
        match name:
            case "numbers":
                assert weight.const_value is not None
                weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.01))
            case "invalid":
                conv.attributes["strides"] = ir.AttrInt64s("strides", [1, 1, 1])
            case "interface":
                conv.outputs[0].name = "z"
            case "crash":
                raise KeyError("nothing")
            case "silent":
                conv.attributes["group"] = ir.AttrInt64("group", 1)
                return RewriteResult(model, modified=False)
        return RewriteResult(model, modified=True, changes=[Change("", "broken", "broken")])

    return call


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("numbers", "fold_batchnorm: output 0 differs by"),
        ("invalid", "fold_batchnorm: invalid"),
        ("interface", "fold_batchnorm: the result has outputs ['z']"),
        ("crash", "KeyError in test_examine.py:"),
        ("silent", "fold_batchnorm says it changed nothing, but did"),
    ],
)
def test_what_a_pass_breaks_is_a_fault(
    kind: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FoldBatchNorm, "call", broken(kind))
    verdict = examine(frozen(recorded_sample()), whole=False)
    assert any(fault.startswith(said) for fault in verdict.faults), verdict.faults


def test_what_does_not_load_is_a_refusal_with_its_reason() -> None:
    model = onnx.parser.parse_model(_TEXT)
    model.graph.node[0].op_type = "Convolution"
    verdict = examine(Sample("node/wrong", lambda: model, lambda _: []))
    assert not verdict.loaded
    assert verdict.faults == []
    assert [key.partition("/")[0] for key in verdict.refusals] == ["load"]


@pytest.mark.parametrize(
    ("expected", "found", "said"),
    [
        ([np.ones(3, np.float32)], [np.ones(3, np.float32)], ""),
        ([np.ones(3, np.float32)], [np.ones(3, np.float32) * np.float32(1.0005)], ""),
        ([np.ones(3, np.float32)], [np.ones(3, np.float32) * np.float32(1.01)], "differs by"),
        ([np.ones(3, np.float32)], [np.ones((3, 1), np.float32)], "shape"),
        ([np.ones(3, np.float32)], [np.ones(3)], "type"),
        ([np.array([1.0, np.nan])], [np.array([1.0, 2.0])], "NaN"),
        ([np.array([1.0, np.nan])], [np.array([1.0, np.nan])], ""),
        ([np.array([1, 2])], [np.array([1, 3])], "differs by"),
        ([np.array(["a"], object)], [np.array(["b"], object)], "texts"),
        ([[np.ones(2)]], [[np.zeros(2)]], "output 0: output 0 differs"),
        ([np.ones(2)], [], "0 outputs"),
        ([None], [np.ones(2)], "empty"),
    ],
)
def test_differences(expected: list[object], found: list[object], said: str) -> None:
    apart = difference(expected, found, rtol=1e-3, atol=1e-7)
    assert said in apart if said else apart == ""


def test_a_process_that_dies_takes_one_model_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is told to die on one sample, by a signal as from native code."""
    code = (
        "import json, os, sys;"
        "names = json.load(sys.stdin)['names'];"
        "[print(json.dumps(dict(name=n, loaded=True, judge='nobody', changes={}, refusals={},"
        " faults=[])), flush=True) if n != 'b' else os.kill(os.getpid(), 11) for n in names]"
    )
    monkeypatch.setattr(isolation, "COMMAND", ("-c", code))
    verdicts = isolation.examine_isolated(["a", "b", "c"], ["node"], processes=1)
    assert [verdict.name for verdict in verdicts] == ["a", "b", "c"]
    assert [verdict.loaded for verdict in verdicts] == [True, False, True]
    assert verdicts[1].faults == [f"crashed the process (exit code {-signal.SIGSEGV})"]


def test_a_process_that_hangs_takes_one_model_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "COMMAND", ("-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(isolation, "SECONDS_PER_MODEL", 0.2)
    (verdict,) = isolation.examine_isolated(["a"], ["node"], processes=1)
    assert verdict.faults == ["hangs: no end after 0.2 s"]


def test_the_tables_count() -> None:
    first = Verdict("node/a", loaded=True, judge="recorded")
    first.changes.update({"separate/separated": 2, "normalize/names-made-unique": 1})
    second = Verdict("light/b", faults=["fold: output 0 differs"])
    second.refusals.update(["load/no good"])
    text = tables([first, second])
    assert "| node | 1 | 1 | 1 | 0 | 0 | 0 | 1 | 1 | 0 |" in text
    assert "| all | 2 | 1 | 1 | 0 | 0 | 0 | 1 | 1 | 1 |" in text
    assert "| separate/separated | 2 | 1 |" in text
    assert "| load/no good | 1 | 1 |" in text
    assert text.endswith("1 faults\n- light/b: fold: output 0 differs")


def test_factors_that_are_not_what_was_fitted_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(
        graph: ir.Graph, site: ConvSite, factors: Factors, bias: np.ndarray, repeat: Repeat
    ) -> None:
        REPLACE(graph, site, factors, bias + np.float32(0.5), repeat)

    def separable() -> onnx.ModelProto:
        text = _TEXT.replace("2, 3, 4, 4", "2, 9, 4, 4").replace("8, 3, 3, 3", "8, 9, 3, 3")
        return onnx.parser.parse_model(text)

    generator = np.random.default_rng(0)
    feeds = {
        "x": generator.standard_normal((2, 9, 4, 4)).astype(np.float32),
        "w": generator.standard_normal((8, 9, 3, 3)).astype(np.float32),
    }
    outputs = run_in_interpreter(separable(), feeds)
    sample = frozen(Sample("node/conv", separable, lambda _: [(feeds, outputs)]))
    verdict = examine(sample, whole=False)
    assert verdict.changes["separate/separated"] == 1
    assert verdict.faults == []
    monkeypatch.setattr(lowering, "replace_by_factors", spoiled)
    faults = examine(sample, whole=False).faults
    assert any(
        fault.startswith("separate depthwise-pointwise at full rank: output 0") for fault in faults
    )
