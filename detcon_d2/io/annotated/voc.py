"""Pascal VOC: an xml an image, in ``Annotations``, with the images in ``JPEGImages``."""

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from detcon_d2.io.annotated.coco import FILE_MISSING
from detcon_d2.io.annotated.dataset import REPAIRED, WRONG, AnnotatedData, Findings, unique_ids, whole_size
from detcon_d2.io.annotated.foreign import describe_folder
from detcon_d2.io.annotated.names import ImageFiles
from detcon_d2.io.annotated.text import excerpt, read_text

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(root: Path, split: str, name: str) -> AnnotatedData:
    """The images of a folder with an xml each.

    Pixels are counted from 1 and both corners belong to the box, as in VOC: ``xmin`` 1 and ``xmax`` W is the whole width. Objects that are
    "difficult" count as crowds, which are neither trained on nor counted as errors. The classes are all names in the folder, in
    alphabetical order, so they are the same for each split.

    Args:
        root: with ``Annotations`` and ``JPEGImages``, or with both kinds of files in it.
        split: a list in ``ImageSets/Main``; "": all images.
        name: of the data set, in messages.

    Raises:
        ValueError: no xml files, a damaged one, or no such list.
    """
    folder = next((root / sub for sub in ("Annotations", "annotations") if (root / sub).is_dir()), root)
    paths = sorted(folder.rglob("*.xml"))
    if not paths:
        instances = root / "SegmentationObject"
        advice = f" (for its masks give masks:{root}/JPEGImages,{instances})" if instances.is_dir() else describe_folder(root)
        raise ValueError(f"{name}: found no xml file in {folder}; expected {root}/Annotations/*.xml and {root}/JPEGImages{advice}")
    images = next((root / sub for sub in ("JPEGImages", "images") if (root / sub).is_dir()), root)
    trees = {path.stem: _parse(path) for path in paths}
    names = sorted({_text(thing, "name") for tree in trees.values() for thing in tree.iter("object")} - {""})
    numbers = {one: number for number, one in enumerate(names, 1)}
    chosen = _read_split(root, split, trees, name)
    findings, files = Findings(), ImageFiles(images)
    records = []
    for stem, image_id in zip(chosen, unique_ids(chosen)):
        # Files are often renamed together with their xml; the name in it stays.
        listed = _text(trees[stem], "filename")
        wanted = f"{stem}{Path(listed).suffix or '.jpg'}"
        path = next((found for one in (wanted, f"{stem}.jpg", f"{stem}.png", listed) if one and (found := files.find(one))), None)
        record = {"file_name": str(path or files.literal(wanted)), "key": files.key(path) if path else wanted, "image_id": image_id}
        if path is None:
            findings.note(FILE_MISSING, WRONG, record, detail=files.describe(wanted), unit="image")
        for side in ("height", "width"):
            if size := whole_size(_text(trees[stem], f"size/{side}")):
                record[side] = size
        record["annotations"] = [_annotation(thing, record, numbers, findings) for thing in trees[stem].iter("object")]
        records.append(record)
    repeated = [key for key, count in Counter(record["key"] for record in records).items() if count > 1]
    if repeated:
        raise ValueError(f"{name}: found {repeated[0]} as the image of several xml files; expected an image with the name of each")
    return AnnotatedData(name, records, {number: one for one, number in numbers.items()}, findings, declared=False)


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(path.read_bytes())
    except (ElementTree.ParseError, OSError, LookupError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: not an xml file ({error})") from error


def _read_split(root: Path, split: str, trees: dict, name: str) -> list[str]:
    if not split:
        return list(trees)
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in path.parent.glob("*.txt"))[:10]) or "none"
        raise ValueError(f"{name}: found no list {path}; expected one of the lists there ({known}), or no split")
    chosen = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    missing = [stem for stem in chosen if stem not in trees]
    if missing or not chosen:
        raise ValueError(
            f"{name}: {path} lists {len(chosen)} images, {len(missing)} without an xml ({excerpt(missing[:1])}); expected one for each"
        )
    return sorted(set(chosen))


def _annotation(thing: ElementTree.Element, record: dict, numbers: dict[str, int], findings: Findings) -> dict:
    annotation = {"image_id": record["image_id"], "category_id": numbers.get(_text(thing, "name")), "iscrowd": 0}
    if annotation["category_id"] is None:
        findings.note("it has no class", WRONG, record, annotation, "an object without name")
    corners = [_text(thing, f"bndbox/{corner}") for corner in _CORNERS]
    try:
        x0, y0, x1, y1 = map(float, corners)
        x0, y0 = max(x0 - 1, 0.0), max(y0 - 1, 0.0)
        annotation |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
    except ValueError:
        annotation["bbox"] = corners
    if _text(thing, "difficult") == "1":
        annotation["iscrowd"] = 1
        findings.note("it is difficult: it counts as a crowd", REPAIRED, record, annotation)
    return annotation


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
