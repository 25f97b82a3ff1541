"""Shared fixtures: where the evaluation data lie, and the scripts of sample_models."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer times of other runs must not reach a test, nor those of a test other runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the evaluation networks and images; the test is skipped where it is absent."""
    folder = Path(
        os.environ.get("ONNXSEP_SHARED_DATA", REPOSITORY.parent / "shared" / "data")
    ).resolve()
    if not folder.is_dir():
        pytest.skip(f"evaluation data are not here: {folder} (set ONNXSEP_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def sample_models() -> Path:
    """The folder of sample networks that the project ships."""
    return REPOSITORY / "sample_models"


@pytest.fixture(scope="session")
def load_script(sample_models: Path) -> Callable[[str], ModuleType]:
    """A function that imports ``sample_models/NAME.py``.

    The modules get names of their own, because `build` is also what a well-known package is called.
    """
    sys.path.append(str(sample_models))  # the scripts import each other from their folder

    def load(name: str) -> ModuleType:
        unique = f"sample_models_{name}"
        if unique not in sys.modules:
            spec = importlib.util.spec_from_file_location(unique, sample_models / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[unique] = module  # dataclasses look their module up there
            spec.loader.exec_module(module)
        return sys.modules[unique]

    return load


@pytest.fixture(scope="session")
def build_network(load_script: Callable[[str], ModuleType]) -> Callable[..., object]:
    """``build`` of sample_models/build.py: well-known architectures with random weights."""
    function: Callable[..., object] = load_script("build").build
    return function
