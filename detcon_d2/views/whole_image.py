"""The whole image without augmentation: what a model looks at to learn regions (DETCON.MASKS.SOURCE kmeans)."""

from dataclasses import dataclass

import numpy as np
import torch

from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.position import Stream, position_rng


@dataclass(frozen=True)
class WholeImage:
    """Adds the pixels of the whole image and the random numbers that choose the first k-means centres.

    Attributes:
        seed: >= 0.
        size: side in pixels that the whole image is resized to; its aspect ratio is not kept.
        interpolation: a key of ``INTERPOLATIONS``.
        num_draws: the largest number of regions of the run.
        fast: whether to resize in 8 bits, as the fast views do.
    """

    seed: int
    size: int
    interpolation: str
    num_draws: int
    fast: bool = False

    def __call__(self, image: np.ndarray, position: int) -> dict[str, torch.Tensor]:
        """
        Args:
            image: uint8 (H, W, 3) RGB.
            position: k >= 0.

        Returns:
            ``full_image`` uint8 (3, size, size) RGB, ``kmeans_draws`` float32 (num_draws,) in [0, 1).
        """
        height, width = image.shape[:2]
        whole = ViewTransform(0, 0, width, height, flip=False, size=self.size, interpolation=self.interpolation)
        pixels = whole.apply_image_uint8(image) if self.fast else np.rint(whole.apply_image(image) * 255).astype(np.uint8)
        draws = position_rng(self.seed, position, Stream.KMEANS).random(self.num_draws, dtype=np.float32)
        return {"full_image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), "kmeans_draws": torch.from_numpy(draws)}
