"""Resizing with PIL, a transform that fvcore lacks."""

import numpy as np
from fvcore.transforms.transform import ScaleTransform
from PIL import Image

_TORCH_MODES = {Image.NEAREST: "nearest", Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}


class ResizeTransform(ScaleTransform):
    """Resize from (h, w) to (new_h, new_w): with PIL (which smooths when it shrinks) for uint8, with torch for other types."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        """``interp``: a resampling filter of PIL (default: bilinear). Other types than uint8 support nearest, bilinear and bicubic."""
        super().__init__(h, w, new_h, new_w, Image.BILINEAR if interp is None else interp)

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize (H, W) or (H, W, C) and keep the type; ``interp`` overrides the filter. AssertionError for another size than (h, w)."""
        assert img.ndim <= 3 and img.shape[:2] == (self.h, self.w), f"The transform is for {self.h} x {self.w}, found shape {img.shape}."
        interp = self.interp if interp is None else interp
        if img.dtype != np.uint8:
            return super().apply_image(img, _TORCH_MODES[interp])
        # PIL has no images of shape (H, W, 1).
        flat = img.ndim == 3 and img.shape[2] == 1
        resized = np.asarray(Image.fromarray(img[..., 0] if flat else img).resize((self.new_w, self.new_h), interp))
        return resized[..., None] if flat else resized

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize labels (H, W) with the nearest neighbour."""
        return self.apply_image(segmentation, Image.NEAREST)
