#!/usr/bin/env python
"""Speed of the input pipeline on one core: two views with regions from JPEGs on disk, ours beside torchvision's and lightly's.

The images are scikit-image's photographs at ImageNet's usual size; everything is written to a temporary folder. lightly is measured where
it is installed.
"""

import argparse
import json
import tempfile
from pathlib import Path

from measure_pipeline import as_json, compare_cells, compare_pipelines, measure_workers, profile_stages, use_one_core
from pipeline_data import write_dataset
from timing import machine

_EPILOG = """
examples
  python tools/benchmarks/pipeline.py --profile --json pipeline.json
  python tools/benchmarks/pipeline.py --workers 0 1 2 4 8 --images 512 --rounds 3
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="images of a measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each pipeline, in turns (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), metavar=("W", "H"), help="of the images (default: 500 375)")
    parser.add_argument("--ids", type=int, default=256, help="channels of the one-hot that cells are compared with (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="also the time of each stage")
    parser.add_argument("--workers", type=int, nargs="+", default=[], help="also the loader's speed with these numbers of processes")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    return parser.parse_args()


def main() -> None:
    """Measure and print; see ``--help``."""
    args = parse_args()
    use_one_core()
    result = {"machine": machine(), "images": args.images, "rounds": args.rounds, "size": list(args.size)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder, tuple(args.size))
        speeds = compare_pipelines(folder, args.images, args.rounds)
        print(*speeds, sep="\n")
        result["pipelines"] = as_json(speeds)
        result["cells_ms"] = cells = compare_cells(folder, args.ids, args.rounds)
        for label, milliseconds in cells.items():
            print(f"{label:<36}{milliseconds:9.3f} ms a view")
        if args.profile:
            result["stages_ms"] = profile_stages(folder, args.images, args.rounds)
            for stage, modes in result["stages_ms"].items():
                print(f"{stage:<36}{modes['exact']:9.3f} ms exact {modes['fast']:9.3f} ms fast, an image")
        if args.workers:
            result["workers"] = measure_workers(folder, args.workers, args.images)
            for mode, speed in result["workers"].items():
                print(f"loader, {mode}: " + ", ".join(f"{count} workers {value:.0f} images/s" for count, value in speed.items()))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
