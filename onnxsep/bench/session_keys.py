"""onnxruntime session configuration entries: which there are, which values they take.

onnxruntime accepts unknown entries and most bad values without a word and runs with its defaults,
so a typing error would be measured as if it were the option. The names are those that the library
itself contains (1.31), the meanings those of its header of session option keys.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Literal

ValueKind = Literal["switch", "count", "text"]

# onnxruntime's own bounds.
_MOST_KEY_CHARACTERS = 128
_MOST_VALUE_CHARACTERS = 1024
# Entries of an execution provider; it alone knows them.
PROVIDER_PREFIX = "ep."


@dataclasses.dataclass(frozen=True)
class SessionKey:
    """One session configuration entry that a benchmark may set.

    Attributes:
        name: As onnxruntime calls it.
        kind: ``switch`` takes 0 or 1, ``count`` a whole number from 0, ``text`` anything.
        meaning: One clause; empty where onnxruntime does not document it.
        values: The only texts it takes, where they are few.
        pattern: Of the text, where it has a grammar.
    """

    name: str
    kind: ValueKind
    meaning: str
    values: tuple[str, ...] = ()
    pattern: str = ""

    @property
    def expects(self) -> str:
        """What the value has to be, for people."""
        if self.kind == "switch":
            return "0 or 1"
        if self.kind == "count":
            return "a whole number, 0 or more"
        if self.values:
            return " or ".join(repr(value) for value in self.values)
        return "cores such as '1,2;3,4'" if self.pattern else "text"

    def accepts(self, value: str) -> bool:
        """Whether onnxruntime would take ``value`` at its word."""
        if self.kind == "switch":
            return value in ("0", "1")
        if self.kind == "count":
            return value.isascii() and value.isdecimal()
        if self.values:
            return value in self.values
        return not self.pattern or re.fullmatch(self.pattern, value) is not None


_RANGE = r"\d+(-\d+)?"
_CORES = rf"{_RANGE}(,{_RANGE})*(;{_RANGE}(,{_RANGE})*)*"

_SWITCHES = {
    "session.intra_op.allow_spinning": "idle threads inside an operator spin before they sleep "
    "(onnxruntime's default: 1)",
    "session.inter_op.allow_spinning": "the same for threads across operators (default: 1)",
    "session.force_spinning_stop": "threads stop spinning as soon as a run has ended",
    "session.disable_prepacking": "weights are not rearranged for the kernels beforehand",
    "session.prepack.enable_parallel": "",
    "session.set_denormal_as_zero": "denormal numbers count as zero",
    "session.disable_quant_qdq": "QuantizeLinear/DequantizeLinear pairs are not fused into "
    "quantized operators",
    "session.enable_quant_qdq_cleanup": "pairs that are left over are removed",
    "session.disable_qdq_constant_folding": "",
    "session.disable_double_qdq_remover": "chains of two pairs are left as they are",
    "session.enable_dq_matmulnbits_fusion": "",
    "session.qdqisint8allowed": "int8 activations count as supported (ARM)",
    "session.x64quantprecision": "slower but exact uint8 products on AVX2 and AVX512 without VNNI",
    "session.disable_aot_function_inlining": "functions of the model are not inlined beforehand",
    "session.use_device_allocator_for_initializers": "weights are allocated outside the arena",
    "session.strict_shape_type_inference": "contradictions in shapes are errors",
    "session.allow_released_opsets_only": "opsets newer than the last release are errors",
    "session.use_env_allocators": "allocators of the environment are used",
    "optimization.enable_gelu_approximation": "Gelu is approximated; changes the numbers",
    "optimization.enable_cast_chain_elimination": "",
    "mlas.enable_gemm_fastmath_arm64_bfloat16": "float products in bfloat16 on ARM64; changes the "
    "numbers",
    "mlas.disable_kleidiai": "Arm's KleidiAI kernels are not used",
    "mlas.use_lut_gemm": "",
    "mlas.qnbit.force_fp32": "",
}
_COUNTS = {
    "session.dynamic_block_base": "work of an operator is handed out in ever smaller blocks, the "
    "first of N / (threads times this); 0 is off",
    "session.intra_op.spin_duration_us": "how long idle threads spin, in microseconds",
    "session.inter_op.spin_duration_us": "the same across operators",
    "session.intra_op.spin_backoff_max": "most pauses between two looks for work",
    "session.inter_op.spin_backoff_max": "the same across operators",
    "session.graph_optimizations_loop_level": "whether graph optimizations are run repeatedly",
    "session.qdq_matmulnbits_accuracy_level": "accuracy level of products with few-bit weights",
    "session.qdq_matmulnbits_block_size": "block size of products with few-bit weights",
    "optimization.constant_folding_max_output_size_in_bytes": "constants larger than this are not "
    "computed beforehand",
    "mlas.nchwc_pointwise_conv_max_input_channel_batch": "",
    "mlas.kleidiai.conv_igemm_max_work": "",
}
_TEXTS = (
    SessionKey(
        "session.intra_op_thread_affinities",
        "text",
        "cores of every thread but the first, threads separated by semicolons",
        pattern=_CORES,
    ),
    SessionKey(
        "optimization.disable_specified_optimizers",
        "text",
        "names of graph optimizers that are left out, separated by commas",
    ),
    SessionKey(
        "optimization.minimal_build_optimizations",
        "text",
        "only optimizations that a minimal build has",
        values=("", "apply"),
    ),
    SessionKey("mlas.nchwc_depthwise_sliding", "text", ""),
)
SESSION_KEYS = {
    key.name: key
    for key in (
        *(SessionKey(name, "switch", meaning) for name, meaning in _SWITCHES.items()),
        *(SessionKey(name, "count", meaning) for name, meaning in _COUNTS.items()),
        *_TEXTS,
    )
}

_BY_THE_BENCHMARK = "the benchmark sets that itself"
_IGNORED = "onnxruntime does not read this entry from Python"
_WRITES = "it writes files, which has no place in a measurement"
_NOT_ONNX = "it is about models in ORT format, which the benchmark does not run"
# Entries that exist and would mislead here, with the reason.
REFUSED_KEYS = {
    "session.intra_op_num_threads": f"{_IGNORED}; use the axis 'threads'",
    "session.inter_op_num_threads": f"{_IGNORED}; operators run one after the other",
    "session.graph_optimization_level": f"{_IGNORED}; use the axis 'optimization'",
    "session.execution_mode": f"{_IGNORED}; operators run one after the other",
    "session.enable_mem_pattern": _IGNORED,
    "session.enable_cpu_mem_arena": _IGNORED,
    "session.log_id": _IGNORED,
    "session.log_severity_level": _IGNORED,
    "session.log_verbosity_level": _IGNORED,
    "session.use_per_session_threads": _IGNORED,
    "session.use_deterministic_compute": _IGNORED,
    "session.enable_profiling": f"{_IGNORED}; every cell is profiled once, outside the timing",
    "session.record_ep_graph_assignment_info": _BY_THE_BENCHMARK,
    "session.disable_cpu_ep_fallback": f"{_BY_THE_BENCHMARK}; use --strict-placement",
    "session.optimized_model_filepath": _WRITES,
    "session.optimized_model_external_initializers_file_name": _WRITES,
    "session.optimized_model_external_initializers_min_size_in_bytes": _WRITES,
    "session.save_external_prepacked_constant_initializers": _WRITES,
    "session.collect_node_memory_stats_to_file": _WRITES,
    "session.debug_layout_transformation": _WRITES,
    "session.compile_only": "nothing would run",
    "session.load_model_format": _NOT_ONNX,
    "session.save_model_format": _NOT_ONNX,
    "session.use_ort_model_bytes_directly": _NOT_ONNX,
    "session.use_ort_model_bytes_for_initializers": _NOT_ONNX,
}


def check_session_entry(name: str, value: str) -> str:
    """What is wrong with a session configuration entry, one clause; empty if nothing is.

    Entries that begin with ``ep.`` belong to an execution provider and pass unchecked.
    """
    if len(name) > _MOST_KEY_CHARACTERS or len(value) > _MOST_VALUE_CHARACTERS:
        return (
            f"onnxruntime takes at most {_MOST_KEY_CHARACTERS} characters for the name and "
            f"{_MOST_VALUE_CHARACTERS} for the value"
        )
    if name.startswith(PROVIDER_PREFIX) and name != PROVIDER_PREFIX:
        return ""
    if name in REFUSED_KEYS:
        return f"{name!r} cannot be set here: {REFUSED_KEYS[name]}"
    key = SESSION_KEYS.get(name)
    if key is None:
        close = difflib.get_close_matches(name, SESSION_KEYS, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        return (
            f"unknown session configuration entry {name!r}{hint or ' (docs/bench.md has a list)'}"
        )
    if not key.accepts(value):
        return f"{name!r} takes {key.expects}, not {value!r}"
    return ""
