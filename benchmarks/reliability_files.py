"""Kills survived, memory of a model above 2 GB, memory over 1,000 images, as Markdown.

python -m benchmarks.reliability_files --kills 100 --folder /somewhere/with/8/GB
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.reliability.killing import kill_writers
from tests.reliability.large_model import optimize_with_peak, write_large_model
from tests.reliability.test_memory import peak_over

# By name: convolutions whose weights folding changes, and layers that nothing changes.
_LARGE = {"mixed": (10, 8), "convolutions only": (60, 0)}


def kills(times: int, seed: int) -> None:
    print("## kill -9 while a file is written over and over\n")
    print("| weights | kills | old file | new file | no file yet | something unfinished beside |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for kind in ("inside", "beside"):
        with tempfile.TemporaryDirectory() as folder:
            found = kill_writers(kind, Path(folder), times, seed)
        counts = [found[name] for name in ("old", "new", "none yet", "with unfinished files")]
        print(f"| {kind} | {times} | {' | '.join(map(str, counts))} |")
    print("\nEvery file was whole, and the next sweep removed all that was unfinished.\n")


def large(parent: Path | None) -> None:
    print("## `optimize --passes simplify,fold_batchnorm` over a model above 2 GB\n")
    for name, (convolutions, layers) in _LARGE.items():
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            source = Path(folder, "large.onnx")
            size = write_large_model(source, convolutions=convolutions, layers=layers)
            code, stages = optimize_with_peak(
                source, "--passes", "simplify,fold_batchnorm", "--samples", "4"
            )
            (result,) = Path(folder).glob("*.onnxsep.onnx.data")
            print(f"{name}: {size / 1e9:.2f} GB in, {result.stat().st_size / 1e9:.2f} GB out, "
                  f"exit code {code}\n")  # fmt: skip
        print("| stage | peak, GB | of the model |\n| --- | ---: | ---: |")
        for stage, peak in stages:
            print(f"| {stage} | {peak / 1e9:.2f} | {peak / size:.2f} |")
        print()


def images() -> None:
    print("## Peak memory of a calibration\n\n| images | MB |\n| ---: | ---: |")
    for count in (100, 300, 1000):
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {count} | {peak_over(count, Path(folder)) / 1e6:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the large model goes")
    parser.add_argument("--skip-large", action="store_true")
    arguments = parser.parse_args()
    kills(arguments.kills, arguments.seed)
    if not arguments.skip_large:
        large(arguments.folder)
    images()


if __name__ == "__main__":
    main()
