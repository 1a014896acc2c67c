"""What a user would write instead of our input pipeline: torchvision's transforms v2, and lightly's DetCon transform.

Each peer is a function from an image file and a label map file to two views of image and mask, 8-bit where it can, not normalised.
"""

from collections.abc import Callable
from importlib.util import find_spec

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import io, tv_tensors
from torchvision.transforms import v2

Peer = Callable[[str, str], object]


def peers(size: int) -> dict[str, Peer]:
    """The peers that are installed, by name, for views of ``size`` pixels with DetCon_B's augmentations."""
    found = {"torchvision v2, PIL images": torchvision_pil(size), "torchvision v2, tensors": torchvision_tensors(size)}
    if find_spec("lightly") is not None:
        found["lightly"] = lightly(size)
    return found


def torchvision_pil(size: int) -> Peer:
    """Images decoded and augmented by Pillow."""
    views = _torchvision_views(size)

    def load(image: str, label_map: str) -> list:
        with Image.open(image) as file:
            pixels, mask = file.convert("RGB"), _mask(label_map)
        return [v2.functional.to_image(view(pixels, mask)[0]) for view in views]

    return load


def torchvision_tensors(size: int) -> Peer:
    """Images decoded by torchvision and augmented as 8-bit tensors."""
    views = _torchvision_views(size)

    def load(image: str, label_map: str) -> list:
        pixels, mask = tv_tensors.Image(io.decode_image(image, io.ImageReadMode.RGB)), _mask(label_map)
        return [view(pixels, mask) for view in views]

    return load


def lightly(size: int) -> Peer:
    """``lightly.transforms.DetConSTransform``, which is for DetCon_S: its jitter has other strengths, its second view no blur."""
    from lightly.transforms import DetConSTransform

    transform = DetConSTransform(input_size=size, normalize=None)

    def load(image: str, label_map: str) -> list:
        with Image.open(image) as file:
            return transform(file.convert("RGB"), _mask(label_map))

    return load


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


def _mask(label_map: str) -> tv_tensors.Mask:
    return tv_tensors.Mask(torch.from_numpy(cv2.imread(label_map, cv2.IMREAD_UNCHANGED).astype(np.int64)))


def _torchvision_views(size: int) -> list[v2.Compose]:
    return [_torchvision_view(size, blur_prob, solarize_prob) for blur_prob, solarize_prob in ((1.0, 0.0), (0.1, 0.2))]


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
