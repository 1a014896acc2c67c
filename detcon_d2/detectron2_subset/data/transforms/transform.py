"""Transforms that fvcore lacks: resizing with PIL."""

import numpy as np
from fvcore.transforms.transform import ScaleTransform
from PIL import Image

_TORCH_MODES = {Image.NEAREST: "nearest", Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}


class ResizeTransform(ScaleTransform):
    """Resize from (h, w) to (new_h, new_w): PIL (which smooths when it shrinks) for uint8, torch's interpolation for other types."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        """``interp``: one of PIL's resampling filters, bilinear by default; other types than uint8 know nearest, bilinear and bicubic."""
        super().__init__(h, w, new_h, new_w, Image.BILINEAR if interp is None else interp)

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize (H, W) or (H, W, C), keeping the type; ``interp`` overrides the filter. AssertionError for another size than (h, w)."""
        assert img.ndim <= 3 and img.shape[:2] == (self.h, self.w), f"The transform is for {self.h} x {self.w}, found shape {img.shape}."
        interp = self.interp if interp is None else interp
        if img.dtype != np.uint8:
            return super().apply_image(img, _TORCH_MODES[interp])
        flat = img.ndim == 3 and img.shape[2] == 1
        # PIL has no pictures of shape (H, W, 1).
        resized = np.asarray(Image.fromarray(img[..., 0] if flat else img).resize((self.new_w, self.new_h), interp))
        return resized[..., None] if flat else resized

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize labels (H, W), nearest neighbour."""
        return self.apply_image(segmentation, Image.NEAREST)

    def inverse(self) -> "ResizeTransform":
        """Back to (h, w); what a smaller picture lost is not recovered."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
