"""Annotations of a data set checked one by one: what is missing is filled in, what cannot be used is left out, and all of it is counted."""

import math
import os
from collections import Counter
from collections.abc import Iterable

import numpy as np
from pycocotools import mask as coco_mask

from detcon_d2.io.annotated.coco import FILE_MISSING
from detcon_d2.io.annotated.dataset import DOUBTFUL, LEFT_OUT, REPAIRED, WRONG, AnnotatedData, Findings
from detcon_d2.io.annotated.text import excerpt
from detcon_d2.io.images import PLAIN, ImageReadError, Reading, image_header, image_size
from detcon_d2.io.segmentations import encode_segmentation, extent, read_segmentation

SAMPLE = 1000
"""Images whose size in the file is compared with that in the annotations."""
NO_MASK = "it has no mask"
OTHER_SIZE = "its size is not that of its annotations"
UNREADABLE = "it cannot be read"
TURNED = "its EXIF orientation turns it, but not its annotations"
# Boxes reach a pixel out of the image where pixels are counted from 1, or coordinates are rounded.
_MARGIN = 1.5
_SAME_OBJECT = 0.5


def check_annotations(data: AnnotatedData, *, masks: bool, boxes: bool = True, files: bool = True, reading: Reading = PLAIN) -> None:
    """Check and repair all annotations in place; what is odd is added to ``data.findings``.

    Afterwards each annotation has a finite ``bbox`` of x, y, width, height inside or near the image, ``iscrowd`` 0 or 1, ``area``, and if
    it has a ``segmentation``, one as of :func:`detcon_d2.io.segmentations.read_segmentation`.

    Args:
        data: of a reader.
        masks: whether an annotation without a usable mask cannot be used.
        boxes: whether the box of an annotation matters that has a mask. If not, the place of the mask is looked at alone.
        files: compare the sizes of an even sample of the files with the annotations'.
        reading: how images are read.
    """
    for record in data.records:
        _fill_size(record, data.findings, reading)
        if "height" in record and "width" in record:
            checked = [_check(annotation, record, masks, boxes, data.findings) for annotation in record["annotations"]]
            record["annotations"] = [annotation for annotation in checked if annotation is not None]
    if files:
        _compare_sizes(data, reading)
    names = Counter(data.class_names())
    for name in [name for name, count in names.items() if count > 1]:
        data.findings.note("several have one name", WRONG, detail=f"{names[name]} are called {name!r}", unit="category")


def refusals(
    data: AnnotatedData,
    max_left_out: float,
    *,
    no_masks: str,
    skip_images: bool = False,
    categories: bool = True,
    key: str = "DETCON.DATA.MAX_LEFT_OUT",
) -> list[str]:
    """Why a checked data set must not be used, a line each; none if it can be.

    Args:
        data: of :func:`check_annotations`.
        max_left_out: share of the annotations that may be left out or look wrong.
        no_masks: what to do if more annotations than that have no mask.
        skip_images: images that are absent or unreadable are skipped later, unless all are absent.
        categories: whether the classes matter.
        key: where ``max_left_out`` is set.
    """
    lines = []
    for finding in data.findings:
        absent = finding.kind == FILE_MISSING and finding.count < len(data.records)
        skipped = skip_images and (absent or finding.kind == UNREADABLE)
        if finding.effect == WRONG and not skipped and (categories or finding.unit == "image"):
            lines.append(f"{data.name}: {finding.line()}")
    odd = data.findings.count(LEFT_OUT, DOUBTFUL)
    total = len(data.annotations()) + data.findings.count(LEFT_OUT)
    bare = sum(finding.count for finding in data.findings if finding.kind == NO_MASK)
    if bare > max_left_out * total:
        lines.append(f"{data.name}: {bare} of {total} annotations have no mask; {no_masks}")
    elif odd > max_left_out * total:
        details = "; ".join(finding.line() for finding in data.findings if finding.effect in (LEFT_OUT, DOUBTFUL))
        lines.append(
            f"{data.name}: {odd} of {total} annotations cannot be used or look wrong, more than the share {max_left_out:g}: {details}. "
            f"Correct them, or raise {key} if they are as you mean them"
        )
    return lines


def only_crowds(data: AnnotatedData) -> str:
    """Why a checked data set has nothing for a detector, if all its annotations are crowds; else ""."""
    annotations = data.annotations()
    if not annotations or not all(one.get("iscrowd") for one in annotations):
        return ""
    found = f"{data.name}: all {len(annotations)} annotations are crowds (iscrowd 1)"
    return f"{found}, on which detectors do not train; set iscrowd 0 for objects"


