"""Convolutions with the norms of a fresh initialisation, for fine-tuning at usual learning rates; the features stay the same."""

import math
from collections.abc import Mapping

import torch

from detcon_d2.checkpoint.convert.spec import BackboneSpec, convolutions

_EPS = 1e-5
"""Of every BatchNorm of the backbone."""


def rescale(tensors: Mapping[str, torch.Tensor], spec: BackboneSpec) -> tuple[dict[str, torch.Tensor], str]:
    """Give every convolution the norm that it has on average after a fresh initialisation, and its BatchNorm the statistics that fit.

    A BatchNorm makes the output independent of the norm of the weights before it, but a step of gradient descent turns the weights by an
    angle that falls with the square of their norm (van Laarhoven 2017, "L2 Regularization versus Batch and Weight Normalization"). Weights
    that pretraining with large rates or LARS has made long hardly move at the rates of fine-tuning.

    Args:
        tensors: the backbone by Detectron2's names without a prefix.
        spec: what they are.

    Returns:
        The new tensors in the order of the old ones, and a line that says what changed. A convolution of zeros is left alone.
    """
    result, factors = dict(tensors), {}
    for conv in convolutions(spec):
        weight = tensors[f"{conv.name}.weight"].double()
        norm = weight.norm().item()
        if norm == 0:
            continue
        # Detectron2's c2_msra_fill: a variance of 2 / fan_out, so a norm of sqrt(numel 2 / fan_out), which is that of twice the inputs.
        fresh = math.sqrt(2 * conv.shape[1])
        factor = factors[conv.name] = fresh / norm
        result[f"{conv.name}.weight"] = (weight * factor).float()
        result[f"{conv.name}.norm.running_mean"] = (tensors[f"{conv.name}.norm.running_mean"].double() * factor).float()
        variance, scale = tensors[f"{conv.name}.norm.running_var"].double(), tensors[f"{conv.name}.norm.weight"].double()
        # factor^2 (variance + eps) is what variance + eps has to be. Where eps alone is larger, gamma takes the rest.
        new = (factor**2 * (variance + _EPS) - _EPS).clamp(min=0)
        result[f"{conv.name}.norm.running_var"] = new.float()
        result[f"{conv.name}.norm.weight"] = (scale * ((new + _EPS) / (variance + _EPS)).sqrt() / factor).float()
    largest = min(factors, key=factors.get)
    return result, (
        f"rescaled {len(factors)} convolutions to the norms of a fresh initialisation: the longest was {largest}, "
        f"{1 / factors[largest]:.1f} times as long"
    )
