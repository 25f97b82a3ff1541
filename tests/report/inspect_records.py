"""Inspections written by hand, so that reports of them never change."""

from __future__ import annotations

import dataclasses

from onnxsep.inspection import (
    ActivationMemory,
    Advice,
    CurvePoint,
    FormulaSaving,
    Inspection,
    KindRow,
    Layer,
    MemoryStep,
    Totals,
)

from .bench_records import HOSTILE


def layer(
    name: str = "features.0.conv", channels: tuple[int, int] = (64, 128), **changes: object
) -> Layer:
    inputs, outputs = channels
    parameters = inputs * outputs * 9
    plain = Layer(
        name=name,
        operator="Conv",
        kind="standard",
        inside="",
        in_channels=inputs,
        out_channels=outputs,
        groups=1,
        kernel=(3, 3),
        strides=(1, 1),
        dilations=(1, 1),
        input_size=(56, 56),
        output_size=(56, 56),
        precision="fp32",
        parameters=parameters,
        bias=outputs,
        macs=parameters * 3136,
        share=0.5,
        formula=FormulaSaving(
            1 / outputs + 1 / 9,
            inputs * (9 + outputs),
            inputs * 9 * 3136,
            inputs * outputs * 3136,
        ),
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def found(*, profiled: bool = False) -> Inspection:
    point = CurvePoint("depthwise-pointwise", 3, 0.0082, 26_304, 82_489_344)
    layers = (
        layer("stem", (3, 64), share=0.004, code="too-few-channels", reason="only 3 channels"),
        layer(share=0.51, curve=(point,), achievable=point),
        layer(
            "features.7.inverted_residual.depthwise.conv",
            (128, 128),
            kind="depthwise",
            groups=128,
            strides=(2, 2),
            output_size=(28, 28),
            parameters=1152,
            macs=903_168,
            share=0.002,
            formula=None,
            code="depthwise",
            reason="depthwise already",
        ),
        layer(
            "tail",
            (128, 256),
            kernel=(5, 5),
            share=0.48,
            curve=(CurvePoint("pointwise-depthwise", 8, 0.0432, 1, 1),),
            code="over-error",
            reason="4.3 % error is the least that saves anything (pointwise-depthwise, rank 8)",
        ),
        layer(
            "if0.conv",
            (8, 8),
            kind="pointwise",
            inside="if0/then_branch",
            kernel=(1, 1),
            input_size=(),
            output_size=(),
            precision="int8",
            parameters=64,
            macs=None,
            share=0.0,
            counted=False,
            shared_with="stem",
            formula=None,
            code="inside-subgraph",
            reason="it is inside if0/then_branch; only the main graph is rewritten",
        ),
    )
    kinds = (
        KindRow("standard", 3, 370_368, 1_161_474_048, 0.994),
        KindRow("depthwise", 1, 1152, 903_168, 0.002),
        KindRow("pointwise", 1, 64, 0, 0.0),
        KindRow("Gemm", 0, 0, 2_560, 0.004),
    )
    if profiled:
        times = (1.25, 0.004, 0.5, 0.1, None)
        layers = tuple(
            dataclasses.replace(each, time_ms=time, time_share=None if time is None else time / 2)
            for each, time in zip(layers, times, strict=True)
        )
        kinds = (
            *(dataclasses.replace(row, time_ms=0.4, time_share=0.2) for row in kinds),
            KindRow("other", 0, 0, 0, 0.0, 0.4, 0.2),
        )
    steps = (
        MemoryStep("stem", "Conv", 3_211_264, (112, 112), (("a", 3_000_000), ("x", 211_264))),
        MemoryStep("tail", "Conv", 802_816, (56, 56), (("b", 802_816),)),
        MemoryStep("fc", "Gemm", 1_024, (), (("y", 1_024),)),
    )
    return Inspection(
        model="models/net.onnx",
        target="cpu",
        error=0.01,
        basis="the weights alone (depthwise-pointwise, up to 8 ranks each)",
        batch=1,
        inputs=("image 1x3x224x224, float32",),
        totals=Totals(
            layers=5,
            parameters=374_144,
            bytes=1_496_576,
            macs=1_162_379_776,
            unsized=1,
            formula_macs=140_000_000,
            formula_parameters=45_000,
            weights=371_584,
            achievable_macs=1_013_000_000,
            achievable_parameters=324_160,
            achievable_layers=1,
            peak_bytes=3_211_264,
            peak_node="stem",
            time_ms=2.0 if profiled else None,
        ),
        kinds=kinds,
        layers=layers,
        memory=ActivationMemory(steps, 0, 0),
        advice=(
            Advice(
                "dynamic-size",
                "high",
                "image sizes are free",
                ("image",),
                "H and W of 'image' have no fixed size, which bars xnnpack: 5 convolutions stay on "
                "the CPU provider there",
                "fix the sizes when you export",
                {"axes": 2},
            ),
            Advice(
                "weight-ranges-differ",
                "low",
                "weights need a scale for each channel",
                ("stem", "features.0.conv", "tail", "a", "b", "c"),
                "in 6 of 7 layers channels differ",
                "quantize weights per channel",
                {"layers": 6},
            ),
        ),
        notes=("the size of 1 convolution is not known; they do not count",),
        seconds=1.234,
        onnxsep_version="0.1.0",
    )


def profiled() -> Inspection:
    return found(profiled=True)


def empty() -> Inspection:
    plain = found()
    totals = dataclasses.replace(
        plain.totals, layers=0, macs=0, formula_macs=0, achievable_macs=0, peak_bytes=0, unsized=0
    )
    return dataclasses.replace(
        plain,
        layers=(),
        kinds=(),
        advice=(),
        totals=totals,
        memory=ActivationMemory((), -1, 0),
        notes=("there is no convolution in this model: nothing to separate",),
    )


def hostile() -> Inspection:
    """Every text that comes from a stranger tries to be more than text."""
    plain = profiled()
    layers = tuple(
        dataclasses.replace(
            each,
            name=f"{HOSTILE} {number}",
            inside=HOSTILE,
            reason=HOSTILE if each.achievable is None else "",
            shared_with=HOSTILE,
            precision=HOSTILE,
        )
        for number, each in enumerate(plain.layers)
    )
    steps = tuple(dataclasses.replace(step, node=HOSTILE) for step in plain.memory.steps)
    return dataclasses.replace(
        plain,
        model=HOSTILE,
        basis=HOSTILE,
        inputs=(HOSTILE,),
        layers=layers,
        notes=(HOSTILE,),
        advice=tuple(
            dataclasses.replace(one, nodes=(HOSTILE,), reason=HOSTILE, way_out=HOSTILE)
            for one in plain.advice
        ),
        totals=dataclasses.replace(plain.totals, peak_node=HOSTILE),
        memory=dataclasses.replace(plain.memory, steps=steps),
    )
