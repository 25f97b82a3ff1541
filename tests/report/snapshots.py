"""Texts kept beside the tests; ONNXSEP_UPDATE_SNAPSHOTS=1 writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path(__file__).parent / "snapshots"


def assert_as_kept(text: str, name: str) -> None:
    """``text`` is what the file of that name holds, but for spaces at the ends of lines."""
    found = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    path = _FOLDER / name
    if os.environ.get("ONNXSEP_UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")
