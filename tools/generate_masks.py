#!/usr/bin/env python
"""Make the region masks (label maps) that DetCon contrasts: one 16-bit PNG an image, beside an index of how they were made."""

import argparse
import logging
import os
import sys

import numpy as np

from detcon_d2.masks import REGION_GENERATOR_REGISTRY, LabelMapStore, build_generator, is_source_spec, list_images
from detcon_d2.masks.generate import generate
from detcon_d2.masks.sources import canonical_spec, check_output_outside

_EXAMPLES = """
SPEC is one of
  folder:/data/photos                                 all images below a folder
  coco:/data/coco/instances.json,/data/coco/images    the images of a COCO json
  list:/data/train.txt                                one path a line
  coco_2017_train                                     a name in Detectron2's catalog

examples
  the paper's regions (Felzenszwalb-Huttenlocher), for photos of about 500 px:
    python tools/generate_masks.py folder:/data/imagenet/train /data/imagenet/masks_fh --workers 16
  a trial on 50 images first; the full run continues it:
    python tools/generate_masks.py folder:/data/photos /data/photos_masks --limit 50
  small images (32 px) need smaller regions:
    python tools/generate_masks.py folder:/data/cifar10/train /data/cifar10/masks --scale 100 --min-size 20
  a 5 x 5 grid (training makes grids without files, too: DETCON.MASKS.SOURCE grid DETCON.MASKS.GRID 5):
    python tools/generate_masks.py folder:/data/photos /data/photos_grid5 --generator grid --grid 5
  the instances of a COCO json, smaller ones on top, the rest as one background region:
    python tools/generate_masks.py coco:/data/coco/instances.json,/data/coco/images /data/coco/masks --generator annotations

Interrupted or killed? The same command continues. Unreadable images are listed at the end and in OUTPUT/failed.txt.
exit status: 0 all done; 1 some images failed; 2 nothing done, the message says why; 130 interrupted
"""


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", metavar="SPEC", help="the images: see below")
    parser.add_argument("output", metavar="OUTPUT", help="folder for the label maps; one folder holds one set of parameters")
    parser.add_argument("--generator", default="fh", choices=sorted(REGION_GENERATOR_REGISTRY), help="how regions are made (default: fh)")
    parser.add_argument("--scale", type=float, help="fh: larger means larger regions (default: 1000)")
    parser.add_argument("--sigma", type=float, help="fh: smoothing in pixels (default: 0.8)")
    parser.add_argument("--min-size", type=int, help="fh: smaller regions are merged, pixels (default: 1000)")
    parser.add_argument("--grid", type=int, metavar="N", dest="size", help="grid: N x N rectangles (default: 2)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--workers", type=int, default=cores, help=f"processes (default: one a core, here {cores})")
    parser.add_argument("--limit", type=int, metavar="N", help="only N images, evenly spaced over the data set: a trial")
    parser.add_argument("--same-images", action="store_true", help="OUTPUT was begun under another SPEC, but with the same images")
    return parser.parse_args()


def load_records(spec: str) -> list[dict]:
    """The images of a spec, or of a name in Detectron2's catalog."""
    if is_source_spec(spec):
        return list_images(spec)
    from detcon_d2.data.datasets import load_records as load_from_catalog  # torch and Detectron2: only where a catalog is asked for

    return load_from_catalog(spec)


def run(args: argparse.Namespace) -> int:
    """Make the label maps; returns the exit status."""
    given = {name: getattr(args, name) for name in ("scale", "sigma", "min_size", "size") if getattr(args, name) is not None}
    generator = build_generator(args.generator, **given)
    check_output_outside(args.spec, args.output)
    records = load_records(args.spec)
    if args.limit:
        records = [records[index] for index in np.unique(np.linspace(0, len(records) - 1, args.limit).astype(int))]
    source = canonical_spec(args.spec)
    store = LabelMapStore.create(args.output, generator.name, generator.params(), source, same_images=args.same_images)
    summary = generate(records, generator, store, workers=args.workers)
    print("\n".join(summary.lines()), flush=True)
    print(f"""train with:  DATASETS.TRAIN '("{source}",)' DETCON.MASKS.ROOTS '("{os.path.abspath(args.output)}",)'""")
    return 1 if summary.failed else 0


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        sys.exit(run(parse_arguments()))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: what is done stays, and the same command continues", file=sys.stderr)
        sys.exit(130)
