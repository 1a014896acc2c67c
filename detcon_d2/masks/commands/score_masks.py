"""Score sources of regions against human segmentations (BSDS500) or COCO instances, to choose masks before days of pretraining."""

import argparse
from collections.abc import Sequence

from detcon_d2.masks.commands.arguments import (
    add_reading_arguments,
    add_source_arguments,
    check_stored_tiles,
    make_parser,
    reading_from,
    run_command,
    sources_from,
)
from detcon_d2.masks.generate import evenly_spaced
from detcon_d2.masks.scoring.ground_truth import list_bsds, list_coco
from detcon_d2.masks.scoring.score_report import format_table, score_sources, write_chart, write_json

_EPILOG = """
covering         share of the objects' area that their best regions have, by intersection over union
boundary recall  boundary pixels of the ground truth with one of the regions' within 2 px
ASA              achievable segmentation accuracy: pixels that are right if each region takes its best label
best overlap     mean over the objects of the best intersection over union with a region
regions, median  regions per image; boundary recall and ASA rise with them, covering and best overlap do not
ms               median processor time to make the regions of an image

examples
  every source with its defaults on BSDS500 (segmentations as .mat, or .npz with the array seg):
    %(prog)s --bsds BSDS500/data/images/val BSDS500/data/groundTruth/val
  some with parameters, and the files of a data set, against COCO instances:
    %(prog)s --coco coco/instances.json coco/images --source fh --source "fh scale=300 min_size=100" \\
        --masks coco/masks_fh --json scores.json --chart scores.svg
  masks of another tool:
    %(prog)s --bsds images groundTruth --source "imported masks=sam_masks"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = make_parser(__doc__, _EPILOG)
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument("--bsds", nargs=2, metavar=("IMAGES", "GROUND_TRUTH"), help="folders of images and of human segmentations")
    truth.add_argument("--coco", nargs=2, metavar=("INSTANCES", "IMAGES"), help="COCO json and folder of images")
    add_source_arguments(parser)
    add_reading_arguments(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="only N images, evenly spaced")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--json", metavar="FILE", help="write the scores")
    parser.add_argument("--chart", metavar="FILE.svg", help="draw the scores as bars")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> None:
    if args.chart and not args.chart.endswith(".svg"):
        raise ValueError(f"--chart: found {args.chart}; expected the name of an .svg")
    sources = sources_from(args, annotated=bool(args.coco))
    check_stored_tiles(sources, 0, "make label maps of whole images to score them, as the ground truth is of these")
    records = list_coco(*args.coco) if args.coco else list_bsds(*args.bsds)
    if args.limit:
        records = evenly_spaced(records, args.limit)
    results = score_sources(sources, records, workers=args.workers, reading=reading_from(args))
    title = f"{len(records)} images against {'COCO instances' if args.coco else 'human segmentations'}"
    print(f"{title}\n\n{format_table(results, args.markdown)}")
    if args.json:
        write_json(results, args.json)
    if args.chart:
        write_chart(results, args.chart, title)
