#!/usr/bin/env python
"""Draw images, regions, and both views with regions in the same colours: look at this before burning GPU days."""

import argparse
import sys

from detcon_d2.engine import load_config
from detcon_d2.engine.visualize import write_sheet

_EPILOG = """
example:
  visualize_views.py --config-file configs/DetCon/detcon_b_R_50_in1k_300ep.yaml --output sheet.png \\
      DATASETS.TRAIN '("folder:/data/photos",)' DETCON.MASKS.ROOTS '("/data/photos_fh",)'

The sheet shows exactly what training with this config (SEED included) shows at these positions.
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", metavar="FILE", help="pretraining config")
    parser.add_argument("--output", required=True, metavar="FILE", help="picture to write: .png or .jpg")
    parser.add_argument("--num-images", type=int, default=6, help="rows of the sheet (default: %(default)s)")
    parser.add_argument("--start-position", type=int, default=0, help="first position of the run to show (default: %(default)s)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs that change the config")
    return parser.parse_args()


if __name__ == "__main__":
    args = parse_args()
    try:
        print(write_sheet(load_config(args.config_file, args.opts), args.output, args.num_images, args.start_position))
    except (ValueError, FileNotFoundError) as error:
        print(f"visualize_views.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
