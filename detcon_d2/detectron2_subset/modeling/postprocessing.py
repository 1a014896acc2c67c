"""From what a detector says of its resized input to the original image."""

from ..layers import paste_masks_in_image
from ..structures import Boxes, Instances


def detector_postprocess(results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5) -> Instances:
    """Detections at another resolution; ``results`` are left as they are.

    ``pred_boxes`` (or ``proposal_boxes``) are scaled from ``results.image_size`` and clipped; instances whose box has no area are dropped.
    ``pred_masks`` (N, 1, M, M) in [0, 1] become (N, output_height, output_width) bool: pasted into their boxes, >= ``mask_threshold``.
    KeyError where there are no boxes.
    """
    name = "pred_boxes" if results.has("pred_boxes") else "proposal_boxes"
    boxes, (height, width) = Boxes(results.get(name).tensor.clone()), results.image_size
    boxes.scale(output_width / width, output_height / height)
    boxes.clip((output_height, output_width))
    resized = Instances((output_height, output_width), **{**results.get_fields(), name: boxes})[boxes.nonempty()]
    if resized.has("pred_masks"):
        masks, size = resized.pred_masks[:, 0], resized.image_size
        resized.pred_masks = paste_masks_in_image(masks, resized.get(name).tensor, size, threshold=mask_threshold)
    return resized
