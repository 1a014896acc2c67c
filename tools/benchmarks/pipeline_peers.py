"""Input pipelines that a user could write with torchvision's transforms v2 or with lightly's DetCon transform.

Each takes an image file and a label map file, and returns two views of image and mask, in 8 bits where the library can, not normalised.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import io, tv_tensors
from torchvision.transforms import v2

Peer = Callable[[str, str], list]


def peer_pipelines(size: int) -> dict[str, Peer]:
    """The pipelines of the installed libraries by name, for views of ``size`` pixels with DetCon_B's augmentations."""
    views = [_torchvision_view(size, blur_prob, solarize_prob) for blur_prob, solarize_prob in ((1.0, 0.0), (0.1, 0.2))]
    found = {"torchvision v2, PIL images": partial(_pil_views, views), "torchvision v2, tensors": partial(_tensor_views, views)}
    if find_spec("lightly") is not None:
        from lightly.transforms import DetConSTransform

        # It is for DetCon_S: its jitter has other strengths, and its second view has no blur.
        found["lightly"] = partial(_lightly_views, DetConSTransform(input_size=size, normalize=None))
    return found


def one_hot_cells(label_maps: torch.Tensor, num_ids: int, side: int) -> torch.Tensor:
    """Regions to cells as the released code does it: one-hot, average pool, argmax.

    Args:
        label_maps: int64 (N, H, W), ids below ``num_ids``.
        num_ids: channels of the one-hot.
        side: h = w of the cells, a divisor of H and W.

    Returns:
        int64 (N, side, side).
    """
    one_hot = torch.nn.functional.one_hot(label_maps, num_ids).permute(0, 3, 1, 2).float()
    return torch.nn.functional.avg_pool2d(one_hot, label_maps.shape[-1] // side).argmax(1)


def _pil_views(views: list[v2.Compose], image: str, label_map: str) -> list:
    """Images decoded and augmented by Pillow."""
    with Image.open(image) as file:
        pixels, mask = file.convert("RGB"), _mask(label_map)
    return [v2.functional.to_image(view(pixels, mask)[0]) for view in views]


def _tensor_views(views: list[v2.Compose], image: str, label_map: str) -> list:
    """Images decoded by torchvision and augmented as 8-bit tensors."""
    pixels, mask = tv_tensors.Image(io.decode_image(image, io.ImageReadMode.RGB)), _mask(label_map)
    return [view(pixels, mask) for view in views]


def _lightly_views(transform: Callable, image: str, label_map: str) -> list:
    with Image.open(image) as file:
        return transform(file.convert("RGB"), _mask(label_map))


def _mask(label_map: str) -> tv_tensors.Mask:
    return tv_tensors.Mask(torch.from_numpy(cv2.imread(label_map, cv2.IMREAD_UNCHANGED).astype(np.int64)))


def _torchvision_view(size: int, blur_prob: float, solarize_prob: float) -> v2.Compose:
    kernel = 2 * int(0.1 * size / 2) + 1
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], blur_prob),
            v2.RandomSolarize(128, solarize_prob),
        ]
    )
