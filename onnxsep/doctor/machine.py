"""Processor, limits of the control group, and what disturbs timing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxsep.bench.worker import RaplMeter, rapl_meter
from onnxsep.doctor.record import Finding, State
from onnxsep.report.text import quantity

_GIBIBYTE = 1 << 30
_LEAST_MEMORY = 2 * _GIBIBYTE
# A share of the usable cores that others take all the time disturbs timing.
_BUSY_SHARE = 0.25
_CGROUP = Path("/sys/fs/cgroup")
_POWERCAP = "/sys/class/powercap"
_FASTEST_GOVERNORS = ("performance",)
# Version 1 of control groups says "no limit" with a number beyond any memory.
_BEYOND_MEMORY = 1 << 60

# Flags that decide which integer kernels run, the best first.
_INTEGER_FLAGS = {
    "amx_int8": "AMX multiplies tiles of bytes",
    "avx512_vnni": "AVX-512 VNNI multiplies bytes into 32 bits",
    "avx_vnni": "AVX-VNNI multiplies bytes into 32 bits",
    "i8mm": "i8mm multiplies matrices of bytes",
    "asimddp": "dotprod multiplies bytes into 32 bits",
}


def processor(facts: Mapping[str, Any]) -> list[Finding]:
    """Model, flags, and what they mean for integers."""
    flags = list(facts.get("cpu_flags", ()))
    machine = facts.get("machine", "")
    found = [
        Finding("processor", "model", "ok", f"{facts.get('cpu') or 'unknown'} ({machine})"),
        Finding("processor", "flags", "ok", " ".join(flags) or "none that kernels ask for"),
    ]
    best = next((why for flag, why in _INTEGER_FLAGS.items() if flag in flags), "")
    if best:
        found.append(Finding("processor", "integers", "ok", best))
    elif machine in ("x86_64", "AMD64"):
        found.append(
            Finding(
                "processor",
                "integers",
                "warning",
                "no VNNI: sums of unsigned by signed bytes saturate in 16 bits",
                "nothing to do: onnxsep quantizes weights to 7 bits here",
            )
        )
    else:
        words = "no instruction for products of bytes: int8 brings little"
        found.append(
            Finding("processor", "integers", "warning", words, "measure before you use it")
        )
    logical, physical = facts.get("logical_cores", 0), facts.get("physical_cores", 0)
    words = f"{physical or '?'} cores, {logical} threads"
    shared = bool(physical) and logical > physical
    found.append(
        Finding(
            "processor",
            "cores",
            "ok",
            f"{words} (hyper-threads share a core: time with one thread per core)"
            if shared
            else words,
        )
    )
    return found


def limits(facts: Mapping[str, Any]) -> list[Finding]:
    """What this process may use of the machine."""
    logical, usable = facts.get("logical_cores", 0), facts.get("usable_cores", 0)
    found = []
    if usable < logical:
        words = f"this process may use {usable} of {logical} threads"
        found.append(
            Finding("limits", "affinity", "warning", words, "start it without taskset or cpuset")
        )
    else:
        found.append(Finding("limits", "affinity", "ok", f"all {logical} threads"))
    quota = facts.get("cpu_limit")
    if quota is not None and quota < usable:
        found.append(
            Finding(
                "limits",
                "processor quota",
                "warning",
                f"the control group allows {quota:g} cores; time above it is taken away in slices",
                "give the container more, or run with no more threads than that",
            )
        )
    else:
        words = "no limit of the control group" if quota is None else f"{quota:g} cores"
        found.append(Finding("limits", "processor quota", "ok", words))
    limit, total = _memory_limit(_CGROUP), int(facts.get("memory_bytes", 0))
    memory = min(limit, total) if limit and total else limit or total
    words = f"{quantity(memory)}B" if memory else "unknown"
    if limit and limit < total:
        words += f" (the control group's, of {quantity(total)}B)"
    state: State = "warning" if memory and memory < _LEAST_MEMORY else "ok"
    help_ = "use fewer --samples, or give the container more" if state == "warning" else ""
    found.append(Finding("limits", "memory", state, words, help_))
    return found


def _memory_limit(root: Path) -> int:
    """Bytes that the control group may use; 0 without a limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _text(root / name)
        if text.isdecimal() and int(text) < _BEYOND_MEMORY:
            return int(text)
    return 0


def timing(facts: Mapping[str, Any]) -> list[Finding]:
    """What changes the speed of a run from one minute to the next."""
    governor = str(facts.get("governor", ""))
    found = []
    if not governor:
        found.append(
            Finding("timing", "governor", "ok", "not shown (a virtual machine, most often)")
        )
    elif governor in _FASTEST_GOVERNORS:
        found.append(Finding("timing", "governor", "ok", governor))
    else:
        found.append(
            Finding(
                "timing",
                "governor",
                "warning",
                f"{governor} changes the clock while cells run",
                "cpupower frequency-set -g performance",
            )
        )
    turbo = facts.get("turbo")
    if turbo:
        found.append(
            Finding(
                "timing",
                "turbo",
                "warning",
                "on: the clock depends on temperature and on the neighbours' load",
                "switch it off for measurements (intel_pstate/no_turbo or cpufreq/boost)",
            )
        )
    else:
        found.append(Finding("timing", "turbo", "ok", "off" if turbo is False else "not shown"))
    load, usable = facts.get("load"), facts.get("usable_cores", 1) or 1
    if load is None:
        found.append(Finding("timing", "load", "ok", "not shown"))
    elif load > _BUSY_SHARE * usable:
        words = f"{load:.2f}: other programs take a part of {usable} threads"
        found.append(Finding("timing", "load", "warning", words, "wait until they are done"))
    else:
        found.append(Finding("timing", "load", "ok", f"{load:.2f}"))
    return found


def energy() -> list[Finding]:
    """Whether energy can be read."""
    meter = rapl_meter(_POWERCAP)
    if isinstance(meter, RaplMeter):
        return [Finding("timing", "energy", "ok", meter.source)]
    readable = "not readable" not in meter.source
    way_out = (
        "none here: virtual machines and many ARM boards show no counters"
        if readable
        else "sudo chmod a+r /sys/class/powercap/*/energy_uj"
    )
    return [Finding("timing", "energy", "missing", meter.source, way_out)]


def _text(path: Path) -> str:
    """Content of a small file, empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
