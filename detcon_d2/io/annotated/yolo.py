"""YOLO: a text file of boxes or polygons an image, in a folder ``labels`` beside ``images``, with the class names in ``data.yaml``."""

from pathlib import Path

import yaml

from detcon_d2.io.annotated.dataset import LEFT_OUT, WRONG, AnnotatedData, Findings, normal_id
from detcon_d2.io.annotated.foreign import describe_file, describe_folder
from detcon_d2.io.annotated.text import excerpt, read_text
from detcon_d2.io.images import PLAIN, ImageReadError, Reading, image_size
from detcon_d2.io.specs import list_images


def read_yolo(path: Path, split: str, name: str, reading: Reading = PLAIN) -> AnnotatedData:
    """The images of one split. An image without a text file, or with an empty one, has no objects.

    A row is ``class x y w h`` (centre and size) or ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon), as fractions of the image.

    Args:
        path: ``data.yaml`` (keys ``path``, ``train``, ``val``, ``test``, ``names``), or a folder with ``images`` and ``labels``.
        split: a key of the yaml, or a folder in ``images``; "": "train" of a yaml, all images of a folder.
        name: of the data set, in messages.
        reading: how images are read.

    Raises:
        ValueError: a damaged yaml, no such split, no images, or no text file of any.
    """
    yaml_path = path if path.is_file() else next((one for one in (path / "data.yaml", path / "dataset.yaml") if one.is_file()), None)
    content = _read_yaml(yaml_path) if yaml_path else {}
    folder = _split_folder(content, path, split or "train", name) if path.is_file() else _folder_of(path, split, name)
    names = content.get("names") or []
    names = {normal_id(key): one for key, one in (names.items() if isinstance(names, dict) else enumerate(names))}
    if not all(isinstance(one, str | int | float) for one in names.values()):
        raise ValueError(f"{yaml_path}: found names {excerpt(names)}; expected a text each")
    names = {number: str(one) for number, one in names.items()}
    alone = f"{'list' if folder.is_file() else 'folder'}:{folder}"
    listed = list_images(alone)
    first = next((text for one in listed if (text := label_file(Path(one["file_name"]))).is_file()), None)
    if first is None:
        expected = label_file(Path(listed[0]["file_name"]))
        raise ValueError(
            f"{name}: found no text file of any of the {len(listed)} images; expected for example {expected}, or "
            f"{alone} for images alone{describe_folder(path if path.is_dir() else path.parent)}"
        )
    if kind := describe_file(first):
        raise ValueError(f"{name}: {first} is {kind}")
    findings, records = Findings(), []
    for number, one in enumerate(listed, 1):
        record = {"file_name": one["file_name"], "key": one["key"], "image_id": number, "annotations": []}
        records.append(record)
        try:
            record["height"], record["width"] = image_size(record["file_name"], reading=reading)
        except ImageReadError as error:
            findings.note("it cannot be read", WRONG, record, detail=error.reason, unit="image")
            continue
        record["annotations"] = _read_rows(record, findings)
    declared = bool(names)
    if not declared:
        found = {annotation["category_id"] for record in records for annotation in record["annotations"]}
        names = {number: f"class {number}" for number in sorted(found)}
    for record in records:
        for annotation in record["annotations"]:
            if annotation["category_id"] not in names:
                findings.note(
                    "its class is unknown", WRONG, record, annotation, f"class {annotation['category_id']}, but names are {excerpt(names)}"
                )
    return AnnotatedData(name, records, dict(sorted(names.items())), findings, declared=declared)


def label_file(image: Path) -> Path:
    """The text file of an image: the last folder ``images`` of its path is ``labels``; without such a folder it is beside the image."""
    parts = list(image.parts)
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _read_yaml(path: Path) -> dict:
    try:
        content = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: not a yaml file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not isinstance(content.get("names", []), list | dict):
        raise ValueError(f"{path}: found no mapping with train, val and names; expected YOLO's data.yaml")
    return content


def _split_folder(content: dict, yaml_path: Path, split: str, name: str) -> Path:
    value = content.get(split) or (content.get("valid") if split == "val" else None)
    if not isinstance(value, str):
        found = ", ".join(key for key in ("train", "val", "valid", "test") if content.get(key)) or "none"
        raise ValueError(
            f"{name}: found {split} {excerpt(value)} in {yaml_path}, which has the splits {found}; expected the path of a folder or list"
        )
    base = yaml_path.parent / str(content.get("path") or "")
    # Roboflow writes "../train/images" for a folder beside the yaml.
    candidates = [base / value, yaml_path.parent / value, yaml_path.parent / value.removeprefix("../")]
    found = next((one for one in candidates if one.exists()), None)
    if found is None:
        raise ValueError(f"{name}: found nothing at {', '.join(dict.fromkeys(map(str, candidates)))}; expected the images of {split}")
    return found / "images" if (found / "images").is_dir() else found


def _folder_of(path: Path, split: str, name: str) -> Path:
    candidates = [path / "images" / split, path / split / "images"] if split else [path / "images"]
    found = next((one for one in candidates if one.is_dir()), None)
    if found is None:
        raise ValueError(
            f"{name}: found no folder {' or '.join(map(str, candidates))}; expected images there, and the folder labels beside"
        )
    return found


def _read_rows(record: dict, findings: Findings) -> list[dict]:
    path = label_file(Path(record["file_name"]))
    if not path.is_file():
        return []
    annotations = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            annotations.append(_annotation(line, record))
        except ValueError as error:
            findings.note("its row cannot be read", LEFT_OUT, record, None, f"{path}, line {number}: {error}")
    return annotations


def _annotation(line: str, record: dict) -> dict:
    category, *values = line.split()
    values = list(map(float, values))
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(f"found {excerpt(line)}; expected class x y w h, or class and the x y of at least three points")
    number = normal_id(category if category.isdecimal() else float(category))
    scaled = [value * (record["width"], record["height"])[index % 2] for index, value in enumerate(values)]
    annotation = {"image_id": record["image_id"], "category_id": number, "iscrowd": 0}
    if len(scaled) == 4:
        x, y, width, height = scaled
        return annotation | {"bbox": [x - width / 2, y - height / 2, width, height], "area": width * height}
    return annotation | {"segmentation": [scaled]}
