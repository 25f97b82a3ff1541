"""Graphs of chance: folding equals the original, separation its own dense equivalent."""

from __future__ import annotations

import onnx
from hypothesis import HealthCheck, given, settings

from .examine import examine
from .random_graphs import random_graphs
from .samples import Sample


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_graphs())
def test_no_graph_breaks(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    verdict = examine(Sample("random/drawn", lambda: model, lambda _: []), whole=False)
    assert verdict.loaded
    assert verdict.judge == "onnxruntime"
    assert verdict.faults == []
