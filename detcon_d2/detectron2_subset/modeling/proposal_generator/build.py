"""The registry of proposal generators."""

from fvcore.common.registry import Registry
from torch import nn

from ...config import CfgNode
from ...layers import ShapeSpec

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")
PROPOSAL_GENERATOR_REGISTRY.__doc__ = "Called as ``X(cfg, input_shape: dict[str, ShapeSpec])``; named by MODEL.PROPOSAL_GENERATOR.NAME."


def build_proposal_generator(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the generator ``MODEL.PROPOSAL_GENERATOR.NAME``. KeyError for an unknown name ("PrecomputedProposals" is one)."""
    return PROPOSAL_GENERATOR_REGISTRY.get(cfg.MODEL.PROPOSAL_GENERATOR.NAME)(cfg, input_shape)