def no_annotations(data: AnnotatedData) -> str:
    """That a checked data set has no annotations, and whether even their list is absent; "" if it has some."""
    if data.annotations():
        return ""
    return f"{data.name}: found no annotations" + ("" if data.has_annotations else ', as there is no list "annotations"')


def class_difference(data: AnnotatedData, reference: list[str], title: str) -> str:
    """Why the classes of a data set cannot be matched by name with those of ``title``; "" if they can, in whatever order.

    A format without a list of classes has those that occur, which may be some of the reference's.
    """
    names = data.class_names()
    if sorted(names) == sorted(reference) or (not data.declared and set(names) < set(reference)):
        return ""
    return (
        f"the classes of {data.name} are not those of {title}: found {_list(names)}; expected {_list(reference)}; only in the first: "
        f"{_list(set(names) - set(reference))}; only in the second: {_list(set(reference) - set(names))}. Use the same names"
    )


def _list(names: Iterable[str]) -> str:
    shown = list(names)
    return f"{len(shown)} ({', '.join(shown[:20])}{', ...' if len(shown) > 20 else ''})" if shown else "none"


def _fill_size(record: dict, findings: Findings, reading: Reading) -> None:
    if "height" in record and "width" in record:
        return
    try:
        record["height"], record["width"] = image_size(record["file_name"], reading=reading)
    except ImageReadError as error:
        if os.path.isfile(record["file_name"]):  # that a file is absent has been noted
            findings.note(UNREADABLE, WRONG, record, detail=error.reason, unit="image")
        return
    findings.note("the annotations give no size: it is that of the file", REPAIRED, record, unit="image")


def _compare_sizes(data: AnnotatedData, reading: Reading) -> None:
    """Of an even sample of the files. It also shows where annotations are for pixels that the reader turns, which no size tells."""
    turned, as_stored = [], ""
    there = [record for record in data.records if "height" in record and os.path.isfile(record["file_name"])]
    for index in np.unique(np.linspace(0, len(there) - 1, SAMPLE).astype(int)) if there else ():
        record = there[index]
        expected = record["height"], record["width"]
        try:
            found, stored, orientation = image_header(record["file_name"], expected, reading)
        except ImageReadError as error:
            data.findings.note(UNREADABLE, WRONG, record, detail=error.reason, unit="image")
            continue
        if 2 <= orientation <= 4 and record["annotations"]:
            turned.append(record)
        elif orientation >= 5 and found == stored != stored[::-1]:
            as_stored = record["file_name"]
        if found != expected:
            text = (
                f"the file is {found[1]} x {found[0]} (width x height, as displayed), the annotations are for {expected[1]} x {expected[0]}"
            )
            data.findings.note(OTHER_SIZE, WRONG, record, detail=text, unit="image")
    for record in turned if as_stored else ():
        text = f"those of {as_stored} are for its pixels as they are stored; remove the EXIF orientation from the files of this data set"
        data.findings.note(TURNED, WRONG, record, detail=text, unit="image")


def _check(annotation: dict, record: dict, masks: bool, boxes: bool, findings: Findings) -> dict | None:
    """The annotation with all that is needed; None if it cannot be used."""
    height, width = record["height"], record["width"]
    mask = None
    source = annotation.pop("segmentation", None)
    if source not in (None, "", [], {}, [[]]):
        try:
            mask = read_segmentation(source, height, width)
            if not mask:
                raise ValueError(f"found {excerpt(source)}; expected a polygon of at least three points, in the image")
            annotation["segmentation"] = mask
        except ValueError as error:
            findings.note("its mask cannot be read", LEFT_OUT if masks else REPAIRED, record, annotation, str(error))
            if masks:
                return None
    if mask and not boxes:
        around = extent(mask)
        if around and (odd := _odd_place(around, record)):
            _note_doubt(f"its mask {odd}", around, record, annotation, findings)
        return annotation
    box = _check_box(annotation, mask, record, findings)
    if box is None:
        return None
    if masks and not mask:
        findings.note(NO_MASK, LEFT_OUT, record, annotation)
        return None
    annotation["bbox"] = box
    _check_crowd(annotation, record, findings)
    area = annotation.get("area")
    if isinstance(area, bool) or not isinstance(area, int | float) or not math.isfinite(area):
        findings.note("its area is absent: it is that of its mask, or else of its box", REPAIRED, record, annotation)
        annotation["area"] = float(coco_mask.area(encode_segmentation(mask, height, width))) if mask else float(box[2] * box[3])
    if not annotation["iscrowd"]:
        _doubt(annotation, box, mask, record, findings)
    return annotation


