"""From the samples of a batch to normalised images on the model's device."""

from collections.abc import Callable, Mapping
from itertools import groupby

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.modeling.color_bins import rgb_to_lab
from detcon_d2.modeling.metrics import constant_views
from detcon_d2.views.photometric_device import apply_photometric

LIGHTNESS_SCALE = 2.55
"""Lightness 0..100 to 0..255."""


class SampleInputs(nn.Module):
    """A model that takes samples: pixel statistics, memory format, the photometric augmentation that the loader left to the device, and the
    iterations at which metrics are logged."""

    def __init__(
        self,
        *,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        channels_last: bool = True,
        photometric_on_device: bool = False,
        metrics_period: int = 20,
    ):
        """
        Args:
            pixel_mean, pixel_std: RGB statistics in 0..255.
            channels_last: memory format of the images.
            photometric_on_device: whether the loader leaves colours and blur to the model (DETCON.AUG.WHERE).
            metrics_period: iterations between two computations of metrics.
        """
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.photometric_on_device = photometric_on_device
        self.metrics_period = metrics_period
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean, dtype=torch.float32).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std, dtype=torch.float32).view(-1, 1, 1), False)

    def images_of(self, batch: list[dict]) -> list[torch.Tensor]:
        """The normalised images of each view: (N images, 3, H, W) float32 on the model's device.

        At the iterations of the log, the share of nearly constant views is logged; with DETCON.MICRO_BATCH, that of the last part.
        """
        images = []
        for i in range(len(batch[0]["views"])):
            pixels = self.stacked(batch, i, "image")
            if self.photometric_on_device:
                pixels = apply_photometric(pixels, [sample["views"][i]["photometric"] for sample in batch])
            images.append(self.normalise(pixels).contiguous(memory_format=self.memory_format))
        if self._metrics_due():
            shares = [constant_views(view, self.pixel_std.flatten()) for view in images]
            self._log({"learning/constant_views": torch.stack(shares).mean()})
        return images

    def stacked(self, batch: list[dict], view: int, key: str) -> torch.Tensor:
        """An entry of one view of all samples, on the model's device."""
        return self.to_device(joined([sample["views"][view][key] for sample in batch]))

    def flipped(self, batch: list[dict], view: int, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes x1, y1, x2, y2 (N, 4) of a view of all samples, on the model's device; x1 and x2 are exchanged where it is flipped."""
        flip = torch.tensor([sample["views"][view]["flip"] for sample in batch])
        return self.to_device(torch.where(flip[:, None], boxes[:, [2, 1, 0, 3]], boxes))

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the model's device, without waiting for earlier work there."""
        return tensor.to(self.pixel_mean.device, non_blocking=True)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels to the encoder's range. In training, float images are in [0, 1]; all others are in 0..255, as in Detectron2."""
        images = images.float() * 255.0 if self.training and images.is_floating_point() else images.float()
        return (images - self.pixel_mean) / self.pixel_std

    def to_lab(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, 3, H, W) in CIE Lab, float32."""
        return rgb_to_lab(((images * self.pixel_std + self.pixel_mean) / 255).clamp(0, 1))

    def gray_images(self, lightness: torch.Tensor) -> torch.Tensor:
        """Lightness of Lab (N, 1, H, W) as normalised images of three equal channels: the encoder stays an RGB encoder, and no colour leaks
        into its input."""
        pixels = LIGHTNESS_SCALE * lightness.expand(-1, 3, -1, -1)
        return ((pixels - self.pixel_mean) / self.pixel_std).contiguous(memory_format=self.memory_format)

    def _metrics_due(self) -> bool:
        # Together with the writers, which write after iterations period - 1, 2 * period - 1, ...
        return (d2.get_event_storage().iter + 1) % self.metrics_period == 0

    @staticmethod
    def _log(scalars: Mapping[str, torch.Tensor]) -> None:
        for name, value in scalars.items():
            d2.get_event_storage().put_scalar(name, float(value), smoothing_hint=False)


def by_resolution(network: Callable[[torch.Tensor], torch.Tensor], views: list[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs for views of any sizes, one forward pass for each run of views of the same size: they share BatchNorm's statistics.

    Args:
        network: maps (k * N, 3, H, W) to a tensor whose first axis is the same.
        views: (N, 3, H, W) each.
    """
    outputs = []
    for _, run in groupby(views, lambda view: view.shape):
        same = list(run)
        outputs += network(torch.cat(same)).chunk(len(same))
    return outputs


def joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    """torch.stack, without a copy if the tensors are consecutive parts of one: the loader gives parts of a pinned tensor, and a copy would
    not be pinned. The result must not be changed in place."""
    base = tensors[0]._base
    if base is not None and all(tensor._base is base and tensor.shape == base.shape[1:] for tensor in tensors):
        first, rest = divmod(tensors[0].storage_offset() - base.storage_offset(), max(base.stride(0), 1))
        offsets = [base.storage_offset() + (first + number) * base.stride(0) for number in range(len(tensors))]
        if not rest and [tensor.storage_offset() for tensor in tensors] == offsets:
            return base[first : first + len(tensors)]
    return torch.stack(tensors)
