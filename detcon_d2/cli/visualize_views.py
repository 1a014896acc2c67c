"""Draw images, regions, and both views with regions in the same colours: look at this before a long run."""

import argparse
import logging
import sys

import detcon_d2.methods  # noqa: F401  (registers the backbones)
from detcon_d2.engine.setup import load_config
from detcon_d2.engine.visualize import write_sheet
from detcon_d2.model_zoo import find_config

_EPILOG = """
example:
  %(prog)s --config-file configs/DetCon/detcon_b_R_50_in1k_300ep.yaml --output sheet.png \\
      DATASETS.TRAIN '("folder:/data/photos",)' DETCON.MASKS.ROOTS '("/data/photos_fh",)'

The sheet shows exactly what training with this config (SEED included) shows at these positions. Its title, which is printed too, tells
of more images how many views are nearly constant and how many regions keep a cell; a warning names the key to change.
"""


def main(argv: list[str] | None = None) -> int:
    """Write the sheet; returns the exit status, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = "pretraining config: a path, or a name below configs/ (default: %(default)s)"
    parser.add_argument("--config-file", default="Base-DetCon.yaml", metavar="FILE", help=about)
    parser.add_argument("--output", required=True, metavar="FILE", help="picture to write: .png or .jpg")
    parser.add_argument("--num-images", type=int, default=6, help="rows of the sheet (default: %(default)s)")
    parser.add_argument("--start-position", type=int, default=0, help="first position of the run to show (default: %(default)s)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs that change the config")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        cfg = load_config(find_config(args.config_file), args.opts)
        print(*write_sheet(cfg, args.output, args.num_images, args.start_position), sep="\n")
    except (ValueError, FileNotFoundError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0
