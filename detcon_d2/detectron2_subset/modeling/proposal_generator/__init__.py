"""Region proposals; public names of ``detectron2.modeling.proposal_generator``."""

from ...missing import missing_name
from .build import PROPOSAL_GENERATOR_REGISTRY, build_proposal_generator
from .rpn import RPN, RPN_HEAD_REGISTRY, StandardRPNHead, build_rpn_head

__all__ = ["PROPOSAL_GENERATOR_REGISTRY", "RPN", "RPN_HEAD_REGISTRY", "StandardRPNHead", "build_proposal_generator", "build_rpn_head"]

__getattr__ = missing_name(__name__)
