"""Data of semantic segmentation: a look at the data sets before the first iteration, and the mapper with its augmentation."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.data.reading import RefusedImageError
from detcon_d2.engine.finetune.look import register_records, unchecked_records
from detcon_d2.engine.finetune.mapper import DetectionMapper
from detcon_d2.io.annotated.kinds import KINDS
from detcon_d2.io.annotated.semantic import SEMANTIC_KINDS, read_label_image, read_semantic
from detcon_d2.io.images import read_image, recorded_size

T = d2.transforms

_FORMS = ", ".join(KINDS[kind] for kind in SEMANTIC_KINDS)


def is_semantic(cfg: "d2.CfgNode") -> bool:
    """Whether the config trains semantic segmentation."""
    return cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor"


def check_semantic(cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
    """What semantic segmentation requires, for :func:`~detcon_d2.engine.setup.check_config`."""
    classes, crop, augmentation = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.INPUT.CROP.TYPE, cfg.DETCON.FINETUNE.AUGMENTATION
    window, stride = cfg.DETCON.SEM_SEG.WINDOW, cfg.DETCON.SEM_SEG.WINDOW_STRIDE
    return [
        (0 < classes < 256, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes, "1 to 255"),
        (crop == "absolute", "INPUT.CROP.TYPE", crop, "'absolute', with the INPUT.CROP.SIZE of all training images"),
        (augmentation == "default", "DETCON.FINETUNE.AUGMENTATION", augmentation, "'default': the INPUT keys"),
        (window == 0 or 0 < stride <= window, "DETCON.SEM_SEG.WINDOW_STRIDE", stride, f"1 to {window}, the WINDOW"),
    ]


def look_at_labels(cfg: "d2.CfgNode", train: Sequence[str], test: Sequence[str]) -> list[str]:
    """Read and register data sets; each is a spec of :func:`~detcon_d2.io.annotated.semantic.read_semantic` or a name in the catalog.

    Label images are checked when they are loaded.

    Returns the lines to print.

    Raises ValueError: a data set that is unknown, cannot be read, has no label images, or does not have MODEL.SEM_SEG_HEAD.NUM_CLASSES.
    """
    return [_look(name, cfg) for name in dict.fromkeys([*train, *test])]


def _look(name: str, cfg: "d2.CfgNode") -> str:
    expected = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if name in d2.DatasetCatalog.list() and ":" not in name:
        function = unchecked_records(name)
        try:
            records = function()
        except (AssertionError, KeyError, OSError) as error:
            raise ValueError(f"The data set {name} cannot be read: {error}") from error
        if not records or "sem_seg_file_name" not in records[0]:
            raise ValueError(f"The data set {name} has no sem_seg_file_name; expected a data set of semantic segmentation, or {_FORMS}.")
        records = [{"image_id": one["file_name"].rpartition("/")[2]} | one for one in records]
        classes = tuple(d2.MetadataCatalog.get(name).get("stuff_classes") or ())
        register_records(name, records, function)
    else:
        if ":" not in name:
            known = ", ".join(one for one in d2.DatasetCatalog.list() if "sem_seg" in one)
            raise ValueError(f"{name!r} is not a data set; expected {_FORMS}, or a name in the catalog: {known}.")
        records, classes = read_semantic(name)
        classes = classes or tuple(f"class {number}" for number in range(expected))
        register_records(name, records)
        d2.MetadataCatalog.pop(name, None)
        d2.MetadataCatalog.get(name).set(stuff_classes=list(classes), ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
    if len(classes) != expected:
        raise ValueError(f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {expected}, but {name} has {len(classes)} classes; set it to {len(classes)}.")
    return f"{name}: {len(records)} images with label images, {len(classes)} classes ({', '.join(classes[:10])}{', ...' * (expected > 10)})"


def build_augmentations(cfg: "d2.CfgNode", is_train: bool) -> list["T.Augmentation"]:
    """Detectron2's resizing and flip from the INPUT keys; in training also the crop of INPUT.CROP.SIZE and DETCON.SEM_SEG.PHOTOMETRIC."""
    augmentations = d2.detection_utils.build_augmentation(cfg, is_train)
    if is_train:
        options = cfg.DETCON.SEM_SEG
        sampling = (options.CATEGORY_MAX_AREA, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
        augmentations.append(T.RandomCrop_CategoryAreaConstraint("absolute", tuple(cfg.INPUT.CROP.SIZE), *sampling))
        if options.PHOTOMETRIC:
            augmentations.append(PhotometricDistortion(cfg.INPUT.FORMAT))
    return augmentations


class PhotometricDistortion(T.Augmentation):
    """Random colours as in SSD (Liu et al. 2016, section 3.6), with the strengths of MMSegmentation.

    Each with probability 1/2: brightness + U(-32, 32), contrast x U(0.5, 1.5), saturation x U(0.5, 1.5), and hue + U(-18, 18) of 180.
    Contrast comes second or last, with equal probability.
    """

    def __init__(self, channel_order: str):
        """``channel_order``: "RGB" or "BGR"."""
        self._to_hsv, self._from_hsv = (getattr(cv2, f"COLOR_{name}") for name in (f"{channel_order}2HSV", f"HSV2{channel_order}"))

    def get_transform(self, image: np.ndarray) -> "T.Transform":
        """The transform of an image (H, W, 3), uint8."""
        brightness = np.random.uniform(-32, 32) if np.random.randint(2) else 0.0
        last = np.random.randint(2)
        contrast, saturation = (np.random.uniform(0.5, 1.5) if np.random.randint(2) else 1.0 for _ in range(2))
        hue = np.random.randint(-18, 19) if np.random.randint(2) else 0
        return T.ColorTransform(lambda image: self.apply(image, brightness, contrast, saturation, hue, bool(last)))

    def apply(self, image: np.ndarray, brightness: float, contrast: float, saturation: float, hue: int, contrast_last: bool) -> np.ndarray:
        """The image with these changes."""
        image = _linear(image, 1.0, brightness)
        image = image if contrast_last else _linear(image, contrast, 0.0)
        if saturation != 1 or hue:
            hsv = cv2.cvtColor(image, self._to_hsv)
            hsv[..., 1] = _linear(hsv[..., 1], saturation, 0.0)
            hsv[..., 0] = (hsv[..., 0].astype(int) + hue) % 180
            image = cv2.cvtColor(hsv, self._from_hsv)
        return _linear(image, contrast, 0.0) if contrast_last else image


def _linear(values: np.ndarray, factor: float, offset: float) -> np.ndarray:
    return values if (factor, offset) == (1, 0) else np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)


