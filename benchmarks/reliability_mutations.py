"""Damaged models and data files: how many of every kind, and what became of them, as Markdown.

    python -m benchmarks.reliability_mutations --models 8000 --data 1000

Every model is loaded; what is let in is normalized, folded, saved, loaded again and run; every
fourth of what runs is optimized at rank 1 (every seventh of these with onnxsim). The examination
runs in a process of its own, so that crashes and hangs of native code are counted, not suffered.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.reliability.examine import GOOD, examine_all, table
from tests.reliability.test_data_mutations import FILES, refusals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=8000, help="damaged models")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--optimize-every", type=int, default=4)
    parser.add_argument("--data", type=int, default=1000, help="damaged data files of every kind")
    arguments = parser.parse_args()

    started = time.monotonic()
    last = arguments.first + arguments.models
    outcomes = list(examine_all(arguments.first, last, optimize_every=arguments.optimize_every))
    print(f"## {len(outcomes)} damaged models ({time.monotonic() - started:.0f} s)\n")
    print(table(outcomes))
    bad = [outcome for outcome in outcomes if outcome.outcome not in GOOD]
    print(f"\n{len(bad)} with an outcome that nobody should meet")
    for outcome in bad:
        print(f"- {outcome.number} ({outcome.kind}): {outcome.outcome} {outcome.detail}")

    if arguments.data:
        print(f"\n## {len(FILES) * arguments.data} damaged data files\n")
        print("| file | tried | refused in one sentence | read as sound values |")
        print("| --- | ---: | ---: | ---: |")
        for name in FILES:
            with tempfile.TemporaryDirectory() as folder:
                refused = refusals(name, Path(folder), arguments.data)
            print(f"| {name} | {arguments.data} | {refused} | {arguments.data - refused} |")


if __name__ == "__main__":
    main()
