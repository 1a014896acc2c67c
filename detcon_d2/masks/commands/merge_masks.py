"""Check that every image has a good label map, merge what several machines made, and change the format."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from detcon_d2.io.images import Reading
from detcon_d2.io.tiles import tile_records
from detcon_d2.masks.commands.arguments import add_reading_arguments, format_argument, load_records, make_parser, reading_from, run_command
from detcon_d2.masks.store.formats import open_store
from detcon_d2.masks.store.merge import check, merge, take_over
from detcon_d2.masks.store.png_folder import LabelMapStore, read_failed
from detcon_d2.masks.store.tar_folder import IMAGES_PER_FILE

_EXAMPLES = """
examples
  after generate_masks.py --shard 0/16 ... 15/16 in one folder:
    %(prog)s /data/masks
  the same, when each machine had a folder of its own:
    %(prog)s /data/masks /mnt/a/masks /mnt/b/masks --format tar
  a folder of PNGs, or of the shards of earlier versions, as tars; label maps <key>.seg.png in tars as PNGs:
    %(prog)s /data/masks_tar /data/masks --format tar
    %(prog)s /data/masks 'tar:/data/train-{0000..0146}.tar'
  check only, with the sizes of the images; remove damaged label maps:
    %(prog)s /data/masks --verify --sizes
    %(prog)s /data/masks --repair

exit status: 0 complete; 1 something is missing, damaged or failed, with the command to run; 2 nothing done, the message says why
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = make_parser(__doc__, _EXAMPLES)
    parser.add_argument("output", metavar="OUTPUT", help="folder of label maps")
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help="folders, or tar:..., whose label maps are copied to OUTPUT")
    parser.add_argument(
        "--images", metavar="SPEC", help="all images (default: those that OUTPUT was made for); none: those with label maps"
    )
    parser.add_argument("--format", default="png", type=format_argument, metavar="{png,tar}", help="of a new OUTPUT (default: png)")
    parser.add_argument("--images-per-file", type=int, default=IMAGES_PER_FILE, metavar="N", help="of a new OUTPUT of tars")
    parser.add_argument("--same-images", action="store_true", help="the inputs were made under other SPECs, but with the same images")
    parser.add_argument("--sizes", action="store_true", help="compare the sizes with those of the images")
    add_reading_arguments(parser)
    parser.add_argument("--verify", action="store_true", help="change nothing")
    parser.add_argument("--repair", action="store_true", help="remove damaged label maps")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    options = {"same_images": args.same_images, "images_per_file": args.images_per_file}
    store = take_over(args.output, args.inputs, args.format, **options) if args.inputs else open_store(args.output)
    reading = replace(reading_from(args), tiles=store.index.get("tiles", 0))
    records = _load_records(args.images or store.index["source"], store, reading)
    result = (check if args.verify or args.repair else merge)(store, records, sizes=args.sizes, progress=True, reading=reading)
    if args.repair:
        store.discard(set(result.damaged))
        result.repaired = True
    print("\n".join(result.lines(store)))
    return 0 if result.is_complete and not result.failed else 1


def _load_records(spec: str, store: LabelMapStore, reading: Reading) -> list[dict]:
    if spec == "none":
        return [{"key": key, "file_name": key} for key in sorted(store.keys() | read_failed(store.root).keys())]
    return tile_records(load_records(spec), reading, progress=True)
