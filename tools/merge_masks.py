#!/usr/bin/env python
"""Check that every image has a good label map, join what several machines made, and change the format."""

import argparse
import logging
import sys

from detcon_d2.masks import is_source_spec, list_images, open_store
from detcon_d2.masks.generate import read_failed
from detcon_d2.masks.store.merge import check, merge, repair, take_over
from detcon_d2.masks.store.packed import IMAGES_PER_FILE
from detcon_d2.masks.store.storage import Store
from detcon_d2.masks.store.stores import STORES

_EXAMPLES = """
examples
  after generate_masks.py --shard 0/16 ... 15/16 in one folder:
    python tools/merge_masks.py /data/masks
  the same, when each machine had a folder of its own:
    python tools/merge_masks.py /data/masks /mnt/a/masks /mnt/b/masks --format shards
  a folder of PNGs as shards, or as tars; label maps <key>.seg.png in tars as PNGs:
    python tools/merge_masks.py /data/masks_shards /data/masks --format shards
    python tools/merge_masks.py /data/masks_tar /data/masks --format tar
    python tools/merge_masks.py /data/masks 'tar:/data/train-{0000..0146}.tar'
  check only, with the sizes of the images; remove damaged label maps:
    python tools/merge_masks.py /data/masks --verify --sizes
    python tools/merge_masks.py /data/masks --repair

exit status: 0 complete; 1 something is missing, damaged or failed, with the command to run; 2 nothing done, the message says why
"""


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUTPUT", help="folder of label maps")
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help="folders, or tar:..., whose label maps OUTPUT takes over")
    parser.add_argument(
        "--images", metavar="SPEC", help="all images (default: those that OUTPUT was made for); none: those with label maps"
    )
    parser.add_argument("--format", default="png", choices=STORES, help="of a new OUTPUT (default: png)")
    parser.add_argument("--images-per-file", type=int, default=IMAGES_PER_FILE, metavar="N", help="of a new OUTPUT of shards")
    parser.add_argument("--same-images", action="store_true", help="the inputs were made under other SPECs, but with the same images")
    parser.add_argument("--sizes", action="store_true", help="compare the sizes with those of the images")
    parser.add_argument("--verify", action="store_true", help="change nothing")
    parser.add_argument("--repair", action="store_true", help="remove damaged label maps")
    return parser.parse_args()


def load_records(spec: str, store: Store) -> list[dict]:
    """The images of a spec, of a name in Detectron2's catalog, or ("none") of the label maps themselves."""
    if spec == "none":
        return [{"key": key, "file_name": key} for key in sorted(store.keys() | read_failed(store.root).keys())]
    if is_source_spec(spec):
        return list_images(spec)
    from detcon_d2.data.datasets import load_records as load_from_catalog  # torch and Detectron2: only where a catalog is asked for

    return load_from_catalog(spec)


def run(args: argparse.Namespace) -> int:
    """Merge, check or repair; returns the exit status."""
    options = {"same_images": args.same_images, "images_per_file": args.images_per_file}
    store = take_over(args.output, args.inputs, args.format, **options) if args.inputs else open_store(args.output)
    spec = args.images or store.index["source"]
    records = load_records(spec, store)
    report = (check if args.verify or args.repair else merge)(store, records, sizes=args.sizes, progress=True)
    if args.repair:
        repair(store, report)
    print("\n".join(report.lines(store, store.index["source"])))
    return 0 if report.is_complete and not report.failed else 1


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        sys.exit(run(parse_arguments()))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
