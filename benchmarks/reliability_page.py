"""The page docs/reliability.md, out of the results of the three reliability scripts.

    python benchmarks/reliability_page.py

Results lie in benchmarks/results; each names the command that made it. Run that first.
"""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
PAGE = REPOSITORY / "docs" / "reliability.md"

DATA_FILES = r"## (\d+) damaged data files"

INTRODUCTION = """# Reliability

What was tried to break onnxsep, and what came of it. This page is made by
`python benchmarks/reliability_page.py` out of the results of the last runs.

| tried | result |
| --- | --- |
| models through all passes | {models} of {models} loaded, {rewritten} rewritten, {faults} faults |
| damaged models | {damaged}, {foreign} with an outcome that nobody should meet |
| damaged data files | {files}, each refused in one sentence or read as sound values |
| kill -9 while writing | {kills}, every file whole |
| peak memory over models above 2 GB | at most {peak} times the model |
"""

NOT_COVERED = """## What is not covered

- Models just below 2 GB take several times their size; above, weights are mapped. Large models ran
  with `simplify,fold_batchnorm` only; int8 and fp16 refuse them.
- Locks and the sweeping of unfinished files are POSIX; network file systems were not tried, and a
  power cut cannot be tried here.
- A model's file that is overwritten in place while it is mapped crashes the run.
- Two Pads in front of a small pool stop loading in ONNX Runtime once their pads are constants.
- Inputs that are texts, bfloat16, float8 or int4, sequences, and outputs of changing size are
  refused, not supported.
- Everything ran on one x86-64 machine under Linux.
"""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    corpus, mutations, files = (
        (RESULTS / f"reliability_{name}.md").read_text(encoding="utf-8")
        for name in ("corpus", "mutations", "files")
    )
    everything = _cells(corpus, "**all**")
    kills = sum(int(_cells(files, kind)[1]) for kind in ("inside", "beside"))
    peaks = re.findall(r"^\|[^|]+\| [\d.]+ \| ([\d.]+) \|$", files, re.MULTILINE)
    introduction = INTRODUCTION.format(
        models=f"{int(everything[1]):,}",
        rewritten=everything[7],
        faults=everything[-1],
        damaged=f"{int(_cells(mutations, '**all**')[1]):,}",
        foreign=_number(r"(\d+) with an outcome that nobody should meet", mutations),
        files=f"{int(_number(DATA_FILES, mutations)):,}",
        kills=kills,
        peak=max(peaks, key=float),
    )
    parts = [_deeper(text) for text in (corpus, mutations, files)]
    return "\n".join([introduction, NOT_COVERED, *parts])


def _cells(text: str, first: str) -> list[str]:
    """The row of a table that begins with ``first``."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def _number(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"the results do not say: {pattern}")
    return found[1]


def _deeper(text: str) -> str:
    """Headings one level deeper."""
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)


if __name__ == "__main__":
    main()
