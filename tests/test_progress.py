"""Listeners to long work."""

from __future__ import annotations

import pytest

from onnxsep.progress import Progress, Silence


def work(progress: Progress) -> None:
    """Every call that a stage makes."""
    progress.stage("loading")
    progress.stage("fitting", 2)
    progress.step("conv1")
    progress.step()
    progress.note("one image was skipped")


def test_silence_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    work(Silence())
    assert capfd.readouterr() == ("", "")
