"""Execution providers that the benchmark knows: names, forced settings, ways to get one.

A target of the matrix names one of these; the predefined targets bear their short names.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping

_SUFFIX = "ExecutionProvider"


@dataclasses.dataclass(frozen=True)
class Provider:
    """One execution provider and what has to be done for a fair measurement of it.

    Attributes:
        name: Short name, and that of the predefined target.
        onnxruntime_name: As onnxruntime calls it.
        title: For people.
        aliases: Further short names.
        remedy: How to get it where it is missing, one clause; empty for the CPU's.
        session_config: Session configuration entries that it is always run with.
        pool_option: Provider option that takes the number of threads, for a provider with a pool
            of its own; onnxruntime itself then gets one thread. Empty for all others.
        io_binding: What ``io_binding: auto`` means: whether inputs and outputs are bound to the
            device once, instead of being copied at every run.
        static_shapes: Whether dimensions have to be fixed: NNAPI takes no node with a free one,
            XNNPACK no convolution.
        options: Provider options with the values they take; no values for any text.
        closed: Whether an option outside ``options`` is ignored without a word; elsewhere
            onnxruntime or the provider refuses it, and only likely typing errors are found here.
    """

    name: str
    onnxruntime_name: str
    title: str
    aliases: tuple[str, ...] = ()
    remedy: str = ""
    session_config: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pool_option: str = ""
    io_binding: bool = False
    static_shapes: bool = False
    options: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    closed: bool = False


_SWITCH = ("0", "1")
_ANY: tuple[str, ...] = ()

_ALL = (
    Provider("cpu", "CPUExecutionProvider", "ONNX Runtime's own CPU kernels", closed=True),
    Provider(
        "cuda",
        "CUDAExecutionProvider",
        "NVIDIA GPUs through CUDA and cuDNN",
        remedy="install onnxruntime-gpu into an environment of its own and name its interpreter "
        "under targets.cuda.python, or install onnxruntime-ep-cuda12 or -cuda13 beside "
        "onnxruntime and name the library under targets.cuda.libraries",
        io_binding=True,
        options={
            "device_id": _ANY,
            "gpu_mem_limit": _ANY,
            "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
            "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
            "cudnn_conv_use_max_workspace": _SWITCH,
            "cudnn_conv1d_pad_to_nc1d": _SWITCH,
            "do_copy_in_default_stream": _SWITCH,
            "enable_cuda_graph": _SWITCH,
            "enable_skip_layer_norm_strict_mode": _SWITCH,
            "fuse_conv_bias": _SWITCH,
            "prefer_nhwc": _SWITCH,
            "sdpa_kernel": _ANY,
            "tunable_op_enable": _SWITCH,
            "tunable_op_max_tuning_duration_ms": _ANY,
            "tunable_op_tuning_enable": _SWITCH,
            "use_ep_level_unified_stream": _SWITCH,
            "use_tf32": _SWITCH,
        },
    ),
    Provider(
        "tensorrt",
        "TensorrtExecutionProvider",
        "NVIDIA GPUs through TensorRT",
        aliases=("trt",),
        remedy="install onnxruntime-gpu and TensorRT into an environment of its own and name its "
        "interpreter under targets.tensorrt.python",
        options={
            "device_id": _ANY,
            "trt_builder_optimization_level": _ANY,
            "trt_cuda_graph_enable": _ANY,
            "trt_engine_cache_enable": _ANY,
            "trt_engine_cache_path": _ANY,
            "trt_fp16_enable": _ANY,
            "trt_int8_enable": _ANY,
            "trt_max_workspace_size": _ANY,
            "trt_min_subgraph_size": _ANY,
            "trt_timing_cache_enable": _ANY,
            "trt_timing_cache_path": _ANY,
        },
    ),
    Provider(
        "xnnpack",
        "XnnpackExecutionProvider",
        "XNNPACK, for ARM above all",
        remedy="no ready-made Python package for Linux on x86-64 has it: build a wheel with "
        "--use_xnnpack and name its interpreter under targets.xnnpack.python, or run on an "
        "Android phone in Termux (pkg install python-onnxruntime)",
        # Two pools on the same cores take them from each other.
        session_config={"session.intra_op.allow_spinning": "0"},
        pool_option="intra_op_num_threads",
        static_shapes=True,
        options={"intra_op_num_threads": _ANY},
        closed=True,
    ),
    Provider(
        "nnapi",
        "NnapiExecutionProvider",
        "Android's Neural Networks API (deprecated since Android 15)",
        remedy="NNAPI exists only on Android: run there in Termux (pkg install python-onnxruntime)",
        static_shapes=True,
        closed=True,
    ),
    Provider(
        "openvino",
        "OpenVINOExecutionProvider",
        "Intel hardware through OpenVINO",
        remedy="install onnxruntime-openvino into an environment of its own and name its "
        "interpreter under targets.openvino.python",
        options={"device_type": _ANY, "precision": _ANY, "num_of_threads": _ANY},
    ),
    Provider(
        "coreml",
        "CoreMLExecutionProvider",
        "Apple hardware through Core ML",
        remedy="Core ML exists only on Apple systems: run there, where the package onnxruntime "
        "contains it",
        options={
            "ModelFormat": ("NeuralNetwork", "MLProgram"),
            "MLComputeUnits": ("CPUOnly", "CPUAndNeuralEngine", "CPUAndGPU", "ALL"),
            "RequireStaticInputShapes": _SWITCH,
            "EnableOnSubgraphs": _SWITCH,
        },
    ),
)
PROVIDERS = {provider.name: provider for provider in _ALL}
_BY_ANY_NAME = {
    name.casefold(): provider
    for provider in _ALL
    for name in (provider.name, provider.onnxruntime_name, *provider.aliases)
}


def known_provider(name: str) -> Provider | None:
    """The provider of that short name, alias or onnxruntime name in any case; None if unknown."""
    return _BY_ANY_NAME.get(name.casefold())


def find_provider(name: str, *, plugin: bool = False) -> Provider | str:
    """The provider called ``name``, or what is wrong with the name, one clause.

    Args:
        name: A short name, or onnxruntime's own of any provider that it has heard of.
        plugin: Whether a library is registered with it, whose provider may bear any name.
    """
    known = known_provider(name)
    if known is not None:
        return known
    if name in _onnxruntime_names() or (plugin and name.endswith(_SUFFIX)):
        return _unknown_to_us(name)
    names = [*PROVIDERS, *(alias for provider in _ALL for alias in provider.aliases)]
    close = difflib.get_close_matches(name.casefold(), names, n=1) or difflib.get_close_matches(
        name, _onnxruntime_names(), n=1
    )
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"unknown provider {name!r}, {hint}known are {', '.join(PROVIDERS)} and onnxruntime's "
        "own names"
    )


def provider_of(onnxruntime_name: str) -> Provider:
    """The provider that onnxruntime calls so; one without any special rules if we know none."""
    return known_provider(onnxruntime_name) or _unknown_to_us(onnxruntime_name)


def explain_missing(onnxruntime_name: str) -> str:
    """How to get a provider that is not there, one clause; empty for the CPU's."""
    return provider_of(onnxruntime_name).remedy


