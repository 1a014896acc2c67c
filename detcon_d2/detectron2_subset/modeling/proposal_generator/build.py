"""The registry of proposal generators."""

from torch import nn

from ...config import CfgNode
from ...layers import ShapeSpec
from ...utils.registry import Registry

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")
PROPOSAL_GENERATOR_REGISTRY.__doc__ = "Called as ``X(cfg, input_shape: dict[str, ShapeSpec])``; named by MODEL.PROPOSAL_GENERATOR.NAME."


def build_proposal_generator(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module | None:
    """The generator ``MODEL.PROPOSAL_GENERATOR.NAME``, None for "PrecomputedProposals". KeyError for an unknown name."""
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    return None if name == "PrecomputedProposals" else PROPOSAL_GENERATOR_REGISTRY.get(name)(cfg, input_shape)
