"""The count of models, rewrites and refusals, as Markdown that reads well in a terminal too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .examine import Verdict

# Changes of spelling, which every model of an old exporter gets.
_SPELLING = ("normalize/", "optimize/")
_JUDGES = ("recorded", "onnxruntime", "interpreter", "nobody")


def tables(verdicts: Sequence[Verdict]) -> str:
    """Models by source, rewrites, refusals by reason, and faults."""
    parts = [_by_source(verdicts)]
    for title, counters in (
        ("rewrite", [verdict.changes for verdict in verdicts]),
        ("refusal", [verdict.refusals for verdict in verdicts]),
    ):
        counts = sum(counters, Counter[str]())
        models = Counter(key for counter in counters for key in counter)
        rows = [[key, str(count), str(models[key])] for key, count in counts.most_common()]
        parts.append(_markdown([title, "times", "models"], rows))
    faults = [f"- {verdict.name}: {fault}" for verdict in verdicts for fault in verdict.faults]
    parts.append("\n".join([f"{len(faults)} faults", *faults]))
    return "\n\n".join(parts)


def _by_source(verdicts: Sequence[Verdict]) -> str:
    heads = ["source", "models", "loaded", *(f"judged by {judge}" for judge in _JUDGES)]
    heads += ["rewritten", "separated", "faults"]
    sources = list(dict.fromkeys(verdict.source for verdict in verdicts))
    rows = [
        _row(source, [verdict for verdict in verdicts if verdict.source == source])
        for source in sources
    ]
    if len(rows) > 1:
        rows.append(_row("all", verdicts))
    return _markdown(heads, rows)


def _row(title: str, verdicts: Sequence[Verdict]) -> list[str]:
    loaded = [verdict for verdict in verdicts if verdict.loaded]
    judged = Counter(verdict.judge for verdict in loaded)
    rewritten = sum(
        any(not key.startswith(_SPELLING) for key in verdict.changes) for verdict in loaded
    )
    counts = [len(verdicts), len(loaded), *(judged[judge] for judge in _JUDGES), rewritten]
    counts.append(sum(verdict.changes["separate/separated"] > 0 for verdict in loaded))
    counts.append(sum(len(verdict.faults) for verdict in verdicts))
    return [title, *map(str, counts)]


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
