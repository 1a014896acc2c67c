"""The registry of whole models."""

import torch
from fvcore.common.registry import Registry
from torch import nn

from ...config import CfgNode

META_ARCH_REGISTRY = Registry("META_ARCH")
META_ARCH_REGISTRY.__doc__ = "Whole models, each called as ``model(cfg)`` and an ``nn.Module``; named by ``MODEL.META_ARCHITECTURE``."


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the model ``cfg.MODEL.META_ARCHITECTURE`` on ``cfg.MODEL.DEVICE``, without loading weights. KeyError for an unknown name."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))
