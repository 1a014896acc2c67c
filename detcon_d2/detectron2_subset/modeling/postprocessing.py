"""From detections in the resized input image to detections in the original image."""

from ..layers import paste_masks_in_image
from ..structures import Boxes, Instances


def detector_postprocess(results: Instances, output_height: int, output_width: int) -> Instances:
    """Return the detections at another resolution; ``results`` are not changed.

    ``pred_boxes`` are scaled from ``results.image_size`` and clipped; instances whose box has no area are removed. ``pred_masks``
    (N, 1, M, M) in [0, 1] become (N, output_height, output_width) bool: they are pasted into their boxes with threshold 0.5.
    """
    boxes, (height, width) = Boxes(results.pred_boxes.tensor.clone()), results.image_size
    boxes.scale(output_width / width, output_height / height)
    boxes.clip((output_height, output_width))
    resized = Instances((output_height, output_width), **{**results.get_fields(), "pred_boxes": boxes})[boxes.nonempty()]
    if resized.has("pred_masks"):
        resized.pred_masks = paste_masks_in_image(resized.pred_masks[:, 0], resized.pred_boxes.tensor, resized.image_size)
    return resized
