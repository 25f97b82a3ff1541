"""What is said about providers and session entries agrees with onnxruntime itself."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from onnxsep.bench.providers import (
    PROVIDERS,
    Provider,
    check_provider_option,
    explain_missing,
    find_provider,
    known_provider,
    provider_of,
)
from onnxsep.bench.session_keys import REFUSED_KEYS, SESSION_KEYS, check_session_entry

# Only in builds for other processors or other packages than the one of the tests.
ELSEWHERE = {
    "mlas.enable_gemm_fastmath_arm64_bfloat16",
    "session.allow_released_opsets_only",
    "session.use_ort_model_bytes_directly",
}


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.name)
def test_onnxruntime_has_heard_of_every_provider(provider: Provider) -> None:
    assert provider.onnxruntime_name in onnxruntime.get_all_providers()
    for name in (provider.name, provider.onnxruntime_name, *provider.aliases):
        assert find_provider(name) is provider
        assert known_provider(name.upper()) is provider
    for name, value in provider.session_config.items():
        assert check_session_entry(name, value) == ""
    # Every provider but onnxruntime's own may be missing, and somebody will ask.
    assert bool(provider.remedy) == (provider.name != "cpu")
    assert explain_missing(provider.onnxruntime_name) == provider.remedy


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("cdua", "cuda"), ("xnnpak", "xnnpack"), ("trtt", "trt"), ("QNExecutionProvider", "QNN")],
)
def test_the_nearest_name(name: str, nearest: str) -> None:
    message = find_provider(name)
    assert isinstance(message, str)
    assert f"unknown provider {name!r}, did you mean '{nearest}" in message


def test_unknown_names_list_what_is_known() -> None:
    message = find_provider("zzzz")
    assert isinstance(message, str)
    assert "known are cpu, cuda" in message


def test_providers_without_rules_of_ours() -> None:
    qnn = find_provider("QNNExecutionProvider")
    assert isinstance(qnn, Provider)
    assert (qnn.name, qnn.session_config, qnn.io_binding) == ("qnn", {}, False)
    assert isinstance(find_provider("MyExecutionProvider"), str)
    plugin = find_provider("MyExecutionProvider", plugin=True)
    assert isinstance(plugin, Provider)
    assert plugin.onnxruntime_name == "MyExecutionProvider"
    assert "MyExecutionProvider" in explain_missing("MyExecutionProvider")
    assert provider_of("CPUExecutionProvider") is PROVIDERS["cpu"]


@pytest.mark.parametrize(
    ("provider", "option", "value", "message"),
    [
        ("cuda", "use_tf32", "0", ""),
        ("cuda", "use_tf32", "off", "takes 0 or 1, not 'off'"),
        ("cuda", "use_tf23", "0", "did you mean 'use_tf32'?"),
        ("cuda", "brand_new_thing", "1", ""),
        ("cuda", "cudnn_conv_algo_search", "exhaustive", "EXHAUSTIVE or HEURISTIC or DEFAULT"),
        ("xnnpack", "intra_op_num_threads", "4", "set from the axis 'threads'"),
        ("xnnpack", "intra_op_threads", "4", "ignores 'intra_op_threads'"),
        ("nnapi", "USE_FP16", "1", "ignores 'USE_FP16'"),
        ("cpu", "use_arena", "1", "ignores 'use_arena'"),
    ],
)
def test_provider_options(provider: str, option: str, value: str, message: str) -> None:
    found = check_provider_option(PROVIDERS[provider], option, value)
    assert message in found
    assert bool(message) == bool(found)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("session.intra_op.allow_spinning", "0", ""),
        ("session.intra_op.allow_spinning", "no", "takes 0 or 1, not 'no'"),
        ("session.intra_op.allow_spining", "0", "did you mean 'session.intra_op.allow_spinning'?"),
        ("zzz", "0", "docs/bench.md has a list"),
        ("session.dynamic_block_base", "4", ""),
        ("session.dynamic_block_base", "-1", "a whole number, 0 or more, not '-1'"),
        ("session.dynamic_block_base", "٤", "a whole number"),
        ("session.intra_op_thread_affinities", "1,2;3-5", ""),
        ("session.intra_op_thread_affinities", "1;", "takes cores such as '1,2;3,4'"),
        ("optimization.minimal_build_optimizations", "save", "takes '' or 'apply'"),
        ("optimization.disable_specified_optimizers", "ConvAddFusion", ""),
        ("session.graph_optimization_level", "disable_all", "use the axis 'optimization'"),
        ("session.disable_cpu_ep_fallback", "1", "use --strict-placement"),
        ("ep.cuda.anything", "x", ""),
        ("ep.", "x", "unknown"),
        ("ep." + "x" * 200, "x", "at most 128 characters"),
        ("ep.x", "x" * 2000, "1024 for the value"),
    ],
)
def test_session_entries(name: str, value: str, message: str) -> None:
    found = check_session_entry(name, value)
    assert message in found
    assert bool(message) == bool(found)


def test_every_entry_is_in_onnxruntime() -> None:
    """The names are those of the library: a misspelled one here would be refused to everybody."""
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 31):
        pytest.skip("the list is that of onnxruntime 1.31; older ones lack some entries")
    folder = Path(onnxruntime.__file__).parent / "capi"
    libraries = [*folder.glob("onnxruntime_pybind11_state*"), *folder.glob("*onnxruntime.*")]
    content = b"".join(file.read_bytes() for file in libraries)
    missing = {
        name
        for name in (*SESSION_KEYS, *REFUSED_KEYS)
        if name.encode() not in content and name not in ELSEWHERE
    }
    assert not missing
    assert not set(SESSION_KEYS) & set(REFUSED_KEYS)
