"""Make the region masks (label maps) that DetCon contrasts: one PNG per image or a few tars, with an index of how they were made."""

import argparse
import sys
from collections.abc import Sequence

from detcon_d2.io.specs import canonical_spec, check_output_outside
from detcon_d2.io.tiles import tile_records
from detcon_d2.masks.command_lines import merge_command, train_hint
from detcon_d2.masks.commands.arguments import (
    add_generator_arguments,
    add_reading_arguments,
    add_tiles_argument,
    format_argument,
    generator_from,
    load_records,
    make_parser,
    reading_from,
    run_command,
)
from detcon_d2.masks.generate import evenly_spaced, generate, parse_part
from detcon_d2.masks.store.formats import create_store
from detcon_d2.masks.store.tar_folder import IMAGES_PER_FILE
from detcon_d2.masks.worker import available_cores

_EXAMPLES = """
SPEC is one of
  folder:/data/photos                                 all images below a folder
  coco:/data/coco/instances.json,/data/coco/images    the images of a COCO or LVIS json
  voc:/data/VOC2012,train                             an xml an image (the split may be left out)
  yolo:/data/data.yaml,train                          YOLO's text files, or a folder with images/ and labels/
  cityscapes:/data/cityscapes,train                   leftImg8bit and gtFine
  masks:/data/images,/data/masks                      one PNG of labels an image
  list:/data/train.txt                                one path per line
  tar:/data/train-{0000..0146}.tar                    the images in WebDataset tars
  video:/data/clips                                   the frames of clips, a folder of numbered images each
  coco_2017_train                                     a name in Detectron2's catalog

examples
  the paper's regions (Felzenszwalb-Huttenlocher), for photos of about 500 px:
    %(prog)s folder:/data/imagenet/train /data/imagenet/masks_fh --workers 16
  a trial on 50 images first; the full run continues it:
    %(prog)s folder:/data/photos /data/photos_masks --limit 50
  small images (32 px) need smaller regions:
    %(prog)s folder:/data/cifar10/train /data/cifar10/masks --scale 100 --min-size 20
  better regions than plain FH, and FH at several scales, of which training samples one per image:
    %(prog)s folder:/data/photos /data/photos_hierarchy --generator hierarchy
    %(prog)s folder:/data/photos /data/photos_scales --generator fh_scales
  aerial or microscopy images of 20,000 px, in tiles of 1,024 px:
    %(prog)s folder:/data/scans /data/scans_masks --tiles 1024 --max-pixels 400000000
  the instances of a COCO json, smaller ones on top, the rest as one background region:
    %(prog)s coco:/data/coco/instances.json,/data/coco/images /data/coco/masks --generator annotations
  the boxes of a data set without masks:
    %(prog)s voc:/data/VOC2012,train /data/voc_masks --generator annotations --boxes
  masks of another tool: COCO RLE in one json, a json per image (SAM), or a PNG per image:
    %(prog)s folder:/data/photos /data/photos_sam --generator imported --masks /data/sam_json
  what moves in clips, each a folder of numbered frames:
    %(prog)s video:/data/clips /data/clips_masks --generator motion
  a few tars, for millions of images; a SLURM array of 16 (then detcon_d2 merge_masks OUTPUT):
    %(prog)s SPEC OUTPUT --format tar --shard $SLURM_ARRAY_TASK_ID/16

docs/masks.md says which generator suits which images, with scores; tools/visualize_masks.py shows them side by side.
Interrupted or killed? The same command continues. Unreadable images are listed at the end and in OUTPUT/failed.txt.
exit status: 0 all done; 1 some images failed; 2 nothing done, the message says why; 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = make_parser(__doc__, _EXAMPLES)
    parser.add_argument("spec", metavar="SPEC", help="the images: see below")
    parser.add_argument("output", metavar="OUTPUT", help="folder for the label maps; one folder holds one set of parameters")
    add_generator_arguments(parser)
    cores = available_cores()
    parser.add_argument("--workers", type=int, default=cores, help=f"processes (default: one per core, here {cores})")
    parser.add_argument("--limit", type=int, metavar="N", help="only N images, evenly spaced over the data set: a trial")
    parser.add_argument(
        "--format", default="png", type=format_argument, metavar="{png,tar}", help="png: a file per image; tar: a few WebDataset tars"
    )
    parser.add_argument("--images-per-file", type=int, default=IMAGES_PER_FILE, metavar="N", help=f"of a tar (default: {IMAGES_PER_FILE})")
    parser.add_argument(
        "--max-left-out", type=float, default=0.1, metavar="SHARE", help="of annotations that cannot be used (default: %(default)s)"
    )
    add_reading_arguments(parser)
    add_tiles_argument(parser)
    parser.add_argument("--shard", metavar="I/N", help="only the I-th (from 0) of N parts of the images")
    parser.add_argument("--engine", choices=("processes", "ray"), default="processes", help="ray: a cluster")
    parser.add_argument("--same-images", action="store_true", help="OUTPUT was begun under another SPEC, but with the same images")
    try:
        return run_command(parser, argv, _run)
    except KeyboardInterrupt:
        print("interrupted: finished label maps are kept, and the same command continues", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    generator, reading, part = generator_from(args), reading_from(args), parse_part(args.shard) if args.shard else None
    check_output_outside(args.spec, args.output)
    records = load_records(args.spec, generator, args.max_left_out, reading)
    if args.limit:
        records = evenly_spaced(records, args.limit)
    records = tile_records(records, reading, progress=True)
    for line in reading.describe(records):
        print(line)
    dataset = canonical_spec(args.spec)
    options = {"same_images": args.same_images, "images_per_file": args.images_per_file, "tiles": reading.tiles}
    store = create_store(args.output, generator, dataset, args.format, **options)
    summary = generate(records, generator, store, workers=args.workers, part=part, engine=args.engine, reading=reading)
    print("\n".join(summary.lines()), flush=True)
    if summary.made or summary.skipped:
        print(f"when all parts are done:  {merge_command(args.output)}" if part else train_hint(dataset, args.output, reading.tiles))
    else:
        print("no label map was made: the reasons are above")
    return 1 if summary.failed else 0