def check_provider_option(provider: Provider, name: str, value: str) -> str:
    """What is wrong with a provider option, one clause; empty if nothing is, as far as we know."""
    if provider.pool_option and name == provider.pool_option:
        return f"{name!r} is set from the axis 'threads'; leave it out"
    if name in provider.options:
        values = provider.options[name]
        if values and value not in values:
            return f"{name!r} of {provider.name} takes {' or '.join(values)}, not {value!r}"
        return ""
    settable = [option for option in provider.options if option != provider.pool_option]
    close = difflib.get_close_matches(name, settable, n=1)
    if close:
        return f"unknown option {name!r} of {provider.name}, did you mean {close[0]!r}?"
    if provider.closed:
        return f"onnxruntime ignores {name!r}: from Python, {provider.name} takes no such option"
    return ""


def _unknown_to_us(name: str) -> Provider:
    return Provider(
        name=name.removesuffix(_SUFFIX).casefold() or name,
        onnxruntime_name=name,
        title=name,
        remedy=f"install an onnxruntime that has {name} into an environment of its own and name "
        "its interpreter under the target's 'python'",
    )


def _onnxruntime_names() -> list[str]:
    # Imported late: reading a matrix should not cost the start of onnxruntime unless it must.
    import onnxruntime

    return list(onnxruntime.get_all_providers())
