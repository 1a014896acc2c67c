"""Photometric augmentation of a batch on the model's device: the exact operators of ``views.photometric``, in float32.

Sampled parameters stay on the CPU, so that there is no synchronisation. Each operator runs once, on the sub-batch that uses it at this
step.
Letters: N images, n of them, (H, W) pixels.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

# ITU-R BT.601 luma, as dm_pix and torchvision write it.
_LUMA = (0.2989, 0.587, 0.114)


@torch.no_grad()
def apply_photometric(images: torch.Tensor, transforms: Sequence) -> torch.Tensor:
    """Each image's transform: jitter, grey, blur and solarize, with the same numbers as ``PhotometricTransform.apply_image`` to 1e-5.

    Args:
        images: (N, 3, H, W) RGB, uint8 or float32 in [0, 1]; not changed.
        transforms: N of ``views.photometric.PhotometricTransform``, of one ``operators``.

    Returns:
        float32 (N, 3, H, W) in [0, 1] on the same device.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = images / 255 if images.dtype == torch.uint8 else images.clone()
        operators = OPERATORS[transforms[0].operators]
        for step in range(len(operators)):
            jitter = {i: t.jitter[step] for i, t in enumerate(transforms) if len(t.jitter) > step}
            for number, operator in enumerate(operators):
                _replace(images, operator, {i: amount for i, (chosen, amount) in jitter.items() if chosen == number})
            images.clamp_(0, 1)
        _replace(images, _blend_saturation, {i: 0.0 for i, t in enumerate(transforms) if t.gray})
        _blur(images, transforms)
        thresholds = {i: t.solarize_threshold for i, t in enumerate(transforms)}
        _replace(images, _solarize, {i: threshold for i, threshold in thresholds.items() if threshold is not None})
        return images.clamp_(0, 1)


def _replace(images: torch.Tensor, operator: Callable, amounts: dict[int, float]) -> None:
    """Change some of the images in place: index -> amount."""
    if amounts:
        index = torch.tensor(list(amounts)).to(images.device, non_blocking=True)
        values = torch.tensor(list(amounts.values()), dtype=torch.float32).to(images.device, non_blocking=True)
        images[index] = operator(images[index], values.view(-1, 1, 1, 1))


def _gray(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = images.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]


def _scale_contrast_per_channel(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return torch.lerp(images.mean((2, 3), keepdim=True), images, factor)


def _blend_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return torch.lerp(_gray(images).mean((2, 3), keepdim=True), images, factor)


def _blend_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return torch.lerp(_gray(images), images, factor)


def _scale_hsv_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """S of HSV times ``factor``, clipped: each channel c becomes V - (V - c) * min(factor, 1 / S)."""
    low, value = images.aminmax(dim=1, keepdim=True)
    chroma = value - low
    return value - (value - images) * torch.minimum(factor, torch.where(chroma > 0, value / chroma, 1.0))


def _shift_hue(images: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """H of HSV plus ``delta`` turns; channel n becomes V - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + 6 H) mod 6, n = 5, 3, 1."""
    low, value = images.aminmax(dim=1, keepdim=True)
    chroma = value - low
    red, green, blue = images.split(1, dim=1)
    slope = chroma.clamp(min=torch.finfo(torch.float32).eps)
    sector = torch.where(
        value == red, (green - blue) / slope, torch.where(value == green, 2 + (blue - red) / slope, 4 + (red - green) / slope)
    )
    start = torch.arange(5.0, 0.0, -2.0, device=images.device).view(1, 3, 1, 1)
    k = (start + sector + 6 * delta).remainder(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def _solarize(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    return torch.where(images < threshold, images, 1 - images)


def _blur(images: torch.Tensor, transforms: Sequence) -> None:
    """In place. Separable, zeros outside: each channel of each image is a group of one convolution with its own kernel."""
    height, width = images.shape[2:]
    radius = int(transforms[0].blur_kernel * width / 2)
    chosen = [i for i, t in enumerate(transforms) if t.blur_sigma is not None]
    if not chosen or radius == 0:
        return
    sigmas = torch.tensor([transforms[i].blur_sigma for i in chosen], dtype=torch.float64)[:, None]
    kernels = torch.exp(-(torch.arange(-radius, radius + 1) ** 2) / (2 * sigmas**2))
    kernels = (kernels / kernels.sum(1, keepdim=True)).float().to(images.device, non_blocking=True).repeat_interleave(3, dim=0)
    index, groups = torch.tensor(chosen).to(images.device, non_blocking=True), len(kernels)
    # cuDNN might take TF32, which keeps 10 bits.
    with torch.backends.cudnn.flags(enabled=False):
        blurred = images[index].reshape(1, groups, height, width)
        blurred = F.conv2d(blurred, kernels[:, None, :, None], padding=(radius, 0), groups=groups)
        blurred = F.conv2d(blurred, kernels[:, None, None, :], padding=(0, radius), groups=groups)
    images[index] = blurred.view(len(chosen), 3, height, width)


OPERATORS = {
    "dm_pix": (torch.add, _scale_contrast_per_channel, _scale_hsv_saturation, _shift_hue),
    "torchvision": (torch.mul, _blend_contrast, _blend_saturation, _shift_hue),
}
"""DETCON.AUG.OPERATORS -> brightness, contrast, saturation, hue of images (n, 3, H, W) and amounts (n, 1, 1, 1), before clipping."""
