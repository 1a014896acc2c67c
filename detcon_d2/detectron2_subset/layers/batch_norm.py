"""Normalisation layers. Letters: N images, C channels, map H x W."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn.distributed import differentiable_all_reduce
from torch import nn
from torchvision.models.convnext import LayerNorm2d

from ..utils import comm

NormName = str | Callable[[int], nn.Module] | None
_STATISTICS = ("running_mean", "running_var")


class FrozenBatchNorm2d(nn.Module):
    """BatchNorm with constant statistics and a constant affine part: (x - running_mean) / sqrt(running_var + eps) * weight + bias.

    All four are buffers of shape (C,). They start as the identity (running_var = 1 - eps). Backbones that were converted from Caffe2 have
    weight and bias only: if a state dict of version 1 (or without version) has no statistics, mean 0 and variance 1 are loaded.
    """

    _version = 3

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        """``num_features``: C; ``eps`` is added to the variance."""
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.full((num_features,), 1.0 - eps))
        # convert_frozen_batchnorm sets this, so that a frozen layer has the same state dict keys as the layer that it replaces.
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the same shape and dtype."""
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps)
        # With a constant scale and shift, autograd does not keep x.
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, *args: Any) -> None:
        if (local_metadata.get("version") or 1) < 2:
            for name, value in zip(_STATISTICS, (0.0, 1.0)):
                state_dict.setdefault(prefix + name, torch.full_like(getattr(self, name), value))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Return a frozen copy of a BatchNorm2d or SyncBatchNorm. Any other module is returned itself, with its children converted."""
        if not isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            for name, child in module.named_children():
                setattr(module, name, cls.convert_frozen_batchnorm(child))
            return module
        frozen = cls(module.num_features, module.eps).to(module.running_mean.device).train(module.training)
        for name in (*_STATISTICS, "num_batches_tracked", *(("weight", "bias") if module.affine else ())):
            setattr(frozen, name, getattr(module, name).detach().clone())
        return frozen


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are averages over all processes; gradients flow through the average.

    ``stats_mode`` "": every process has the same weight (each must have images); "N": a process is weighted by its number of images
    (some may have none). The running variance is updated with the biased variance. In evaluation mode and in a single process it is a
    plain BatchNorm2d.
    """

    def __init__(self, *args: Any, stats_mode: str = "", **kwargs: Any) -> None:
        """Other arguments are those of ``nn.BatchNorm2d``."""
        super().__init__(*args, **kwargs)
        assert stats_mode in ("", "N"), f"stats_mode is '' or 'N', found {stats_mode!r}."
        self._stats_mode = stats_mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the same shape and dtype; computed at least in float32."""
        if not self.training or comm.get_world_size() == 1:
            return super().forward(x)
        assert len(x) > 0 or self._stats_mode == "N", 'Without images in a process, use stats_mode "N".'
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean, variance, images = self._synchronised_moments(values)
        # A batch without images changes no statistics.
        momentum = self.momentum * images.detach().clamp(max=1.0)
        self.running_mean += momentum * (mean.detach() - self.running_mean)
        self.running_var += momentum * (variance.detach() - self.running_var)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    def _synchronised_moments(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return mean (C,), biased variance (C,) and total weight () over all processes."""
        weight = float(len(values)) if self._stats_mode == "N" else 1.0
        pixels = max(values[:, 0].numel(), 1)
        moments = torch.cat([values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3))]) / pixels
        total = differentiable_all_reduce(torch.cat([moments * weight, moments.new_tensor([weight])]))
        mean, square = (total[:-1] / total[-1].clamp(min=1.0)).chunk(2)
        return mean, square - mean.square(), total[-1]


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "naiveSyncBN": NaiveSyncBatchNorm,
    "naiveSyncBN_N": partial(NaiveSyncBatchNorm, stats_mode="N"),
    "GN": partial(nn.GroupNorm, 32),
    "LN": partial(LayerNorm2d, eps=1e-6),
}


def get_norm(norm: NormName, out_channels: int) -> nn.Module | None:
    """Return the layer that a config names, for ``out_channels`` channels; None for "" or None.

    "GN" has 32 groups; "LN" normalises over channels; a callable is called with the number of channels. KeyError for another name.
    """
    if not norm:
        return None
    return (_NORMS[norm] if isinstance(norm, str) else norm)(out_channels)
