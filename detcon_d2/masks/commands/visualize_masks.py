"""Show sources of regions side by side, one image per row: look at the masks before you pretrain on them."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from detcon_d2.io.specs import list_images
from detcon_d2.io.tiles import tile_records
from detcon_d2.masks.commands.arguments import (
    add_reading_arguments,
    add_source_arguments,
    add_tiles_argument,
    check_stored_tiles,
    make_parser,
    reading_from,
    run_command,
    sources_from,
    stored_tiles,
)
from detcon_d2.masks.generate import evenly_spaced
from detcon_d2.masks.scoring.contact_sheet import write_contact_sheet
from detcon_d2.masks.scoring.ground_truth import has_ground_truth, list_bsds

_EPILOG = """
examples
  every source with its defaults, on six images of a folder:
    %(prog)s folder:/data/photos --output sheet.png
  FH at two scales and the label maps of a data set, next to COCO's instances:
    %(prog)s coco:/data/instances.json,/data/images --output sheet.png \\
        --source "fh scale=300 min_size=100" --source fh --masks /data/masks_fh
  the tiles of large images:
    %(prog)s folder:/data/scans --output sheet.png --tiles 1024
  next to human segmentations (BSDS500):
    %(prog)s --bsds BSDS500/data/images/val BSDS500/data/groundTruth/val --output sheet.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = make_parser(__doc__, _EPILOG)
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("spec", nargs="?", metavar="SPEC", help="the images, as for generate_masks.py")
    images.add_argument("--bsds", nargs=2, metavar=("IMAGES", "GROUND_TRUTH"), help="folders of images and of human segmentations")
    parser.add_argument("--output", required=True, metavar="FILE", help="picture to write: .png or .jpg")
    add_source_arguments(parser)
    add_reading_arguments(parser)
    add_tiles_argument(parser)
    parser.add_argument("--num-images", type=int, default=6, metavar="N", help="rows, evenly spaced (default: %(default)s)")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> None:
    if args.num_images < 1:
        raise ValueError(f"--num-images: found {args.num_images}; expected at least 1")
    images = evenly_spaced(list_bsds(*args.bsds) if args.bsds else list_images(args.spec), args.num_images)
    sources = sources_from(args, annotated=all("annotations" in record and has_ground_truth(record) for record in images))
    reading = replace(reading_from(args), tiles=args.tiles or next(iter(stored_tiles(sources).values()), 0))
    check_stored_tiles(sources, reading.tiles, "give --tiles as they have it, or show them in a sheet of their own")
    # Cut only these images: opening all of them for their sizes would take long.
    records = evenly_spaced(tile_records(images, reading, progress=True), args.num_images)
    print(write_contact_sheet(sources, records, args.output, args.spec or f"{args.bsds[0]} and {args.bsds[1]}", reading))
