"""Packages with the lowest versions that work, and the providers of this onnxruntime."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Mapping
from typing import Any

from onnxsep.bench.providers import PROVIDERS, provider_of
from onnxsep.doctor.record import Finding

PACKAGE = "onnxsep"
_OLDEST_PYTHON = (3, 11)
_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)\s*(?:>=\s*(?P<least>[0-9.]+))?")


def python() -> Finding:
    """The interpreter."""
    version = platform.python_version()
    wanted = ".".join(map(str, _OLDEST_PYTHON))
    if sys.version_info[:2] < _OLDEST_PYTHON:
        return Finding(
            "packages", "python", "broken", f"{version}, {wanted} is needed", f"install {wanted}"
        )
    return Finding("packages", "python", "ok", f"{version} ({sys.executable})")


def packages() -> list[Finding]:
    """Every package that onnxsep requires, with the lowest version that it supports."""
    try:
        requirements = importlib.metadata.requires(PACKAGE) or []
        own = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        words = "is not installed, its files are only found"
        return [Finding("packages", PACKAGE, "broken", words, "install it with pip")]
    found = [Finding("packages", PACKAGE, "ok", own)]
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match is None or "extra ==" in requirement:
            continue
        found.append(_package(match["name"], match["least"] or ""))
    return found


def _package(name: str, least: str) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "packages", name, "broken", "not installed", f"pip install '{name}>={least}'"
        )
    if _numbers(version) < _numbers(least):
        words = f"{version}, {least} is the oldest that works"
        return Finding("packages", name, "broken", words, f"pip install '{name}>={least}'")
    return Finding("packages", name, "ok", f"{version} ({least} or newer)" if least else version)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.13.0+cpu is (2, 13, 0)."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release.group().split(".")) if release else ()


def providers(facts: Mapping[str, Any] | str) -> list[Finding]:
    """Of this onnxruntime, from what the worker says of it, or from why it says nothing."""
    if isinstance(facts, str):
        return [
            Finding(
                "providers",
                "onnxruntime",
                "broken",
                facts,
                "install onnxruntime again: pip install --force-reinstall onnxruntime",
            )
        ]
    here = set(facts.get("available_providers", ()))
    found = [
        Finding(
            "providers",
            provider.name,
            "ok" if provider.onnxruntime_name in here else "missing",
            f"{provider.onnxruntime_name}, {provider.title}",
            "" if provider.onnxruntime_name in here else provider.remedy,
        )
        for provider in PROVIDERS.values()
    ]
    known = {provider.onnxruntime_name for provider in PROVIDERS.values()}
    found.extend(
        Finding("providers", provider_of(name).name, "ok", name) for name in sorted(here - known)
    )
    gpu = facts.get("gpu")
    if gpu:
        words = f"{gpu.get('name', 'unknown')}, driver {gpu.get('driver', 'unknown')}"
        found.append(Finding("providers", "NVIDIA GPU", "ok", words))
    return found