class SemanticMapper(DetectionMapper):
    """From a record with ``sem_seg_file_name`` to the input of a ``SemanticSegmentor``.

    Training images are padded to the size of the crop: with the pixel mean, which becomes 0, and with ignored labels. In evaluation, labels
    are checked, and the evaluator reads them.
    """

    @d2.configurable
    def __init__(self, is_train: bool, *, num_classes: int, ignored: int, crop: tuple[int, int], fill: Sequence[int], **options: Any):
        """``num_classes``, ``ignored``: of the labels; ``crop``: (H, W); ``fill``: pixel value of the padding; the others: see the base."""
        super().__init__(is_train, **options)
        self._num_classes, self._ignored, self._crop = num_classes, ignored, crop
        self._fill = torch.tensor(fill, dtype=torch.uint8)[:, None, None]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", is_train: bool = True) -> dict[str, Any]:
        """Also reads MODEL.SEM_SEG_HEAD, MODEL.PIXEL_MEAN, INPUT.CROP.SIZE and DETCON.SEM_SEG."""
        head = cfg.MODEL.SEM_SEG_HEAD
        return super().from_config(cfg, is_train) | {
            "augmentations": build_augmentations(cfg, is_train),
            "num_classes": head.NUM_CLASSES,
            "ignored": head.IGNORE_VALUE,
            "crop": tuple(cfg.INPUT.CROP.SIZE),
            "fill": [round(value) for value in cfg.MODEL.PIXEL_MEAN],
        }

    def _map(self, record: dict) -> dict:
        image = read_image(record["file_name"], recorded_size(record), self._reading)
        size = image.shape[:2]
        try:
            labels = read_label_image(record["sem_seg_file_name"], self._num_classes, self._ignored, size)
        except ValueError as error:
            raise RefusedImageError(f"{record['file_name']}: {error}") from None
        inputs = T.AugInput(image if self.image_format == "RGB" else image[:, :, ::-1], sem_seg=labels if self.is_train else None)
        self.augmentations(inputs)
        pixels = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        mapped = {key: record[key] for key in ("file_name", "image_id")} | {"height": size[0], "width": size[1], "image": pixels}
        if self.is_train:
            below, right = (wanted - found for wanted, found in zip(self._crop, pixels.shape[1:]))
            mapped["image"] = self._fill.expand(-1, *self._crop).clone()
            mapped["image"][:, : pixels.shape[1], : pixels.shape[2]] = pixels
            mapped["sem_seg"] = F.pad(torch.from_numpy(inputs.sem_seg.astype(np.int64)), (0, right, 0, below), value=self._ignored)
        return mapped
