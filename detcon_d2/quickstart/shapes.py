"""The built-in data set of ``make quickstart``: images of textured shapes in COCO format, drawn deterministically, nothing downloaded.

Training images, labelled or not, are drawn from one half of each photograph, validation images from the other.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from detcon_d2.io.atomic import write_bytes_atomically as write_atomically
from detcon_d2.quickstart.shapes_render import CATEGORIES, Scene, render_scene

SPLITS: tuple[str, ...] = ("unlabeled", "train", "val")
"""The splits, in the order in which they are drawn."""

_JPEG_QUALITY = 95
# Changes when the same configuration would be drawn differently, so that an older folder is not taken for a finished one.
_VERSION = 4


@dataclass(frozen=True)
class ShapesConfig:
    """What determines every pixel of the data set.

    Attributes:
        seed: of all random choices; image i of a split depends on (seed, split, i) alone.
        size: side of the square images, pixels.
        agreement: probability that an object has the material of its category; otherwise its material is uniform over all. 0: the hard
            variant, in which the material says nothing about the category.
        unlabeled_agreement: the same for the unlabelled images; ``None``: as ``agreement``.
        num_unlabeled: images for pretraining.
        num_train: images with labels to learn from.
        num_val: images to evaluate on.
    """

    seed: int = 0
    size: int = 128
    agreement: float = 0.8
    unlabeled_agreement: float | None = None
    num_unlabeled: int = 3000
    num_train: int = 100
    num_val: int = 300

    def __post_init__(self) -> None:
        for name in ("agreement", "unlabeled_agreement"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; expected a probability between 0 and 1.")

    def num_images(self, split: str) -> int:
        """Number of images of a split of ``SPLITS``."""
        return getattr(self, f"num_{split}")

    def probability(self, split: str) -> float:
        """Probability that an object of the split has the material of its category by choice, not by chance."""
        if split == "unlabeled" and self.unlabeled_agreement is not None:
            return self.unlabeled_agreement
        return self.agreement


@dataclass(frozen=True)
class ShapesSplit:
    """Where a split lies: its folder of images and its COCO json (file names relative to that folder)."""

    images: Path
    annotations: Path


def split_paths(root: str | Path, split: str) -> ShapesSplit:
    """Paths of a split under the data set's folder; nothing is read or written.

    ``images/unlabeled`` can be pretrained on as a plain folder. Its annotations lie with the others and are for upper bounds only.
    """
    return ShapesSplit(Path(root) / "images" / split, Path(root) / "annotations" / f"instances_{split}.json")


def draw_scene(config: ShapesConfig, split: str, index: int) -> Scene:
    """Draw image ``index`` of a split of ``SPLITS``; the same arguments give the same bytes."""
    rng = np.random.default_rng([config.seed, SPLITS.index(split), index])
    return render_scene(config.size, "val" if split == "val" else "train", config.probability(split), rng)


def generate_shapes(root: str | Path, config: ShapesConfig, workers: int = 2, progress: bool = True) -> dict[str, ShapesSplit]:
    """Write the data set, or what is missing of it.

    A split is complete when its json is there, which is written last; an interrupted one is drawn again, a complete one is left alone.

    Args:
        root: folder; created where absent.
        config: what to draw.
        workers: processes; 1 draws in this one.
        progress: show a bar for each split.

    Returns:
        the paths of each split of ``SPLITS``.

    Raises:
        ValueError: ``root`` holds a split drawn with another configuration.
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
    """What a split depends on: the counts of the other splits do not matter to it."""
    info = {"version": _VERSION, "split": split, "seed": config.seed, "size": config.size}
    return {**info, "agreement": config.probability(split), "images": config.num_images(split)}


def _is_complete(paths: ShapesSplit, config: ShapesConfig, split: str) -> bool:
    if not paths.annotations.is_file():
        return False
    found = json.loads(paths.annotations.read_text(encoding="utf-8"))["info"].get("shapes")
    expected = _split_info(config, split)
    if found != expected:
        raise ValueError(f"{paths.annotations} was drawn with {found}; expected {expected}. Name another folder, or delete this one.")
    return True


def _write_split(paths: ShapesSplit, config: ShapesConfig, split: str, pool: ProcessPoolExecutor | None, progress: bool) -> None:
    paths.images.mkdir(parents=True, exist_ok=True)
    paths.annotations.parent.mkdir(parents=True, exist_ok=True)
    count = config.num_images(split)
    task = partial(_write_image, config, split, paths.images)
    drawn = map(task, range(count)) if pool is None else pool.map(task, range(count), chunksize=16)
    bar = tqdm(drawn, total=count, desc=f"drawing {split}", unit="image", disable=not progress)
    write_atomically(paths.annotations, json.dumps(_to_coco(bar, config, split)).encode("utf-8"))


def _write_image(config: ShapesConfig, split: str, folder: Path, index: int) -> tuple[dict, list[dict]]:
    """Write one image; returns its COCO record and its annotations without id."""
    scene = draw_scene(config, split, index)
    name = f"{index:06d}.jpg"
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert ok, name
    write_atomically(folder / name, data.tobytes())
    record = {"id": index + 1, "file_name": name, "width": config.size, "height": config.size}
    things = zip(scene.masks, scene.categories, scene.materials)
    return record, [{"image_id": index + 1, **_annotation(mask, category, material)} for mask, category, material in things]


def _annotation(mask: np.ndarray, category: int, material: int) -> dict:
    # Run lengths, not polygons: visible parts have holes and pieces, and polygons are not exact to the pixel.
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    box, area = coco_mask.toBbox(rle).tolist(), int(coco_mask.area(rle))
    segmentation = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return {"category_id": category + 1, "segmentation": segmentation, "bbox": box, "area": area, "iscrowd": 0, "material_id": material + 1}


def _to_coco(drawn: Iterator[tuple[dict, list[dict]]], config: ShapesConfig, split: str) -> dict:
    images, annotations = [], []
    for record, things in drawn:
        images.append(record)
        annotations += things
    return {
        "info": {"description": "Textured shapes, drawn by detcon_d2.quickstart.shapes", "shapes": _split_info(config, split)},
        "licenses": [],
        "images": images,
        "annotations": [{"id": i, **annotation} for i, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CATEGORIES, start=1)],
    }
