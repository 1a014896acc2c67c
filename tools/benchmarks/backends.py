#!/usr/bin/env python
"""Speed of the bundled subset beside the installed Detectron2: one detector, same weights and images, in turns. Needs Detectron2."""

import argparse
import importlib.util
import sys

from measure_backends import compare

_EPILOG = """
examples
  PYTHONPATH=/path/to/detectron2 python tools/benchmark_backends.py
  PYTHONPATH=/path/to/detectron2 python tools/benchmark_backends.py --batch 2 --size 320 --rounds 5 --steps 1 \\
      --config-file configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_standard_1x.yaml --opts MODEL.RESNETS.NORM BN MODEL.FPN.NORM BN
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/quickstart/mask_rcnn_R_18_FPN.yaml", help="the detector (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="pairs of measurements (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="iterations of a measurement (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images of an iteration (default: %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels (default: %(default)s)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="overrides of the config; last")
    return parser.parse_args()


if __name__ == "__main__":
    args = parse_args()
    if importlib.util.find_spec("detectron2") is None:
        sys.exit("benchmark_backends.py: detectron2 is not installed, so there is nothing to compare with; put a checkout on PYTHONPATH.")
    numbers = {name: getattr(args, name) for name in ("rounds", "steps", "batch", "size")}
    for speed in compare(args.config_file, args.opts, **numbers):
        print(speed, flush=True)
