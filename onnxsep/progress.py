"""Telling somebody how far long work has come, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A listener; every call is a hint and none must fail."""

    def stage(self, title: str, total: int = 0) -> None:
        """A new stage begins; ``total`` steps will follow, or an unknown number if 0."""

    def step(self, detail: str = "") -> None:
        """One step of the stage is done or, with ``detail``, begins to be worked on."""

    def note(self, message: str) -> None:
        """Something worth a line of its own."""


class Silence:
    """The listener that nobody is behind."""

    def stage(self, title: str, total: int = 0) -> None:
        """Ignored."""

    def step(self, detail: str = "") -> None:
        """Ignored."""

    def note(self, message: str) -> None:
        """Ignored."""
