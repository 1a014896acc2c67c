#!/usr/bin/env python
"""How fast region masks are made and read here: FH beside scikit-image's, scales together, tars beside PNG, several processes."""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # read when libraries are loaded

import cv2

from detcon_d2.masks.benchmark import SECTIONS, describe, load_photos
from detcon_d2.masks.generators.felzenszwalb import implementation
from detcon_d2.masks.store.index import library_versions

_EPILOG = """
sections
  fh       Felzenszwalb-Huttenlocher with the paper's parameters, 500x375 and 640x480, beside skimage.segmentation.felzenszwalb; the
           label maps are compared, and any difference is an error. np.argsort alone is what no program can avoid that sorts as
           scikit-image does; this one need not.
  scales   generator fh_scales beside its scales one after the other
  storage  reading a label map as training does: from tars beside from PNG
  workers  whole runs, JPEG to label map, N processes beside one; with it the hours for ImageNet: 1,281,167 images, all taken to be as
           large as 500x375 (they are smaller on average), on 16 idle cores as fast as this one, with disks that keep up

How to read it: "A ms, B ms ratio R" means the first takes A, the second B, and R = B / A is the median over all rounds. Times are of one
core with one thread, processor time but for workers, which needs as many idle cores as processes.

examples
  python tools/benchmarks/masks.py
  python tools/benchmarks/masks.py --sections fh --images /data/photos --rounds 15 --json masks.json
  python tools/benchmarks/masks.py --sections workers --workers 16
"""


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure (default: everything)")
    parser.add_argument("--images", metavar="DIR", help="photographs, resized (default: four that come with scikit-image)")
    parser.add_argument("--limit", type=int, default=4, metavar="N", help="photographs to use (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="measurements of each (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes in section workers (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, too")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Measure, and print each line when it is there."""
    cv2.setNumThreads(1)
    photos = load_photos(args.images, args.limit)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0], "fh": implementation()}
    machine |= library_versions()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    rows = []
    for section in args.sections:
        options = {"workers": args.workers} if section == "workers" else {}
        for row in SECTIONS[section](photos, args.rounds, **options):
            rows.append({"section": section} | row)
            print(describe(row), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "rounds": args.rounds, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
