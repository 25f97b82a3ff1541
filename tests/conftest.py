"""Shared fixtures: where the evaluation data lie, and a session to run a model with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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
