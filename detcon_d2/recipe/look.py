"""What a recipe sees of a user's images and annotations."""

import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from detcon_d2.io.annotated.checks import check_annotations, class_difference, refusals
from detcon_d2.io.annotated.dataset import AnnotatedData
from detcon_d2.io.annotated.read import read_annotated
from detcon_d2.io.annotated.write import write_coco
from detcon_d2.io.specs import canonical_spec, is_dataset_spec, list_images
from detcon_d2.io.tiles import read_record
from detcon_d2.masks.generate import evenly_spaced

_SAMPLE = 48
_COLORED = 200  # images in which the colours of objects are measured
_COVERED = 24  # images whose objects regions are compared with
_PIXELS, _FEWEST = 16e6, 4  # of the images that regions are tried on, and the least number of these
_LEFT_OUT = 0.1


class Images(NamedTuple):
    """The unlabelled images.

    Attributes:
        spec: of the data set, with absolute paths.
        records: of all images.
        sample: evenly spaced ones, uint8 (H, W, 3) RGB each.
        names: their file names.
        height, width: the median image's, pixels.
        grey: share of images without colour.
        brightness: mean over the images, 0..255.
    """

    spec: str
    records: list[dict]
    sample: list[np.ndarray]
    names: list[str]
    height: int
    width: int
    grey: float
    brightness: float

    def limited(self, count: int) -> "Images":
        """The same with ``count`` images in the sample, or all if there are fewer."""
        return self._replace(sample=evenly_spaced(self.sample, count), names=evenly_spaced(self.names, count))


class Objects(NamedTuple):
    """The annotated objects of the training set, crowds left out.

    Attributes:
        train, test: specs with absolute paths.
        classes: their names.
        train_images, test_images: numbers of images.
        boxes: float64 (n, 4): width and height of each object, and of its image, pixels.
        labels: its class, (n,).
        most: the largest number of objects in an image.
        masks: whether they have masks.
        coded: whether masks are run lengths.
        color_accuracy: share of objects whose class their mean colour tells, each class counting the same; chance is 1 / classes. NaN with
            one class.
        findings: lines on what is odd.
        sample: some evenly spaced training images with objects, uint8 (H, W, 3) RGB, each with its boxes, float32 (n, 4): x0, y0, x1, y1.
    """

    train: str
    test: str
    classes: list[str]
    train_images: int
    test_images: int
    boxes: np.ndarray
    labels: np.ndarray
    most: int
    masks: bool
    coded: bool
    color_accuracy: float
    findings: list[str]
    sample: list[tuple[np.ndarray, np.ndarray]]

    def sizes(self) -> np.ndarray:
        """Root of the area of each box, pixels: float64 (n,)."""
        return np.sqrt(self.boxes[:, 0] * self.boxes[:, 1])

    def shares(self) -> np.ndarray:
        """Root of each box's share of the area of its image: float64 (n,)."""
        return self.sizes() / np.sqrt(self.boxes[:, 2] * self.boxes[:, 3])


def look_at_images(name: str) -> Images:
    """The images of a folder or spec. Raises ValueError: nothing there, or images that cannot be read."""
    spec = canonical_spec(name if is_dataset_spec(name) else f"folder:{name}")
    records = list_images(spec)
    chosen = evenly_spaced(records, _SAMPLE)
    sample = [read_record(record) for record in chosen]
    height, width = np.median([image.shape[:2] for image in sample], axis=0).astype(int).tolist()
    spread = [np.ptp(image[::4, ::4].astype(np.int16), axis=2).mean() for image in sample]
    names = [os.path.basename(record["file_name"]) for record in chosen]
    brightness = float(np.mean([image.mean() for image in sample]))
    return Images(spec, records, sample, names, height, width, float(np.mean(np.array(spread) < 2)), brightness)


