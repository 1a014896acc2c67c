"""Data set specs: the images of a data set, their keys and their labels. No image is opened here.

folder:/path                         every image below the folder; class folders give labels
coco:/path/instances.json,/path/images
list:/path/list.txt                  one path per line, optional TAB and integer label
tar:/path/train-{0000..0146}.tar     WebDataset tars (or tar:/path/*.tar); class members (.cls) give labels
"""

import json
import logging
import os
from collections import Counter
from pathlib import Path, PurePosixPath

from detcon_d2.io.folders import IMAGE_EXTENSIONS, count_extensions, list_files
from detcon_d2.io.names import printable
from detcon_d2.io.tar import list_tar_images

_log = logging.getLogger(__name__)


def is_dataset_spec(name: str) -> bool:
    """Whether ``name`` is a spec of this module, rather than the name of a data set in Detectron2's catalog."""
    return name.split(":", 1)[0] in _LISTERS and ":" in name


def list_images(spec: str) -> list[dict]:
    """The images of a data set (see the module; ``~`` is expanded), sorted by key, as Detectron2 dataset dicts.

    Returns:
        One dict per image: ``file_name`` (absolute path; in a tar a reference, which ``read_image`` reads), ``key`` (path relative to
        the root, POSIX slashes, extension kept; in a tar WebDataset's key, without extension), ``image_id``
        (COCO's, else the key), and where known ``height``, ``width``, ``label`` (int) and ``annotations`` (COCO's, with the original
        category ids). Raises ValueError: unknown kind, missing path, nothing inside, damaged json or list.
    """
    if not is_dataset_spec(spec):
        raise ValueError(
            f"data set: found {spec!r}; expected folder:/path, coco:/path/instances.json,/path/images, list:/path/list.txt or "
            "tar:/path/train-{0000..0146}.tar"
        )
    kind, rest = spec.split(":", 1)
    if not rest.strip():
        raise ValueError(f"data set: found {spec!r} without a path; expected {kind}:/path")
    return sorted(_LISTERS[kind](rest), key=lambda record: record["key"])


def canonical_spec(spec: str) -> str:
    """The same spec with absolute paths; the name of a data set in a catalog is returned unchanged."""
    if not is_dataset_spec(spec):
        return spec
    kind, rest = spec.split(":", 1)
    parts = rest.split(",") if kind == "coco" else [rest]
    return f"{kind}:{','.join(str(_absolute(part)) for part in parts)}"


def check_output_outside(spec: str, output: str | os.PathLike) -> None:
    """Raise ValueError if files written to ``output`` would later be listed as images of a ``folder:`` spec."""
    kind, _, rest = spec.partition(":")
    if kind == "folder" and _absolute(output).is_relative_to(_absolute(rest)):
        raise ValueError(
            f"output folder: found {output} inside the images of {spec}; expected one outside, or its label maps would count as images: "
            f"for example {_absolute(rest)}_masks"
        )


def _absolute(path: str | os.PathLike) -> Path:
    # Not resolve(), which would replace a link to a data set by its target.
    return Path(os.path.abspath(os.path.expanduser(path)))


def _record(path: Path, key: str) -> dict:
    return {"file_name": str(path), "image_id": key, "key": key}


def _list_folder(rest: str) -> list[dict]:
    root = _absolute(rest)
    if not root.is_dir():
        raise ValueError(f"folder:{rest}: found {'a file' if root.exists() else 'nothing'} at {root}; expected a folder of images")
    files = list(list_files(root))
    paths = [path for path in files if path.suffix.lower() in IMAGE_EXTENSIONS]
    others = count_extensions(path for path in files if path.suffix.lower() not in IMAGE_EXTENSIONS)
    if not paths:
        found = printable(others) or "no files"
        raise ValueError(f"folder:{rest}: found {found}; expected images ({' '.join(sorted(IMAGE_EXTENSIONS))}) in it or below it")
    if others:
        text = "%s: left out: %s. To take images of these kinds along, convert them to PNG or JPEG; read are %s."
        _log.info(text, printable(f"folder:{rest}"), printable(others), " ".join(sorted(IMAGE_EXTENSIONS)))
    records = [_record(path, path.relative_to(root).as_posix()) for path in paths]
    # If all images are in folders, the first folder is the class; labels are the ranks of the sorted names.
    classes = [record["key"].partition("/")[0] for record in records if "/" in record["key"]]
    if len(classes) == len(records):
        labels = {name: label for label, name in enumerate(sorted(set(classes)))}
        records = [record | {"label": labels[name]} for record, name in zip(records, classes)]
    return records


