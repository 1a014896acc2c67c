"""Masks that another tool or people made (SAM, a panoptic segmenter): COCO RLE in json, or one PNG per image."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from detcon_d2.io.annotated.text import read_json
from detcon_d2.io.labels import read_labels
from detcon_d2.masks.cells import NO_REGION
from detcon_d2.masks.generators.annotations import annotation_label_map
from detcon_d2.masks.generators.base import RegionGenerator, parameter, to_label_map


@dataclass(frozen=True, kw_only=True)
class ImportedRegions(RegionGenerator):
    """Regions from the files of another tool.

    - ``coco``: one json for all images. A list of results ``{"image_id", "segmentation"}``, where the id is COCO's, the image's key, or the
      number that is its file name; or ``{"images", "annotations"}``, where ``file_name`` is the key (path below the data set's root).
    - ``sam``: a folder with a json for each image at ``<key without extension>.json``: ``{"annotations": [{"segmentation"}]}`` as in SA-1B,
      or the list itself, as Segment Anything's mask generator writes it.
    - ``png``: a folder with ``<key without extension>.png`` or ``<key>.png``: 8 or 16 bits of label, a palette, or ids as
      R + 256 G + 65536 B (COCO's panoptic PNGs), which are numbered again in their order. Label 0 is the background, 65535 no region.
    - ``auto``: coco for a file; for a folder sam or png, whichever has a file for the image.

    Segmentations are RLE, compressed or not, or polygons; where they overlap the smaller is on top
    (:func:`detcon_d2.masks.generators.annotations.annotation_label_map`). When called, it raises ValueError if there are no masks for the
    image, a file is damaged, or the masks have another size.
    """

    name = "imported"
    of_whole_image = True
    masks: str = parameter(
        "", "json (COCO) or folder (SAM json or PNG per image) of masks that another tool made", metavar="PATH", required=True
    )
    mask_format: str = parameter("auto", "auto, coco, sam or png", choices=("auto", "coco", "sam", "png"))
    background: str = parameter("region", "pixels without a mask are one 'region', or 'none'", choices=("region", "none"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.masks:
            return
        object.__setattr__(self, "masks", os.path.abspath(os.path.expanduser(self.masks)))
        if not os.path.exists(self.masks):
            raise ValueError(f"imported: found nothing at {self.masks}; expected a json or a folder of masks")
        if self.mask_format != "auto" and (self.mask_format == "coco") != os.path.isfile(self.masks):
            expected, found = ("one json", "a folder") if self.mask_format == "coco" else ("a folder", "a file")
            raise ValueError(f"imported: mask_format {self.mask_format} expects {expected}, found {found}: {self.masks}")

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        if not self.masks or record is None:
            raise ValueError("imported: found no masks; expected masks=PATH, and the record of the image, which says where in them it is")
        for_all = os.path.isfile(self.masks)
        path = self.masks if for_all else _find_file(self.masks, self.mask_format, record)
        if not for_all and path.suffix == ".png":
            label_map = _read_png(path, *image.shape[:2])
        else:
            annotations = _find_annotations(self.masks, record) if for_all else _read_sam_json(path)
            try:
                label_map = to_label_map(annotation_label_map(annotations, *image.shape[:2]))
            except ValueError as error:
                raise ValueError(f"imported: masks of {record['key']} in {path}: {error}") from error
        if self.background == "none":
            label_map[label_map == 0] = NO_REGION
        return label_map


def _find_file(folder: str, mask_format: str, record: dict) -> Path:
    pure = PurePosixPath(record["key"])
    names = {"sam": [pure.with_suffix(".json")], "png": [pure.with_suffix(".png"), PurePosixPath(f"{pure}.png")]}
    names["auto"] = names["sam"] + names["png"]
    for name in names[mask_format]:
        path = Path(folder, name)
        # SAM's json may be in the folder of the images, which may be PNGs themselves.
        if path.is_file() and os.path.realpath(path) != os.path.realpath(record["file_name"]):
            return path
    raise ValueError(
        f"imported: found no masks of {record['key']} in {folder}; expected {' or '.join(map(str, names[mask_format]))} there: give the "
        "folder that has the same folders in it as the images, or make the masks of this image"
    )


def _find_annotations(path: str, record: dict) -> list[dict]:
    by_name = _load_coco_masks(path)
    pure = PurePosixPath(record["key"])
    number = [str(int(pure.stem))] if pure.stem.isdecimal() else []
    names = [record["key"], str(record.get("image_id")), str(pure.with_suffix("")), *number]
    if found := [by_name[name] for name in names if name in by_name]:
        return found[0]
    raise ValueError(
        f"imported: found no masks of {record['key']} (image_id {record.get('image_id')}) in {path}, which has {len(by_name)} images such "
        f"as {next(iter(by_name), 'none')!r}; expected the key as file_name or image_id: give the folder below which the names are the "
        "same as data set, or make the masks of this image"
    )


# Once per process, not once per image.
@functools.lru_cache(maxsize=2)
def _load_coco_masks(path: str) -> dict[str, list[dict]]:
    """file_name or image_id -> annotations, of these only the segmentation."""
    content = _read_json(path)
    try:
        if isinstance(content, list):
            by_id, annotations = {str(one["image_id"]): [] for one in content}, content
        else:
            names = {str(image["id"]): PurePosixPath(image["file_name"]).as_posix() for image in content["images"]}
            by_id = {name: [] for name in names}
            annotations = [one for one in content["annotations"] if str(one["image_id"]) in names]
        for one in annotations:
            by_id[str(one["image_id"])].append({"segmentation": one["segmentation"], "id": one.get("id", "(no id)")})
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"imported: {path} lacks {error}; expected a list of image_id and segmentation, or a json with images and annotations (for a "
            "json per image, give the folder)"
        ) from error
    return by_id if isinstance(content, list) else {names[name]: found for name, found in by_id.items()}


def _read_sam_json(path: Path) -> list[dict]:
    content = _read_json(path)
    annotations = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise ValueError(f'imported: found no list "annotations" in {path}; expected one, or a list, of masks with "segmentation"')
    return annotations


def _read_json(path: str | os.PathLike) -> object:
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f"imported: {error}; expected a json: write the masks again") from error


def _read_png(path: Path, height: int, width: int) -> np.ndarray:
    """Labels of a PNG, uint16 (height, width): see :class:`ImportedRegions`. Raises ValueError: damaged, transparent or of another size."""
    try:
        labels = read_labels(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"imported: cannot read {path}: {error}; write it again") from error
    if labels.shape[:2] != (height, width):
        found, expected = (f"{shape[1]} x {shape[0]}" for shape in (labels.shape, (height, width)))
        raise ValueError(f"imported: {path} is {found} (width x height); expected {expected}, the size of its image as displayed")
    if labels.ndim == 2:
        return labels.astype(np.uint16)
    ids = labels.astype(np.int64) @ np.array([1, 256, 65536])
    return to_label_map(np.searchsorted(np.union1d([0], ids), ids))