def _check_box(annotation: dict, mask: list | dict | None, record: dict, findings: Findings) -> list[float] | None:
    """Four finite numbers, or None: the annotation cannot be used."""
    source = annotation.get("bbox")
    if source in (None, "", []):
        if mask and (box := extent(mask)):
            findings.note("its box is absent: it is that of its mask", REPAIRED, record, annotation)
            return box
        findings.note("it has neither a box nor a mask", LEFT_OUT, record, annotation)
        return None
    box = source
    try:
        if any(isinstance(value, str) for value in source):
            box = [float(value) for value in source]
            findings.note("its box is text", REPAIRED, record, annotation, excerpt(source))
        if len(box) != 4 or isinstance(box, str | dict):
            raise TypeError
        finite = math.isfinite(sum(box))
    except (TypeError, ValueError, OverflowError):
        findings.note("its box is not four numbers", LEFT_OUT, record, annotation, excerpt(source))
        return None
    x, y, width, height = box
    if not finite:
        kind = "its box is not finite"
    elif width < 0 or height < 0:
        kind = "its box has a negative width or height"
    elif x >= record["width"] or y >= record["height"] or x + width < 0 or y + height < 0:
        kind = "its box is outside the image"
    else:
        return list(box)
    findings.note(kind, LEFT_OUT, record, annotation, f"found {excerpt(source)}; expected x, y, width, height in pixels")
    return None


def _check_crowd(annotation: dict, record: dict, findings: Findings) -> None:
    crowd = annotation.get("iscrowd")
    if crowd not in (0, 1) or isinstance(crowd, bool | float):
        number = str(crowd).strip().lower() in ("1", "1.0", "true")
        text = f"found {excerpt(crowd)}" if "iscrowd" in annotation else ""
        findings.note(f"its iscrowd is absent or no number: it is {int(number)}", REPAIRED, record, annotation, text)
        annotation["iscrowd"] = int(number)
    if annotation.pop("ignore", 0) and not annotation["iscrowd"]:
        findings.note("it is to be ignored: it counts as a crowd", REPAIRED, record, annotation)
        annotation["iscrowd"] = 1


def _doubt(annotation: dict, box: list[float], mask: list | dict | None, record: dict, findings: Findings) -> None:
    """Count a box that is hardly meant as it is."""
    around = extent(mask) if mask else None
    if odd := _odd_place(box, record):
        kind = f"its box {odd}"
    elif around and _overlap(box, around) < _SAME_OBJECT:
        kind = "its box is not that of its mask"
    else:
        return
    _note_doubt(kind, annotation["bbox"], record, annotation, findings, around)


def _odd_place(box: list[float], record: dict) -> str:
    """What is odd about a box of an object or around its mask, in words that follow it; "" if nothing is."""
    x, y, width, height = box
    if width < 1 or height < 1:
        return "is narrower than a pixel"
    out = min(x, y) < -_MARGIN or x + width > record["width"] + _MARGIN or y + height > record["height"] + _MARGIN
    return "reaches out of the image" if out else ""


def _note_doubt(kind: str, box: list[float], record: dict, annotation: dict, findings: Findings, around: list[float] | None = None) -> None:
    found = f"{excerpt(_rounded(box))} in an image of {record['width']} x {record['height']}"
    if around:
        found += f", around the mask it is {excerpt(_rounded(around))}"
    findings.note(kind, DOUBTFUL, record, annotation, f"found {found}; expected x, y, width, height in pixels")


def _rounded(box: list[float]) -> list[float]:
    return [round(value, 1) for value in box]


def _overlap(one: list[float], other: list[float]) -> float:
    """Intersection over union of two (x, y, width, height) boxes; 1 if both are empty."""
    inside = math.prod(max(min(one[i] + one[i + 2], other[i] + other[i + 2]) - max(one[i], other[i]), 0) for i in (0, 1))
    union = one[2] * one[3] + other[2] * other[3] - inside
    return inside / union if union > 0 else 1.0