def _list_coco(rest: str) -> list[dict]:
    parts = rest.split(",")
    if len(parts) != 2 or not all(part.strip() for part in parts):
        raise ValueError(f"coco:{rest}: found {len(parts)} path(s); expected two: coco:/path/instances.json,/path/images")
    json_path, root = map(_absolute, parts)
    if not root.is_dir():
        raise ValueError(f"coco:{rest}: found no folder {root}; expected the folder of the images")
    content = _load_coco(json_path)
    records = {image["id"]: _coco_record(image, root, json_path) for image in content["images"]}
    keys = Counter(record["key"] for record in records.values())
    if not records or len(keys) != len(content["images"]):
        doubled = [key for key, count in keys.items() if count > 1]
        raise ValueError(
            f"{json_path}: found {len(content['images'])} images with {len(records)} ids and {len(keys)} file names"
            f"{f' (doubled: {doubled[0]})' if doubled else ''}; expected at least one, each id and file name once"
        )
    # Annotations of images that are not listed are ignored, as in pycocotools: subsets are often made by shortening "images" only.
    for annotation in content.get("annotations", []):
        if annotation.get("image_id") in records:
            records[annotation["image_id"]]["annotations"].append(annotation)
    return list(records.values())


def _load_coco(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        found = error.strerror if isinstance(error, OSError) else f"not a json file ({error})"
        raise ValueError(f"{path}: {found}; expected a COCO instances json") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f'{path}: found no list "images"; expected a COCO instances json')
    return content


def _coco_record(image: dict, root: Path, json_path: Path) -> dict:
    missing = {"id", "file_name"} - image.keys()
    if missing:
        raise ValueError(f"{json_path}: an image without {' and '.join(sorted(missing))}: {str(image)[:200]}")
    key = PurePosixPath(image["file_name"]).as_posix()
    record = _record(root / key, key) | {"image_id": image["id"], "annotations": []}
    return record | {side: int(image[side]) for side in ("height", "width") if side in image}


def _list_lines(rest: str) -> list[dict]:
    path = _absolute(rest)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"list:{rest}: cannot read {path}: {error}; expected a UTF-8 text file with one image path per line") from error
    used = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    records = [_line_record(line, path, number) for number, line in used]
    if not records:
        raise ValueError(f"list:{rest}: found no image path in {len(lines)} line(s); expected at least one")
    labelled = sum("label" in record for record in records)
    if labelled not in (0, len(records)):
        raise ValueError(f"list:{rest}: found labels on {labelled} of {len(records)} lines; expected all or none")
    return records


def _line_record(line: str, list_path: Path, number: int) -> dict:
    """The record of a line. The key of an image outside the list's folder is its absolute path without the leading slash, which stays the
    same when lines are added or removed; a path relative to the common folder of all images would not."""
    name, *label = line.strip().split("\t")
    path = _absolute(list_path.parent / os.path.expanduser(name.strip()))
    inside = path.is_relative_to(list_path.parent)
    key = path.relative_to(list_path.parent if inside else path.anchor).as_posix()
    record = _record(path, key)
    if not label:
        return record
    try:
        return record | {"label": int(*label)}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{list_path}, line {number}: found {line!r}; expected a path, optionally a TAB and one integer label") from error


_LISTERS = {
    "folder": _list_folder,
    "coco": _list_coco,
    "list": _list_lines,
    "tar": lambda rest: list_tar_images(str(_absolute(rest)), IMAGE_EXTENSIONS),
}
