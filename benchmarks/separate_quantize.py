"""What int8 costs on top of separation: every layer separated, in float and in int8.

    python benchmarks/separate_quantize.py [NETWORK ...] [--rank 2 3] [--form FORM ...]

Quality is on test images that no fit saw (500 of CIFAR-10; for VDSR whole pictures of Set5, three
pixels shaved off). Nothing is timed, so the table is deterministic. Needs the evaluation
data, as ``benchmarks/search.py`` does.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from search import NETWORKS, REPOSITORY, image_sources, set5_psnr

from onnxsep.decision import FORMS, Form
from onnxsep.options import Options
from onnxsep.pipeline import optimize

# Whatever is lost is what this is about.
NO_LIMIT = 1000.0


def qualities(name: str, data: Path, rank: float, form: Form, folder: Path) -> list[float]:
    """Quality of the original, of the separated network in float, and of that in int8."""
    network = NETWORKS[name]
    calibration, test = image_sources(network, data, folder)
    found = []
    for precision in ("fp32", "int8"):
        options = Options(
            data=calibration,
            test_data=test,
            preprocessing=network.preprocessing,
            label_offset=network.label_offset,
            max_drop=NO_LIMIT,
            min_snr_db=None,
            rank=rank,
            form=form,
            precision=precision,
            measure_latency=False,
        )
        source, output = data / "models" / network.file, folder / "result.onnx"
        quality = optimize(source, options, output=output).record.quality[0].quality
        first, value = quality.original, quality.value
        if network.preprocessing is None:
            first, value = (set5_psnr(path, data / network.test) for path in (source, output))
        found += [first, value] if not found else [value]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="What int8 costs on top of separation.")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--rank", nargs="+", type=float, default=[2, 3])
    parser.add_argument("--form", nargs="+", default=["depthwise-pointwise", "cp"], choices=FORMS)
    arguments = parser.parse_args()
    data = Path(os.environ.get("ONNXSEP_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not data.is_dir():
        print(f"evaluation data are not here: {data} (set ONNXSEP_SHARED_DATA)", file=sys.stderr)
        return 3
    print("| network | form | rank | original | separated | and in int8 | int8 costs |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.networks or ["simpnet300k", "slimnet8", "resnet8_wide", "vdsr"]:
        for form in arguments.form:
            for rank in arguments.rank:
                with tempfile.TemporaryDirectory() as folder:
                    original, separated, both = qualities(name, data, rank, form, Path(folder))
                print(
                    f"| {name} | {form} | {rank:g} | {original:.2f} | {separated:.2f} "
                    f"| {both:.2f} | {separated - both:+.2f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
