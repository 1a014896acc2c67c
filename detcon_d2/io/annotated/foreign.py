"""Annotations in formats that no reader here reads: they are named, so that they are not taken for damaged files of another format."""

import re
from itertools import islice
from pathlib import Path

from detcon_d2.io.annotated.text import read_json, read_text

# Of DOTA: the x and y of four corners, the class, and 0, 1 or 2 for how difficult it is.
_DOTA_ROW = re.compile(r"(-?\d+(\.\d+)?\s+){8}[^\W\d_]\S*(\s+[012])?\s*")
_ADVICE = "convert it to COCO, YOLO or VOC, which tools for this format export"
# What is looked at before an error is raised, so that it comes soon.
_MOST_LINES, _MOST_FILES, _MOST_BYTES = 20, 10_000, 10_000_000


def describe_json(content: object) -> str:
    """What the content of a json is, if it is of a known kind that is no COCO instances json, with what to do; else ""."""
    if isinstance(content, list):
        results = content and all(isinstance(one, dict) and {"image_id", "category_id"} <= one.keys() for one in islice(content, 3))
        return "a list of COCO results, not a data set; give the instances json that they belong to" if results else ""
    if not isinstance(content, dict):
        return ""
    if isinstance(content.get("shapes"), list) and "imagePath" in content:
        return f"labelme's json of one image; {_ADVICE}"
    annotations = content.get("annotations")
    if isinstance(annotations, list) and any(isinstance(one, dict) and "segments_info" in one for one in annotations[:1]):
        return (
            "COCO's panoptic json, whose segments are in PNGs; convert it to instances (panopticapi has "
            "panoptic2detection_coco_format.py), or give the PNGs as masks:/path/images,/path/pngs"
        )
    return ""


def describe_file(path: Path) -> str:
    """:func:`describe_json` of a file, which may also be text of DOTA. A file that cannot be read is described by ""."""
    try:
        if path.suffix.lower() == ".json":
            return describe_json(read_json(path))
        lines = read_text(path).splitlines()[:_MOST_LINES]
    except ValueError:
        return ""
    return f"text of DOTA, with four corners of turned boxes; {_ADVICE}" if any(map(_DOTA_ROW.fullmatch, lines)) else ""


def describe_folder(root: Path) -> str:
    """The first json or text file below a folder that is of a known kind, and what it is, in brackets after a blank; else ""."""
    files = (path for path in islice(root.rglob("*"), _MOST_FILES) if path.suffix.lower() in (".json", ".txt") and path.is_file())
    small = (path for path in files if path.stat().st_size < _MOST_BYTES)
    return next((f" ({path} is {text})" for path in islice(small, _MOST_LINES) if (text := describe_file(path))), "")
