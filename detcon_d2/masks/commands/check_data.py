"""Look at data sets before you train: what is in them, what is missing or wrong, and pictures of it."""

import argparse
import contextlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from tabulate import tabulate

from detcon_d2.io.annotated.checks import check_annotations, class_difference, no_annotations, only_crowds, refusals
from detcon_d2.io.annotated.dataset import AnnotatedData
from detcon_d2.io.annotated.kinds import is_annotated_spec
from detcon_d2.io.annotated.read import read_annotated
from detcon_d2.io.images import ImageReadError, Reading, image_size
from detcon_d2.io.segmentations import read_segmentation
from detcon_d2.io.specs import list_images
from detcon_d2.io.tiles import cut, image_sizes, read_record
from detcon_d2.masks.commands.arguments import add_reading_arguments, add_tiles_argument, make_parser, reading_from, run_command
from detcon_d2.masks.overlay import draw_sheet, fit, picture_format, write_sheet

_EPILOG = """
examples
  a training and a test set for Mask R-CNN, with pictures of what is odd:
    %(prog)s coco:/data/train.json,/data/images coco:/data/val.json,/data/images --output odd.png
  data sets for a detector of boxes:
    %(prog)s voc:/data/VOC2012,train voc:/data/VOC2012,val --boxes

tools/train_net.py looks at its data sets in the same way before the first iteration.
exit status: 0 all can be used; 1 something must be corrected; 2 a data set cannot be read, the message says why
"""
_COLUMNS, _SIDE = 3, 300
_RED = (230, 30, 30)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = make_parser(__doc__, _EPILOG)
    parser.add_argument("specs", metavar="SPEC", nargs="+", help="data sets, as for generate_masks.py; the classes must be the first one's")
    parser.add_argument("--boxes", action="store_true", help="for detectors of boxes: masks are not needed")
    parser.add_argument(
        "--max-left-out", type=float, default=0.1, metavar="SHARE", help="of annotations that may be odd (default: %(default)s)"
    )
    add_reading_arguments(parser)
    add_tiles_argument(parser)
    parser.add_argument("--output", metavar="FILE", help="picture of what is odd to write: .png or .jpg")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    if args.output:
        picture_format(args.output)  # before the work
    wrong, rows, first, reading = [], [], None, reading_from(args)
    for spec in args.specs:
        if not is_annotated_spec(spec):
            records = list_images(spec)
            line, unread = _tiles(records, reading)
            print(f"{spec}: {len(records)} images{_clips(records)}, which are not annotated\n{line}")
            wrong += unread
            continue
        data = read_annotated(spec, reading)
        check_annotations(data, masks=not args.boxes, reading=reading)
        line, unread = _tiles(data.records, reading)
        print(f"{_table(data)}\n{line}")
        wrong += unread
        if empty := no_annotations(data):
            print(f"{empty}; pretraining can use its images, fine-tuning and --generator annotations cannot")
        wrong += refusals(data, args.max_left_out, no_masks="give --boxes if you train a detector of boxes", key="--max-left-out")
        wrong += [crowds] if (crowds := only_crowds(data)) else []
        first = first or data
        wrong += [difference] if (difference := class_difference(data, first.class_names(), first.name)) else []
        rows += [_pictures(finding.kind, finding.pictures, reading) for finding in data.findings if finding.pictures]
    print("\n".join(f"TO CORRECT {line}" for line in wrong) or "all data sets can be used")
    if args.output and rows:
        headings = ["first", "second", "third"][: max(map(len, rows))]
        write_sheet(draw_sheet(f"What is odd in {', '.join(args.specs)}", headings, rows, _SIDE), args.output)
        print(f"pictures: {args.output}")
    return 1 if wrong else 0


def _table(data: AnnotatedData) -> str:
    head, *_ = data.summary()
    rows = [(finding.effect, finding.count, finding.unit, finding.kind, finding.example) for finding in data.findings]
    return head + (
        "\n" + tabulate(rows, ["", "count", "of", "what", "first"], "github", maxcolwidths=[None, None, None, 40, 80]) if rows else ""
    )


def _clips(records: list[dict]) -> str:
    """The number and the lengths of the clips that images are frames of, or nothing."""
    lengths = Counter(record["clip"] for record in records if "clip" in record).values()
    return f" in {len(lengths)} clips of {min(lengths)} to {max(lengths)} frames" if lengths else ""


def _tiles(records: list[dict], reading: Reading) -> tuple[str, list[str]]:
    """One line on the tiles that pretraining cuts larger images into, and one on images that cannot be opened; nothing without tiles."""
    if not reading.tiles:
        return "", []
    sizes = image_sizes(records, reading, progress=True)
    numbers = [len(list(cut(*size, reading.tiles))) for size in sizes if size is not None and max(size) > reading.tiles]
    whole, unread = sum(size is not None for size in sizes) - len(numbers), [record for record, size in zip(records, sizes) if size is None]
    line = f"pretraining has {whole + sum(numbers)} images: {whole} whole and {sum(numbers)} tiles of {len(numbers)} larger ones\n"
    wrong = []
    if unread:
        try:
            image_size(unread[0]["file_name"], None, reading)
        except ImageReadError as error:
            wrong = [f"{len(unread)} of {len(records)} images cannot be opened, the first: {error}"]
    return line, wrong


def _pictures(kind: str, pictures: list[tuple[dict, dict | None]], reading: Reading) -> list[tuple[np.ndarray, str]]:
    """Images with the box and mask of an annotation, and captions."""
    drawn = []
    for record, annotation in pictures[:_COLUMNS]:
        try:
            image = read_record(record, reading)
        except ImageReadError:
            image = np.full((_SIDE // 2, _SIDE, 3), 200, np.uint8)
        picture = Image.fromarray(fit(image, _SIDE))
        if annotation is not None:
            _draw(ImageDraw.Draw(picture), annotation, image.shape[:2], picture.width / image.shape[1])
        drawn.append((np.asarray(picture), f"{kind}: {record['key']}"))
    return drawn


def _draw(draw: ImageDraw.ImageDraw, annotation: dict, size: tuple[int, int], scale: float) -> None:
    """The outlines of a box, as far as it can be drawn, and of polygons."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        x, y, width, height = map(float, annotation.get("bbox"))
        far = 2 * max(size)
        x0, x1 = sorted(int(min(max(value, -far), far) * scale) for value in (x, x + width))
        y0, y1 = sorted(int(min(max(value, -far), far) * scale) for value in (y, y + height))
        draw.rectangle((x0, y0, x1, y1), outline=_RED, width=2)
    with contextlib.suppress(ValueError):
        mask = read_segmentation(annotation.get("segmentation"), *size)
        for polygon in mask if isinstance(mask, list) else ():
            draw.polygon([value * scale for value in polygon], outline=_RED)
