"""The detector: classes, masks, input size and anchors from the annotated objects."""

import math
from typing import NamedTuple

import numpy as np

from detcon_d2.recipe.budget import DETECTOR_BATCH
from detcon_d2.recipe.config import Choice
from detcon_d2.recipe.look import Images, Objects
from detcon_d2.recipe.views import GPU, Setup

_FACTORS = (0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0)
_SMALL, _MEDIAN = 8, 16
"""Pixels that the side of the smallest tenth of the objects, and of the median one of the smallest class, should have: 2 and 4 cells of the
finest map."""
_RATIO_STEP = 0.05
MATCH = 0.7
"""Intersection over union from which an anchor is trained to be an object (Faster R-CNN)."""


class Anchors(NamedTuple):
    """Sides in pixels, one per level, and ratios of height to width; ``matched`` is the share of the objects that an anchor at their centre
    covers with :data:`MATCH`."""

    sizes: list[float]
    ratios: list[float]
    matched: float


def choose_detector(setup: Setup, images: Images, objects: Objects) -> list[Choice]:
    """All but schedule and batch."""
    factor, reason = choose_scale(objects)
    short, long = (max(round(side * factor), 32) for side in sorted((images.height, images.width)))
    levels = 5 if setup is GPU else 4
    anchors = choose_anchors(objects.boxes[:, :2] * factor, levels)
    mean = len(objects.boxes) / objects.train_images
    sampled = min(max(2 ** math.ceil(math.log2(8 * mean + 1)), 32), 256)
    fit = f"the quantiles of the objects at the size of the input; one of them fits {anchors.matched:.0%} of the objects (IoU {MATCH})"
    many = f"an image has up to {objects.most} objects, {mean:.1f} on average"
    masks = f"all {len(objects.boxes)} objects have masks" if objects.masks else "the annotations are boxes"
    choices = [
        Choice("DETCON.FINETUNE.PROTOCOL", "recipe", "results carry this name"),
        Choice("MODEL.MASK_ON", objects.masks, masks),
        Choice("MODEL.ROI_HEADS.NUM_CLASSES", len(objects.classes), f"the classes of {objects.train}: {', '.join(objects.classes[:20])}"),
        Choice("DATASETS.TRAIN", (objects.train,), f"{objects.train_images} images, {len(objects.boxes)} objects"),
        Choice("DATASETS.TEST", (objects.test,), f"{objects.test_images} images; nothing was chosen by them"),
        Choice("INPUT.MIN_SIZE_TRAIN", (short,), reason),
        Choice("INPUT.MAX_SIZE_TRAIN", long, "the shape of the median image"),
        Choice("INPUT.MIN_SIZE_TEST", short, "as in training"),
        Choice("INPUT.MAX_SIZE_TEST", long, "as in training"),
        Choice("MODEL.ANCHOR_GENERATOR.SIZES", [[size] for size in anchors.sizes], fit),
        Choice("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [anchors.ratios], "height / width of the tenth, the median and the 90th percentile"),
        Choice("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", sampled, f"a quarter of them are objects: {many}"),
        Choice("MODEL.RPN.BATCH_SIZE_PER_IMAGE", max(sampled, 64), f"half of them are objects: {many}"),
        Choice("TEST.DETECTIONS_PER_IMAGE", min(max(2 * objects.most, 50), 300), f"twice as many as there are: {many}"),
    ]
    if setup is GPU:
        choices += [
            Choice(
                "SOLVER.BASE_LR", 0.02 * DETECTOR_BATCH / 16, f"Detectron2's 0.02 for a batch of 16, in proportion for {DETECTOR_BATCH}"
            ),
            Choice("DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH", 0, "rate and schedule are for this batch"),
        ]
    if objects.masks:
        form = ("bitmask", "masks are run lengths") if objects.coded else ("polygon", "masks are polygons")
        choices.append(Choice("INPUT.MASK_FORMAT", *form))
    return choices


def choose_scale(objects: Objects) -> tuple[float, str]:
    """The smallest factor of the images' size at which small objects keep cells, and the reason."""
    sizes = objects.sizes()
    small = float(np.quantile(sizes, 0.1))
    # A class that is smaller than the others counts, too, unless hardly any object is of it.
    of_classes = [sizes[objects.labels == one] for one in np.unique(objects.labels)]
    median = min(float(np.median(one)) for one in of_classes if len(one) * 100 >= len(sizes))
    short = float(np.median(objects.boxes[:, 2:].min(1)))
    fitting = [one for one in _FACTORS if one * small >= _SMALL and one * median >= _MEDIAN and one * short >= 96 and one * short <= 800]
    possible = [one for one in _FACTORS if one * short <= 800] or [800 / short]
    factor = fitting[0] if fitting else possible[-1]
    text = f"{factor:g} of the images' size: the smallest tenth of the objects has {factor * small:.0f} px, the median of the smallest"
    return factor, f"{text} class {factor * median:.0f} (at least {_SMALL} and {_MEDIAN} keep cells at stride 4)"


def choose_anchors(boxes: np.ndarray, levels: int) -> Anchors:
    """A size per level at even quantiles of the root of the area, and three ratios.

    Args:
        boxes: float (n, 2), widths and heights at the size of the input, pixels.
        levels: of the feature pyramid.
    """
    sizes, quantiles = [], np.quantile(np.sqrt(boxes.prod(1)), np.linspace(0.1, 0.95, levels))
    for value in quantiles.tolist():
        # Sizes that are closer than this are as good as one.
        sizes.append(round(max(value, 4.0, 1.25 * sizes[-1] if sizes else 0), 1))
    ratios = np.quantile(boxes[:, 1] / boxes[:, 0], (0.1, 0.5, 0.9)) / _RATIO_STEP
    ratios = [round(max(value, 1) * _RATIO_STEP, 2) for value in ratios.round().tolist()]
    shapes = np.array([(size / math.sqrt(ratio), size * math.sqrt(ratio)) for size in sizes for ratio in ratios])
    inside = np.minimum(boxes[:, None], shapes).prod(2)
    union = boxes.prod(1)[:, None] + shapes.prod(1) - inside
    return Anchors(sizes, ratios, float(((inside / union).max(1) >= MATCH).mean()))