def look_at_objects(train: str, test: str, output: Path) -> Objects:
    """The objects of an annotated training set. Without a test set, every fifth image becomes one: ``labels/`` in ``output`` gets both.

    Raises ValueError: data sets that cannot be read, without objects, or with too much that cannot be used.
    """
    data = _read(train)
    if test:
        other = _read(test)
        if difference := class_difference(other, data.class_names(), train):
            raise ValueError(difference)
        names = canonical_spec(train), canonical_spec(test)
    else:
        other = AnnotatedData(data.name, data.records[::5], data.categories)
        data = AnnotatedData(data.name, [one for index, one in enumerate(data.records) if index % 5], data.categories, data.findings)
        names = tuple(write_coco(part, output / "labels" / f"{name}.json") for name, part in (("train", data), ("test", other)))
    things = [(one, record) for record in data.records for one in _usable(record)]
    if not things or not other.annotations():
        raise ValueError(f"{train}: found {len(things)} objects to train on and {len(other.annotations())} to test on; expected both")
    boxes = np.array([(*one["bbox"][2:], record["width"], record["height"]) for one, record in things], float)
    masks = [one.get("segmentation") for one, _ in things]
    count = min(affordable(*np.median(boxes[:, 2:], axis=0)), _COVERED)
    compared = evenly_spaced([record for record in data.records if _usable(record)], count)
    return Objects(
        train=names[0],
        test=names[1],
        classes=data.class_names(),
        train_images=len(data.records),
        test_images=len(other.records),
        boxes=boxes,
        labels=np.array([one["category_id"] for one, _ in things]),
        most=max(len(record["annotations"]) for record in data.records),
        masks=all(masks),
        coded=any(isinstance(mask, dict) for mask in masks),
        color_accuracy=_color_accuracy(data),
        findings=[finding.line() for finding in data.findings],
        sample=[(read_record(record), _corners(record)) for record in compared],
    )


def affordable(height: float, width: float) -> int:
    """How many images of this size regions can be tried on in a minute or two."""
    return max(int(_PIXELS / (height * width)), _FEWEST)


def _usable(record: dict) -> list[dict]:
    return [one for one in record["annotations"] if not one["iscrowd"] and min(one["bbox"][2:]) > 0]


def _corners(record: dict) -> np.ndarray:
    boxes = np.array([one["bbox"] for one in _usable(record)], np.float32)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _read(spec: str) -> AnnotatedData:
    data = read_annotated(spec)
    annotations = data.annotations()
    masks = sum(bool(one.get("segmentation")) for one in annotations) > (1 - _LEFT_OUT) * len(annotations)
    check_annotations(data, masks=masks)
    if wrong := refusals(data, _LEFT_OUT, no_masks="give all of them one, or none"):
        raise ValueError("\n".join(wrong))
    return data


def _color_accuracy(data: AnnotatedData) -> float:
    """How often the class mean next to an object's mean colour is its own: means of the even objects, tested on the odd ones."""
    colors, classes = [], []
    for record in evenly_spaced([one for one in data.records if one["annotations"]], _COLORED) if len(data.categories) > 1 else ():
        lab = cv2.cvtColor(read_record(record), cv2.COLOR_RGB2LAB)
        for one in record["annotations"]:
            x, y, width, height = one["bbox"]
            # The inner half of the box, so that little of the surroundings counts.
            top, left = max(int(y + height / 4), 0), max(int(x + width / 4), 0)
            patch = lab[top : max(int(y + height * 3 / 4), top + 1), left : max(int(x + width * 3 / 4), left + 1)]
            if patch.size:
                colors.append(patch.reshape(-1, 3).mean(0))
                classes.append(one["category_id"])
    return nearest_mean_accuracy(np.array(colors), np.array(classes)) if colors else float("nan")


def nearest_mean_accuracy(features: np.ndarray, classes: np.ndarray) -> float:
    """Balanced accuracy of the nearest class mean: (n, d) features in units of their spread within classes, classes (n,). Even rows give
    the means, odd rows are tested; classes without both are left out. NaN with fewer than two."""
    even = np.arange(len(classes)) % 2 == 0
    known = [one for one in np.unique(classes) if (classes[even] == one).any() and (classes[~even] == one).any()]
    if len(known) < 2:
        return float("nan")
    means = np.stack([features[even & (classes == one)].mean(0) for one in known])
    within = np.concatenate([features[even & (classes == one)] - mean for one, mean in zip(known, means)])
    scale = within.std(0) + 1e-6
    distance = (((features[:, None] - means) / scale) ** 2).sum(2)
    right = np.array(known)[distance.argmin(1)] == classes
    return float(np.mean([right[~even & (classes == one)].mean() for one in known]))
