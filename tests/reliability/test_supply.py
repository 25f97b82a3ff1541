"""Dependencies: bounded, few, locked for development, their licences listed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# More than these are too many for a tool that people install beside their own.
MOST_DEPENDENCIES = 13


@pytest.fixture(scope="module")
def dependencies() -> ModuleType:
    path = REPOSITORY / ".ci" / "dependencies.py"
    spec = importlib.util.spec_from_file_location("ci_dependencies", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_dependencies_are_few_and_bounded(dependencies: ModuleType) -> None:
    wanted = dependencies.requirements()
    assert len(wanted) <= MOST_DEPENDENCIES
    assert len(dependencies.lowest("test", "lint", "train")) > len(wanted)
    for requirement in wanted:
        assert requirement.specifier.contains(importlib.metadata.version(requirement.name))


def test_the_lock_pins_everything_that_is_needed(dependencies: ModuleType) -> None:
    lines = (REPOSITORY / "requirements-dev.lock").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", version) for version in pins.values())
    for requirement in dependencies.requirements("test", "lint"):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_licences_are_listed(dependencies: ModuleType) -> None:
    page = (REPOSITORY / "docs" / "licences.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (\S+) \| (.+?) \|", page, flags=re.MULTILINE)
    listed = {name: (version, licence) for name, version, licence in rows}
    for requirement in dependencies.requirements():
        name = canonicalize_name(requirement.name)
        version, licence = listed[name]
        if importlib.metadata.version(name) == version:
            assert licence == dependencies.licence_of(name), f"{name}: list the licences anew"
