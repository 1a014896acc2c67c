"""The built-in data set of ``make quickstart``: images of textured shapes in COCO format, generated deterministically without a download.

Training images, with labels or without, use one half of each photograph, validation images use the other half.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.quickstart.shapes_render import CATEGORIES, Scene, render_scene

SPLITS: tuple[str, ...] = ("unlabeled", "train", "val")
"""The splits, in the order in which they are generated."""

_JPEG_QUALITY = 95
# Changes when the same configuration would give other images, so that an older folder does not count as complete.
_VERSION = 4


@dataclass(frozen=True)
class ShapesConfig:
    """Everything that determines the pixels of the data set: the side of its square images, and their number in each split.

    Image i of a split depends on (seed, split, i) only. The agreement is the probability that an object has the material of its category;
    otherwise its material is uniform over all. 0 is the hard data set, in which the material is independent of the category.
    """

    seed: int = 0
    size: int = 128
    agreement: float = 0.8
    num_unlabeled: int = 3000
    num_train: int = 100
    num_val: int = 300

    def __post_init__(self) -> None:
        if not 0 <= self.agreement <= 1:
            raise ValueError(f"agreement is {self.agreement}; expected a probability between 0 and 1.")

    def num_images(self, split: str) -> int:
        """Number of images of a split of ``SPLITS``."""
        return getattr(self, f"num_{split}")


class ShapesSplit(NamedTuple):
    """Paths of a split: its folder of images, and its COCO json with file names relative to that folder."""

    images: Path
    annotations: Path


def split_paths(root: str | Path, split: str) -> ShapesSplit:
    """Paths of a split in the data set's folder; nothing is read or written.

    ``images/unlabeled`` can be used for pretraining as a plain folder. Its annotations serve only as an upper bound.
    """
    return ShapesSplit(Path(root) / "images" / split, Path(root) / "annotations" / f"instances_{split}.json")


def draw_scene(config: ShapesConfig, split: str, index: int) -> Scene:
    """Image ``index`` of a split of ``SPLITS``; the same arguments give the same bytes."""
    rng = np.random.default_rng([config.seed, SPLITS.index(split), index])
    return render_scene(config.size, "val" if split == "val" else "train", config.agreement, rng)


def generate_shapes(root: str | Path, config: ShapesConfig, workers: int = 2, progress: bool = True) -> dict[str, ShapesSplit]:
    """Write the data set, or the splits that are missing; returns the paths of each split of ``SPLITS``.

    A split is complete if its json exists, which is written last. An interrupted split is generated again, a complete one is kept. One
    worker works in this process, several are processes.

    Raises ValueError if ``root`` holds a split of another configuration.
    """
    paths = {split: split_paths(root, split) for split in SPLITS}
    missing = [split for split in SPLITS if not _is_complete(paths[split], config, split)]
    if missing:
        context = ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if workers > 1 else nullcontext()
        with context as pool:
            for split in missing:
                _write_split(paths[split], config, split, pool, progress)
    return paths


def _split_info(config: ShapesConfig, split: str) -> dict:
    """Everything that determines a split; the number of images of other splits does not."""
    own = {"seed": config.seed, "size": config.size, "agreement": config.agreement, "images": config.num_images(split)}
    return {"version": _VERSION, "split": split, **own}


def _is_complete(paths: ShapesSplit, config: ShapesConfig, split: str) -> bool:
    if not paths.annotations.is_file():
        return False
    found = json.loads(paths.annotations.read_text(encoding="utf-8"))["info"].get("shapes")
    expected = _split_info(config, split)
    if found != expected:
        raise ValueError(f"{paths.annotations} was generated with {found}; expected {expected}. Name another folder, or delete this one.")
    return True


def _write_split(paths: ShapesSplit, config: ShapesConfig, split: str, pool: ProcessPoolExecutor | None, progress: bool) -> None:
    for folder in (paths.images, paths.annotations.parent):
        folder.mkdir(parents=True, exist_ok=True)
    count = config.num_images(split)
    task = partial(_write_image, config, split, paths.images)
    written = map(task, range(count)) if pool is None else pool.map(task, range(count), chunksize=16)
    bar = tqdm(written, total=count, desc=f"drawing {split}", unit="image", disable=not progress)
    write_bytes_atomically(paths.annotations, json.dumps(_to_coco(bar, config, split)).encode("utf-8"))


def _write_image(config: ShapesConfig, split: str, folder: Path, index: int) -> tuple[dict, list[dict]]:
    """Write one image; returns its COCO record and its annotations without id."""
    scene = draw_scene(config, split, index)
    name = f"{index:06d}.jpg"
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert ok, name
    write_bytes_atomically(folder / name, data.tobytes())
    record = {"id": index + 1, "file_name": name, "width": config.size, "height": config.size}
    things = zip(scene.masks, scene.categories, scene.materials)
    return record, [{"image_id": index + 1, **_annotation(mask, category, material)} for mask, category, material in things]


def _annotation(mask: np.ndarray, category: int, material: int) -> dict:
    # Run lengths, not polygons: visible parts have holes and pieces, and polygons are not exact to the pixel.
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    box, area = coco_mask.toBbox(rle).tolist(), int(coco_mask.area(rle))
    segmentation = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return {"category_id": category + 1, "segmentation": segmentation, "bbox": box, "area": area, "iscrowd": 0, "material_id": material + 1}


def _to_coco(written: Iterator[tuple[dict, list[dict]]], config: ShapesConfig, split: str) -> dict:
    written = list(written)
    return {
        "info": {"description": "Textured shapes, drawn by detcon_d2.quickstart.shapes", "shapes": _split_info(config, split)},
        "licenses": [],
        "images": [record for record, _ in written],
        "annotations": [{"id": i, **annotation} for i, annotation in enumerate(chain(*(things for _, things in written)), start=1)],
        "categories": [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CATEGORIES, start=1)],
    }
