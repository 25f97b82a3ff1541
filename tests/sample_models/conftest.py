"""Loads the scripts of sample_models, which is a folder of scripts and no package."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


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
