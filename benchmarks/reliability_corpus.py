"""How many models of strangers go through, unchanged where they must be, and what is refused.

    python benchmarks/reliability_corpus.py [--source node light ...] [--every N] [--processes 2]

Prints Markdown: models tried and loaded by source, what their results were held against (outputs
recorded by the onnx package, else onnxruntime's or the reference interpreter's own of the
original), rewrites, refusals by reason, and faults, of which there must be none: crashes, invalid
models, changed interfaces or numbers. Sources: the backend tests of the installed onnx package
(node, simple, pytorch-converted, pytorch-operator, light), trained networks and odd graphs of the
evaluation data (models, odd; ONNXSEP_SHARED_DATA says where they are), architectures with random
weights, and graphs of chance. ``@frozen`` are tests whose recorded inputs, but for the first,
became weights. About ten minutes on two cores; exit code 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.corpus.isolation import examine_isolated
from tests.corpus.samples import SOURCES, all_samples
from tests.corpus.tables import tables

# Trained networks go through the whole pipeline in tests/corpus/test_whole_networks.py.
_WITHOUT_PIPELINE = ("models", "odd", "architectures")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--every", type=int, default=1, help="only every so-many-th model")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    verdicts = []
    for source in arguments.source:
        names = [sample.name for sample in all_samples([source])][:: arguments.every]
        print(f"{source}: {len(names)} models", file=sys.stderr)
        whole = source not in _WITHOUT_PIPELINE
        verdicts += examine_isolated(names, [source], processes=arguments.processes, whole=whole)
    packages = ("onnx", "onnx-ir", "onnxruntime", "onnxsim", "numpy")
    print(", ".join(f"{name} {version(name)}" for name in packages), end="\n\n")
    print(tables(verdicts))
    return int(any(verdict.faults for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
