"""docs/reliability.md says what the results say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_page_is_made_of_the_results() -> None:
    script = REPOSITORY / "benchmarks" / "reliability_page.py"
    spec = importlib.util.spec_from_file_location("reliability_page", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert written == module.page(), "run python benchmarks/reliability_page.py"
