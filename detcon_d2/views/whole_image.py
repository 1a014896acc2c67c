"""The unaugmented whole image, from which the model learns regions (DETCON.MASKS.SOURCE kmeans)."""

import logging

import numpy as np
import torch
from torch.utils.data import Dataset

from detcon_d2 import d2
from detcon_d2.config import kmeans_settings
from detcon_d2.io.images import ImageReadError, read_image
from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.position import Stream, position_rng

logger = logging.getLogger(__name__)


class FullImage:
    """What k-means needs of an image: its pixels and the random numbers of its first centres."""

    @d2.configurable
    def __init__(self, *, seed: int, size: int, interpolation: str, num_draws: int, fast: bool = False):
        """
        Args:
            seed: >= 0.
            size: side in pixels that the whole image is resized to; its aspect is not kept.
            interpolation: a key of ``INTERPOLATIONS``.
            num_draws: the largest K of the run.
            fast: in 8 bits, as fast views are.
        """
        self._seed = seed
        self._size = size
        self._interpolation = interpolation
        self._num_draws = num_draws
        self._fast = fast

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments from DETCON.MASKS.KMEANS, VIEWS and SEED."""
        settings = kmeans_settings(cfg)
        return {
            "seed": cfg.SEED,
            "size": settings.size,
            "interpolation": cfg.DETCON.VIEWS.INTERPOLATION,
            "num_draws": max(settings.k, settings.k_end),
            "fast": cfg.DETCON.AUG.MODE == "fast",
        }

    def __call__(self, image: np.ndarray, position: int) -> dict[str, torch.Tensor]:
        """
        Args:
            image: uint8 (H, W, 3) RGB.
            position: k >= 0.

        Returns:
            ``full_image`` uint8 (3, size, size) RGB, ``kmeans_draws`` float32 (num_draws,) in [0, 1).
        """
        height, width = image.shape[:2]
        whole = ViewTransform(0, 0, width, height, flip=False, size=self._size, interpolation=self._interpolation)
        pixels = whole.apply_image_uint8(image) if self._fast else np.rint(whole.apply_image(image) * 255).astype(np.uint8)
        draws = position_rng(self._seed, position, Stream.KMEANS).random(self._num_draws, dtype=np.float32)
        return {"full_image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), "kmeans_draws": torch.from_numpy(draws)}


class FullImageDataset(Dataset):
    """Every image once, whole, for a refresh of all regions."""

    def __init__(self, records: list[dict], full_image: FullImage, first_position: int, *, skip_bad_images: bool):
        """
        Args:
            records: the images.
            full_image: called with an image and the position ``first_position + index``.
            first_position: >= 0.
            skip_bad_images: an unreadable image is black here; training never shows it.
        """
        self._records = d2.DatasetFromList(records, copy=False, serialize=True)
        self._full_image = full_image
        self._first_position = first_position
        self._skip = skip_bad_images

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """:class:`FullImage`'s tensors of one image.

        Raises:
            ValueError: an unreadable image, with file and remedy.
        """
        try:
            image = read_image(self._records[index]["file_name"])
        except ImageReadError as error:
            if not self._skip:
                raise ValueError(
                    f"{error} It is image {index} of the training data. Repair or remove it, or set DETCON.ON_BAD_IMAGE skip."
                ) from None
            logger.warning("Without regions (DETCON.ON_BAD_IMAGE skip): %s", error)
            image = np.zeros((1, 1, 3), np.uint8)
        return self._full_image(image, self._first_position + index)
