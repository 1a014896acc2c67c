"""The specs of annotated data sets.

coco:/path/instances.json,/path/images     COCO's or LVIS's json
voc:/path/VOC2012[,split]                  Annotations/*.xml, JPEGImages, ImageSets/Main/<split>.txt
yolo:/path/data.yaml[,split]               or a folder with images and labels
cityscapes:/path[,split]                   leftImg8bit and gtFine
masks:/path/images,/path/masks             one PNG of labels an image
"""

import os
from pathlib import Path

KINDS = {
    "coco": "coco:/path/instances.json,/path/images",
    "voc": "voc:/path/VOC2012,train",
    "yolo": "yolo:/path/data.yaml,train",
    "cityscapes": "cityscapes:/path,train",
    "masks": "masks:/path/images,/path/masks",
}
"""The part before the colon -> an example."""
FORMS = ", ".join(KINDS.values())
"""The specs, for messages."""

_PAIRS = ("coco", "masks")


def is_annotated_spec(name: str) -> bool:
    """Whether :func:`detcon_d2.io.annotated.read.read_annotated` reads it."""
    return ":" in name and name.split(":", 1)[0] in KINDS


def absolute(path: str | os.PathLike) -> Path:
    """The absolute path with ``~`` expanded. Links stay: ``resolve`` would replace a link to a data set by its target."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def canonical_annotated_spec(spec: str) -> str:
    """The same spec with absolute paths; raises ValueError as :func:`split_spec`."""
    kind, _, rest = spec.partition(":")
    first, second = split_spec(kind, rest)
    return f"{kind}:{first}{f',{second}' if second else ''}"


def split_spec(kind: str, rest: str) -> tuple[Path, Path | str]:
    """The two parts of a spec: two paths, or a path and the name of a split ("" if there is none).

    Paths may contain commas: the comma that separates is the one with existing paths on both sides.

    Raises:
        ValueError: no comma between two paths, or several that could separate them.
    """
    cuts = [index for index, letter in enumerate(rest) if letter == ","]
    pairs = [(rest[:cut].strip(), rest[cut + 1 :].strip()) for cut in cuts]
    if kind not in _PAIRS:
        if not cuts or absolute(rest).exists():
            return absolute(rest), ""
        return absolute(pairs[-1][0]), pairs[-1][1]
    pairs = [pair for pair in pairs if all(pair)]
    good = [pair for pair in pairs if all(absolute(part).exists() for part in pair)]
    if len(good) != 1 and len(pairs) != 1:
        raise ValueError(f"{kind}:{rest}: found {len(good)} ways to split it into two paths that exist; expected two: {KINDS[kind]}")
    first, second = (good or pairs)[0]
    return absolute(first), absolute(second)


def absent_paths(kind: str, first: Path, second: Path | str) -> str:
    """What a spec names and is not there, for a message; "" if all is there."""
    absent = [] if first.exists() else [f"no {'file' if kind == 'coco' else 'folder'} {first}"]
    absent += [f"no folder {second}"] if kind in _PAIRS and not Path(second).is_dir() else []
    return " and ".join(absent)
